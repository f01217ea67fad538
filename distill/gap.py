"""Gap: how far the student's features are from the teacher's, place by place, and what both are divided by before."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Norm = Literal["l1", "l2"]
"""Absolute or squared difference."""

Distance = Norm | Literal["cosine"]
"""Or one minus the cosine between the two vectors of a place."""

Normaliser = Literal["none", "teacher", "channels"]
"""What features are divided by: nothing, the size of the teacher's at the same place, or, channel by channel and for
each model by itself, their standard deviation over all places, after the mean."""

SMALLEST = 1e-3
"""A vector's norm, or a channel's deviation, below which it is no longer scaled up."""
SILENT = 0.1
"""The share of a teacher's mean size that its size at a place counts at least."""


def gap(student: Tensor, teacher: Tensor, norm: Norm) -> Tensor:
    """Element by element."""
    difference = student - teacher
    return difference.abs() if norm == "l1" else difference**2


def feature_gap(
    student: Float[Tensor, "..."],
    teacher: Float[Tensor, "..."],
    region: Float[Tensor, "..."],
    dim: int,
    distance: Distance = "l1",
    normalise: Normaliser = "none",
) -> Float[Tensor, "..."]:
    """Gap of each channel at each place, or, of a cosine, of each place, with an axis of one channel.

    Args:
        student: Features.
        teacher: Of the same shape; taken as constants.
        region: Weight of each place, without the axis of the channels. No other place enters a mean.
        dim: The axis of the channels.
        distance: How the two are compared.
        normalise: What both are divided by before.
    """
    teacher = teacher.detach()
    if normalise != "none" or distance == "cosine":
        # Quotients and sums over a whole map.
        student, teacher = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (student, teacher))
    weights = region.unsqueeze(dim)
    match normalise:
        case "teacher":
            size = teacher.square().mean(dim, keepdim=True).sqrt()
            usual = (weights * size).sum() / weights.sum().clamp(min=1)
            size = size.clamp(min=SMALLEST).maximum(SILENT * usual)
            student, teacher = student / size, teacher / size
        case "channels":
            student, teacher = _standardised(student, weights, dim), _standardised(teacher, weights, dim)
    if distance != "cosine":
        return gap(student, teacher, distance)
    # Half the squared distance of the units: one minus their cosine, and nothing where both vectors are zero.
    student, teacher = (F.normalize(each, dim=dim, eps=SMALLEST) for each in (student, teacher))
    return gap(student, teacher, "l2").sum(dim, keepdim=True) / 2


def _standardised(features: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Each channel with mean 0 and deviation 1 over the weighted places."""
    places = [axis for axis in range(features.dim()) if axis != dim % features.dim()]
    total = weights.sum().clamp(min=1)
    centred = features - (weights * features).sum(places, keepdim=True) / total
    variance = (weights * centred.square()).sum(places, keepdim=True) / total
    return centred / (variance + SMALLEST**2).sqrt()
