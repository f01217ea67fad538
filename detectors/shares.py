"""Shares: what a part of a batch contributes to the losses of all of it, so that a mean over the parts stays one mean.

A loss is a sum divided by a count: of objects, of cells, of features of known depth. Of a batch that is computed in
parts, on one device after another or on several at once, the sums have to be divided by the count of all parts. A
part's own loss times its share, the quotient of its count and that of all, is what it adds to the loss of the batch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

Counts = Mapping[str, Tensor]
"""By the name of a loss what it divides by, a number for each mean that it is the sum of."""
Shares = Mapping[str, Tensor]
"""Of the same names and shapes as `Counts`."""
SAMPLES = "samples"
"""The name of the number of samples: what a loss that names no count of its own is a mean over."""


def samples_count(samples: int, device: torch.device) -> Tensor:
    """The count SAMPLES of a batch, of the shape of other counts."""
    return torch.full((1,), float(samples), device=device)


def shares_of(part: Counts, every: Counts) -> dict[str, Tensor]:
    """The share of a part; counts below 1 divide like 1, as in the losses."""
    return {name: count.clamp(min=1) / every[name].clamp(min=1) for name, count in part.items()}
