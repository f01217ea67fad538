"""Changes specs by dotted keys, as in a study's `set`."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from detectors.names import unknown
from detectors.spec import Spec

S = TypeVar("S", bound=Spec)


def changed(spec: S, changes: Mapping[str, Any]) -> S:
    """A spec in which some fields are otherwise, checked as if it had been written so.

    A mapping changes what it names of the part that is there; where there is none, it is the whole part.

    Raises:
        ValueError: A key or a value is wrong; the message names the key and what is allowed.
    """
    if not changes:
        return spec
    content = _all_fields(spec)
    for key, value in changes.items():
        _put(content, key, key.split("."), value)
    try:
        return type(spec).model_validate(content)
    except ValidationError as error:
        raise ValueError("; ".join(_message(content, each) for each in error.errors())) from error


def _all_fields(value: Any) -> Any:
    """A spec and those in it as dicts, with the fields that an identity leaves out."""
    if isinstance(value, Spec):
        names = {name: field.alias or name for name, field in type(value).model_fields.items()}
        return {written: _all_fields(getattr(value, name)) for name, written in names.items()}
    return value


def _put(content: dict[str, Any], key: str, path: list[str], value: Any) -> None:
    *parents, last = path
    part = content
    for depth, name in enumerate(path):
        if name not in part:
            at = ".".join(path[:depth])
            raise ValueError(f"{key}: {unknown('key', name, part)}" + (f" (in {at})" if at else ""))
        if depth < len(parents):
            if not isinstance(part[name], dict):
                at = ".".join(path[: depth + 1])
                raise ValueError(f"{key}: {at} is {part[name]!r} and has no fields; set the whole of it")
            part = part[name]
    if isinstance(value, Mapping) and isinstance(part[last], dict):
        for name, each in value.items():
            _put(content, f"{key}.{name}", [*path, *str(name).split(".")], each)
    else:
        part[last] = value


def _message(content: dict[str, Any], error: ErrorDetails) -> str:
    """A mistake of a value; pydantic's own location names the kind of a union's part, which is no key."""
    path: list[str] = []
    part: Any = content
    *parents, last = [name for name in error["loc"] if not str(name).startswith("(")] or [""]
    for name in parents:
        if isinstance(part, dict) and name not in part:
            continue
        path.append(str(name))
        part = part[name] if isinstance(part, dict) else None
    text = error["msg"].removeprefix("Value error, ")
    return f"{'.'.join([*path, str(last)])}: {text}" if error["loc"] else text
