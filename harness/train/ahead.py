"""Moves batches to a GPU while it still computes the step before."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from detectors.batch import Batch, ImageBatch


def moved_ahead(batches: Iterable[Batch | ImageBatch], device: torch.device) -> Iterator[Batch | ImageBatch]:
    """The batches on a device.

    A GPU copies on a stream of its own. The host, which never waits for the step before, has the next batch ready while
    the GPU is still busy, so that copying costs no time of the step.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    copying = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copying):
            moved = batch.to(device)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        for tensor in tensors_of(moved):
            # Its memory belongs to the other stream, which must not write to it before the step has read it.
            tensor.record_stream(computing)
        yield moved


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors in a batch."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_of(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors_of(each)
