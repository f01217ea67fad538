"""Spec: the frozen and strict pydantic model of every configurable part of the project."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, GetCoreSchemaHandler, model_serializer
from pydantic_core import CoreSchema, PydanticKnownError

Several = TypeVar("Several", bound=Sequence[Any])


def each_once(values: Several) -> Several:
    """The values, for a field's ``AfterValidator``; ValueError where two of them are equal."""
    if len(set(values)) < len(values):
        raise ValueError(f"{list(values)} contain a value twice")
    return values


def by_kind(default: str) -> Discriminator:
    """Which spec of a union a value is: the one whose `Tag` is its ``kind`` in brackets, or this one where it has none.

    A part that had one kind only was written without it. Brackets tell a tag from a key in the place of a mistake.
    """

    def tag(value: Any) -> str:
        return f"({value.get('kind', default) if isinstance(value, dict) else getattr(value, 'kind', None)})"

    return Discriminator(tag)


def _want_numbers(schema: Any) -> None:
    """Let only numbers be numbers in a schema, in place, for other parts of it refer to it."""
    if isinstance(schema, dict):
        if schema.get("type") == "float":
            schema["strict"] = True
        elif schema.get("type") == "int":
            # Not strict: 8.0 is 8.
            plain = dict(schema)
            schema.clear()
            schema.update(type="function-before", function=_NUMBERS_ONLY, schema=plain)
        elif schema.get("function") != _NUMBERS_ONLY:
            for key, part in schema.items():
                if key not in ("default", "metadata", "serialization"):
                    _want_numbers(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _want_numbers(part)


def _no_look_alike(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise PydanticKnownError("int_type")
    return value


_NUMBERS_ONLY = {"type": "no-info", "function": _no_look_alike}


class Spec(BaseModel):
    """Immutable and closed: an unknown key is an error, and equal specs have equal JSON, so they can be hashed."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True, use_attribute_docstrings=True
    )
    later: ClassVar[frozenset[str]] = frozenset()
    """Fields that were added after results had been stored. At their defaults they are left out of what is written, so
    that what was trained before keeps its identity and is not trained again."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The model's own schema, in which a number is a number: pydantic would take true for 1, and "0-2" for -2."""
        schema = handler(source)
        _want_numbers(handler.resolve_ref_schema(schema))
        return schema

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        fields = type(self).model_fields
        old = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in serialize(self).items() if name not in old}
