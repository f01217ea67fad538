"""Precision: what is computed in float32 at least, whatever the rest of a step is computed in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def unrounded(tensor: Tensor) -> AbstractContextManager:
    """Inside, autocast does not round what is computed where this tensor is; the meta device has no autocast."""
    kind = tensor.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)
