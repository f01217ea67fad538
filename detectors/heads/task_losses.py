"""UniDistill's additions to CenterPoint's losses: the overlap of boxes, the prediction of it, and learned weights."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_LOG_SIZES = math.log(1e-3), math.log(30.0)
"""Bounds of a size, metres."""


def iou_error(
    iou: Float[Tensor, "b k"], predicted: Float[Tensor, "b k code"], target: Float[Tensor, "b k code"], cell: float
) -> Float[Tensor, "b k"]:
    """Absolute error of what the head says of its boxes' overlap, which is 2 IoU - 1.

    The overlap is that from above of boxes turned to the nearest axis (OpenPCDet's "nearest BEV IoU"), and no gradient
    goes through it.

    Args:
        iou: Raw.
        predicted: Codes in the same cells.
        target: What they should be.
        cell: Side of a cell, metres.
    """
    first, second = (_turned_to_an_axis(_extents(code.detach(), cell), code) for code in (predicted, target))
    overlap = _iou(first[:, :, :, :2], second[:, :, :, :2])
    return (iou - (2 * overlap - 1)).abs()


def overlap_loss(
    predicted: Float[Tensor, "b k code"], target: Float[Tensor, "b k code"], cell: float
) -> Float[Tensor, "b k"]:
    """1 - IoU3D of each box, as if both had a yaw of 0.

    UniDistill's code compares them so, too, but takes the height for the width and the width for the height.

    Args:
        predicted: Codes.
        target: What they should be, in the same cells.
        cell: Side of a cell, metres.
    """
    return 1 - _iou(_extents(predicted, cell), _extents(target, cell))


def learned(
    loss: Float[Tensor, " tasks"], weight: Float[Tensor, ""], share: float | Tensor = 1.0
) -> Float[Tensor, " tasks"]:
    """The loss of each task with a learned weight: L / (2 s^2) + log(1 + s^2).

    Args:
        loss: Of each task.
        weight: The parameter s.
        share: Of a part of a batch, the share of the second term, which the batch has once.
    """
    return loss / (2 * weight**2) + share * torch.log(1 + weight**2)


Extents = Float[Tensor, "b k two axes"]
"""Middle and size of a box along each axis, metres; the middle counts from the corner of its cell."""


def _extents(code: Float[Tensor, "b k code"], cell: float) -> Extents:
    middle = torch.cat([code[..., :2] * cell, code[..., 2:3]], dim=-1)
    return torch.stack([middle, code[..., 3:6].clamp(*_LOG_SIZES).exp()], dim=2)


def _turned_to_an_axis(extents: Extents, code: Float[Tensor, "b k code"]) -> Extents:
    """Length and width exchanged where the heading is nearer to y than to x."""
    sin, cos = code[..., 6].abs(), code[..., 7].abs()
    middle, size = extents.unbind(dim=2)
    length, width, height = size.unbind(dim=-1)
    across = sin > cos
    turned = torch.stack([torch.where(across, width, length), torch.where(across, length, width), height], dim=-1)
    return torch.stack([middle, turned], dim=2)


def _iou(first: Extents, second: Extents) -> Float[Tensor, "b k"]:
    """Intersection over union of boxes along the axes."""
    (middle, size), (middle_2, size_2) = first.unbind(dim=2), second.unbind(dim=2)
    high = torch.minimum(middle + size / 2, middle_2 + size_2 / 2)
    low = torch.maximum(middle - size / 2, middle_2 - size_2 / 2)
    # Each axis on its own: two negative ones would make a positive volume.
    shared = (high - low).clamp(min=0).prod(dim=-1)
    return shared / (size.prod(dim=-1) + size_2.prod(dim=-1) - shared)


def of_tasks(values: Float[Tensor, "b k"], member: Bool[Tensor, "b k tasks"]) -> Float[Tensor, " tasks"]:
    """Of each task the mean over its own rows; 0 without any."""
    return (values[..., None] * member).sum(dim=(0, 1)) / member.sum(dim=(0, 1)).clamp(min=1)
