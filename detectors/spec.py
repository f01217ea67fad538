"""Spec: the frozen, strict pydantic model that every configurable part of the project is described by."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, model_serializer

Several = TypeVar("Several", bound=Sequence[Any])


def each_once(values: Several) -> Several:
    """The values, for a field's ``AfterValidator``; ValueError where two of them are equal."""
    if len(set(values)) < len(values):
        raise ValueError(f"{list(values)} name one twice")
    return values


class Spec(BaseModel):
    """Immutable and closed: an unknown key is an error, and equal specs have equal JSON, so they can be hashed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    later: ClassVar[frozenset[str]] = frozenset()
    """Fields that were added after results had been stored. At their defaults they are left out of what is written, so
    that what was trained before keeps its identity and is not trained again."""

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        fields = type(self).model_fields
        old = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in serialize(self).items() if name not in old}
