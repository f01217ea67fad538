"""Loads a StudySpec from YAML and --set overrides; errors name file, line, key and what is allowed."""

from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

from detectors.detector import DetectorSpec
from distill.loss import build_term
from distill.objective import GROUND, loss_class
from distill.warm_start import require_same_build
from harness.errors import InputError, mistake_text
from harness.study.papers import read_paper
from harness.study.spec import WARM_START, StudySpec
from harness.study.written import Location, Written, read_written


def load_study(file: Path, overrides: Iterable[str] = ()) -> StudySpec:
    """Read a study file and apply ``KEY=VALUE`` overrides (dotted key, YAML value) in order."""
    written = read_written(file, overrides)
    try:
        study = StudySpec.model_validate(written.content)
    except ValidationError as error:
        raise InputError(_message(written, error)) from error
    for name in study.losses:
        for path in study.paths if any(name in arm for arm in study.arms.values()) else ():
            try:
                study.loss(name, path)
            except ValidationError as error:
                model = loss_class(study.kind(name))
                raise InputError(_message(written, error, ("losses", name), model)) from error
            except ValueError as error:
                raise InputError(written.message(("losses", name, "weight"), str(error))) from error
    for number, path in enumerate(study.paths):
        _require_possible(study, path, written.place(("paths", number)))
    beside = [file.parent / paper for paper in study.report.papers]
    for paper in beside:
        read_paper(paper)
    return study.model_copy(update={"report": study.report.model_copy(update={"papers": tuple(beside)})})


def _require_possible(study: StudySpec, path: str, where: str) -> None:
    """Raise InputError for a path on whose models the losses of an arm are not defined."""
    ends = study.ends(path)
    student = study.students[ends.student].detector_spec
    taught_by = study.teachers[ends.teacher] if ends.teacher else None
    oracle = taught_by is not None and taught_by.oracle
    try:
        # An oracle has the ground and the head of whoever it teaches.
        teacher = student if oracle else None if taught_by is None else taught_by.looks
    except InputError as error:
        raise InputError(f"{where}: path {path}: teachers.{ends.teacher}.maps: {error}") from error
    differing = [] if teacher is None else [name for name in GROUND if getattr(teacher, name) != getattr(student, name)]
    if taught_by is not None and differing and not taught_by.resample:
        theirs, ours = (getattr(each, differing[0]) for each in (teacher, student))
        raise InputError(
            f"{where}: path {path}: teacher and student have different {GROUND[differing[0]]}: {theirs!r}, {ours!r}; "
            f"teachers.{ends.teacher}.resample: true brings the teacher's maps to the student's"
        )
    if isinstance(teacher, DetectorSpec):
        seen = teacher.inputs
        try:
            student.training_inputs.joined(seen.carried_by(student.inputs) if differing else seen)
        except ValueError as error:
            raise InputError(f"{where}: path {path}: teacher and student cannot share a batch: {error}") from error
    try:
        for name in dict.fromkeys(name for names in study.arms.values() for name in names):
            if oracle and (name == WARM_START or getattr(loss_class(study.kind(name)), "asks_features", False)):
                what = "weights to start with" if name == WARM_START else "BEV features to compare"
                raise ValueError(
                    f"teacher {ends.teacher!r} is an oracle, which has no {what}; allowed: response, output"
                )
            if name == WARM_START:
                if not isinstance(teacher, DetectorSpec) or differing:
                    # Its box maps would say of one frame what they learned of another.
                    what = "a folder of maps" if not differing else f"a detector with other {GROUND[differing[0]]}"
                    raise ValueError(f"a student cannot start with the weights of {what}")
                require_same_build(student, teacher)
            else:
                build_term(study.loss(name, path), student, teacher)
    except ValueError as error:
        raise InputError(f"{where}: path {path}, {name}: {error}") from error


def _message(
    written: Written,
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
        inside = getattr(each.get("ctx", {}).get("error"), "at", ())
        lines.append(_one(written, (*at, *loc), allowed, _text(each), inside))
    return "\n".join(lines)


def _text(mistake: Any) -> str:
    """What pydantic says of a mistake, or what to write where a list or keys are wanted and something else is given."""
    value = mistake["input"]
    if mistake["type"] == "tuple_type" and isinstance(value, str | int | float):
        more = (
            f", or [0-{value}] for several seeds" if mistake["loc"][-1:] == ("seeds",) and str(value).isdigit() else ""
        )
        return f"expected a list, such as [{value}]{more}"
    if mistake["type"] in ("model_type", "dict_type") and not isinstance(value, dict):
        return f"expected keys with values, such as {{key: value}}, instead of {value!r}"
    return mistake_text(mistake)


def _one(written: Written, loc: Location, allowed: Iterable[str], text: str, inside: Location) -> str:
    """One mistake; `allowed` are the keys that there are where one must not be; `inside` is that of a `MistakeAt`."""
    return written.unknown_key(loc, allowed) if allowed else written.message(loc, text, inside)


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
    return _itself(others[0]) if NoneType in get_args(model) and len(others) == 1 else model
