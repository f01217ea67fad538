"""YAML and --set overrides to a StudySpec; a mistake is one message with file, line, key and what is allowed."""

from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Tag, ValidationError

from distill.loss import build_term
from distill.objective import loss_class
from distill.warm_start import require_same_build
from harness.errors import InputError, unknown
from harness.study.papers import read_paper
from harness.study.spec import WARM_START, StudySpec
from harness.study.yaml_text import compose_yaml, read_yaml

Location = tuple[str | int, ...]


def load_study(file: Path, overrides: Iterable[str] = ()) -> StudySpec:
    """Read a study file and apply ``KEY=VALUE`` overrides (dotted key, YAML value) in order."""
    try:
        text = file.read_text()
    except (OSError, ValueError) as error:
        raise InputError(f"study {file} cannot be read: {error}") from error
    try:
        node = compose_yaml(text)
        content = read_yaml(text)
    except ValueError as error:
        raise InputError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} must be a mapping of keys such as {', '.join(StudySpec.model_fields)}")
    places = _places(node, file)
    for override in overrides:
        at = put(content, override)
        # What stood there and below it is no more.
        places = {place: where for place, where in places.items() if place[: len(at)] != at}
        places[at] = f"--set {override.partition('=')[0]}"
    try:
        study = StudySpec.model_validate(content)
    except ValidationError as error:
        raise InputError(_message(file, places, error)) from error
    for name in study.losses:
        for path in study.paths if any(name in arm for arm in study.arms.values()) else ():
            try:
                study.loss(name, path)
            except ValidationError as error:
                model = loss_class(study.kind(name))
                raise InputError(_message(file, places, error, ("losses", name), model)) from error
            except ValueError as error:
                where = next(
                    places[at] for at in (("losses", name, "weight"), ("losses", name), ("losses",)) if at in places
                )
                raise InputError(f"{where}: losses.{name}.weight: {error}") from error
    for path in study.paths:
        _require_possible(study, path)
    beside = [file.parent / paper for paper in study.report.papers]
    for paper in beside:
        read_paper(paper)
    return study.model_copy(update={"report": study.report.model_copy(update={"papers": tuple(beside)})})


def _require_possible(study: StudySpec, path: str) -> None:
    """Raise InputError for a path whose models cannot teach one another what the arms want."""
    ends = study.ends(path)
    student = study.students[ends.student].detector_spec
    teacher = study.teachers[ends.teacher].detector_spec if ends.teacher else None
    if teacher is not None and teacher.grid != student.grid:
        raise InputError(f"path {path}: teacher and student see different ground: {teacher.grid!r}, {student.grid!r}")
    try:
        student.inputs.joined(teacher.inputs if teacher else student.inputs)
    except ValueError as error:
        raise InputError(f"path {path}: teacher and student cannot share a batch: {error}") from error
    try:
        for name in dict.fromkeys(name for names in study.arms.values() for name in names):
            if name == WARM_START:
                assert teacher is not None, "the study's own check is for that"
                require_same_build(student, teacher)
            else:
                build_term(study.loss(name, path), student, teacher)
    except ValueError as error:
        raise InputError(f"path {path}, {name}: {error}") from error


def put(content: dict[str, Any], override: str) -> Location:
    """Set the value of a ``KEY=VALUE`` in the content of a study file; where that was."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override!r} is not KEY=VALUE, such as schedule.steps=100")
    *parents, last = key.split(".")
    at: Any = content
    for parent in parents:
        at = at.setdefault(parent, {}) if isinstance(at, dict) else at
    if not isinstance(at, dict):
        raise InputError(f"--set {key}: {'.'.join(parents)} is not a mapping in this study")
    try:
        at[last] = read_yaml(value)
    except ValueError as error:
        raise InputError(f"--set {key}: {value!r} is not a YAML value: {error}") from error
    return (*parents, last)


def _places(node: yaml.Node | None, file: Path, at: Location = ()) -> dict[Location, str]:
    """FILE:LINE of every key and item. A key written twice is refused: YAML would drop the first."""
    places: dict[Location, str] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, key.value)
            place = f"{file}:{key.start_mark.line + 1}"
            if here in places:
                raise InputError(f"{place}: key {key.value!r} is already given at {places[here]}")
            places[here] = place
            places |= _places(value, file, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            places[(*at, index)] = f"{file}:{value.start_mark.line + 1}"
            places |= _places(value, file, (*at, index))
    return places


def _message(
    file: Path,
    places: dict[Location, str],
    error: ValidationError,
    at: Location = (),
    model: type[BaseModel] = StudySpec,
) -> str:
    """All mistakes, one a line, each with the place of its key; `at` is where the validated model lies in the study."""
    lines = []
    for each in error.errors():
        allowed = _fields(model, each["loc"][:-1]) if each["type"] == "extra_forbidden" else ()
        # Which model of several it is, a tag in brackets says; nobody wrote that.
        loc = tuple(part for part in each["loc"] if not str(part).startswith(("(", "function-", "literal[")))
        lines.append(_one(file, places, (*at, *loc), allowed, each["msg"]))
    return "\n".join(lines)


def _one(file: Path, places: dict[Location, str], loc: Location, allowed: Iterable[str], text: str) -> str:
    """One mistake; `allowed` are the keys that there are where one is that must not be."""
    where = next((places[loc[:n]] for n in range(len(loc), 0, -1) if loc[:n] in places), str(file))
    key = ".".join(str(part) for part in loc)
    if allowed:
        parent = ".".join(str(part) for part in loc[:-1])
        return f"{where}: {unknown('key', str(loc[-1]), allowed)}" + (f" (in {parent})" if parent else "")
    return f"{where}: {key + ': ' if key else ''}{text.removeprefix('Value error, ')}"


def _fields(model: Any, loc: Location) -> Iterable[str]:
    """The keys that a model allows at a place in it."""
    for part in loc:
        if isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[str(part)].annotation
        elif get_origin(model) in (Union, UnionType):
            model = next(each for each in get_args(model) if _is_tagged(each, str(part)))
        else:  # dict[str, Model]: the key is the user's, the value is the model
            model = get_args(model)[1]
        model = _itself(model)
    return model.model_fields


def _is_tagged(model: Any, tag: str) -> bool:
    """Whether pydantic calls one of several models so: by an annotation, or by its own field `kind`."""
    kind = getattr(model, "model_fields", {}).get("kind")
    return Tag(tag) in getattr(model, "__metadata__", ()) or (kind is not None and kind.default == tag)


def _itself(model: Any) -> Any:
    """A model without what is annotated, and without the None that may be given instead."""
    if get_origin(model) is Annotated:
        return _itself(get_args(model)[0])
    others = [each for each in get_args(model) if each is not NoneType]
    return others[0] if NoneType in get_args(model) and len(others) == 1 else model
