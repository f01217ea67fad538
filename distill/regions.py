"""Regions: where teacher and student are compared, which is at the annotated objects inside the grid."""

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from detectors.detector import DetectorSpec
from detectors.geometry.boxes import Boxes
from detectors.geometry.grid import BevGrid
from detectors.heads.center import CenterHeadSpec
from detectors.heads.center_loss import center_targets
from detectors.outputs import DetectorOutput

Level = Literal["low", "high"]
"""Which BEV map: what enters the BEV neck, or what leaves it."""

PointOrder = Literal["on_box", "swapped"]
"""Where a box's nine points are read: on the box, or, as UniDistill's released code does, with the map's row and column
exchanged, which is its mirror image across the diagonal."""


def level_map(output: DetectorOutput, level: Level) -> Float[Tensor, "b c y x"]:
    """The BEV map of a level."""
    return output.bev_low if level == "low" else output.bev_high


def level_channels(spec: DetectorSpec, level: Level) -> int:
    """The width of that map."""
    return spec.low_channels if level == "low" else spec.high_channels


def boxes_inside(boxes: Boxes, is_box: Bool[Tensor, "b k"], grid: BevGrid) -> Bool[Tensor, "b k"]:
    """The boxes whose centre is inside the grid; the others, and padding, count nowhere."""
    column, row = grid.cells_from_metres(boxes.center[..., :2]).unbind(dim=-1)
    return is_box & (row >= 0) & (row < grid.rows) & (column >= 0) & (column < grid.columns)


def sample_keypoints(
    maps: Float[Tensor, "b c y x"], boxes: Boxes, grid: BevGrid, points: PointOrder = "on_box"
) -> Float[Tensor, "b k 9 c"]:
    """Read a BEV map at the nine keypoints of every box: bilinear between cell centres, zero beyond the map.

    Padding is read like a box; mask what comes back with ``boxes_inside``.
    """
    where = grid.sampling_from_metres(boxes.keypoints())
    if points == "swapped":
        where = where.flip(-1)
    # Under autocast the maps are half precision, in which a coordinate at the rim of 180 cells is off by 0.2 cells.
    dtype = torch.promote_types(maps.dtype, where.dtype)
    sampled = F.grid_sample(maps.to(dtype), where.to(dtype), mode="bilinear", align_corners=False)
    return rearrange(sampled, "b c k p -> b k p c")


def center_gaussians(
    boxes: Boxes, is_box: Bool[Tensor, "b k"], grid: BevGrid, min_overlap: float
) -> Float[Tensor, "b y x"]:
    """A Gaussian at every box inside the grid, of any class: 1 in the cell of its centre, the larger where two meet.

    Drawn as the targets of the head's heatmaps are, so the two cannot differ in where an object is.

    Args:
        boxes: Padded annotations.
        is_box: False where they are padding.
        grid: Ground that the mask covers.
        min_overlap: As in ``CenterHeadSpec``; the lower, the wider the Gaussian.
    """
    # Unlike the head's targets a small object gets no more than its own cell.
    drawing = CenterHeadSpec(width=1, min_overlap=min_overlap, min_radius_cells=0)
    return reduce(center_targets(boxes, is_box, drawing, grid).heatmap, "b classes y x -> b y x", "max")


def mean_over_boxes(values: Float[Tensor, "b k"], is_object: Bool[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Mean over the objects of the whole batch, however they are spread over its samples; 0 if there is none."""
    return values.masked_fill(~is_object, 0).sum() / is_object.sum().clamp(min=1)
