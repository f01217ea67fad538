"""Spec: the frozen, strict pydantic model that every configurable part of the project is described by."""

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """Immutable and closed: an unknown key is an error, and equal specs have equal JSON, so they can be hashed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
