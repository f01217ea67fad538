"""Regions: where teacher and student are compared, at annotated objects inside the grid."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from detectors.asynchronous import constant
from detectors.geometry.boxes import Boxes
from detectors.geometry.grid import BevGrid
from detectors.heads.center import CenterHeadSpec
from detectors.heads.center_loss import center_targets
from detectors.outputs import DetectorOutput
from distill.maps import TeacherMaps

Level = Literal["low", "high"]
"""The BEV map: the input of the BEV neck (low) or its output (high)."""

Region = Literal["map", "active", "gaussian", "foreground"]
"""Cells that are compared: all alike, those where the teacher's map is not zero, those around a centre by a Gaussian,
or those of enlarged boxes."""

PointOrder = Literal["on_box", "swapped"]
"""Where a box's nine points are read: on the box, or, as UniDistill's released code does, with the map's row and column
exchanged, which is its mirror image across the diagonal."""


def level_map(output: DetectorOutput, level: Level) -> Float[Tensor, "b c y x"]:
    """The BEV map of a level."""
    return output.bev_low if level == "low" else output.bev_high


def level_channels(spec: TeacherMaps, level: Level) -> int:
    """The width of that map; ValueError where a teacher has none, or one whose cells are not the grid's."""
    if level == "low" and spec.low_per_cell > 1:
        cells = f"{spec.low_per_cell} x {spec.low_per_cell} cells"
        raise ValueError(f"the low-level map of pillars has {cells} in one of the grid; set level: high")
    channels = spec.low_channels if level == "low" else spec.high_channels
    if channels is None:
        raise ValueError(f"the teacher's folder of maps has no bev_{level}")
    return channels


def boxes_inside(boxes: Boxes, is_box: Bool[Tensor, "b k"], grid: BevGrid) -> Bool[Tensor, "b k"]:
    """The boxes whose centre is inside the grid; the others, and padding, count nowhere."""
    return is_box & grid.contains(boxes.center[..., :2])


def count_inside(boxes: Boxes, is_box: Bool[Tensor, "b k"], grid: BevGrid) -> Float[Tensor, "1"]:
    """The number of those boxes."""
    return boxes_inside(boxes, is_box, grid).sum().float()[None]


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
    sampled = F.grid_sample(_SameLayout.apply(maps.to(dtype)), where.to(dtype), mode="bilinear", align_corners=False)
    return rearrange(sampled, "b c k p -> b k p c")


class _SameLayout(torch.autograd.Function):
    """The identity, whose gradient is laid out in memory as the maps are, channels last.

    That of `grid_sample` never is, and to add it to others of the same maps would take five times as long.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        """The maps."""
        ctx.is_last = maps.is_contiguous(memory_format=torch.channels_last)
        return maps.view_as(maps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The gradient."""
        return gradient.contiguous(memory_format=torch.channels_last) if ctx.is_last else gradient


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


def scaled_foreground(boxes: Boxes, is_box: Bool[Tensor, "b k"], grid: BevGrid) -> Float[Tensor, "b y x"]:
    """1 in the cells whose centre is in the upright rectangle around a box inside the grid, enlarged; 0 elsewhere.

    The scaled masks of CRKD (CVPR 2024): each side grows by a quarter of its length for an object 20 to 30 m away and
    by half from 30 m on, and by a quarter where it moves along that axis at 0.3 to 0.8 m/s and by half from 0.8 m/s on;
    both together by at least 0.5 m and at most 4 m. An unknown velocity is none.
    """
    cos, sin = boxes.yaw.cos().abs(), boxes.yaw.sin().abs()
    length, width = boxes.size[..., 0], boxes.size[..., 1]
    side = torch.stack([length * cos + width * sin, length * sin + width * cos], dim=-1)
    far = boxes.center[..., :2].norm(dim=-1, keepdim=True)
    share = _steps(far, 20.0, 30.0) + _steps(boxes.velocity.nan_to_num(0.0).abs(), 0.3, 0.8)
    half = (side + (share * side).clamp(min=0.5, max=4.0)) / 2
    columns, rows = (
        torch.arange(count, device=side.device, dtype=side.dtype) + 0.5 for count in (grid.columns, grid.rows)
    )
    origin = constant((grid.x_range[0], grid.y_range[0]), side)
    inside = boxes_inside(boxes, is_box, grid)
    across = (columns * grid.cell + origin[0] - boxes.center[..., 0, None]).abs() <= half[..., 0, None]
    down = (rows * grid.cell + origin[1] - boxes.center[..., 1, None]).abs() <= half[..., 1, None]
    hit = rearrange(down & inside[..., None], "b k y -> b k y 1") & rearrange(across, "b k x -> b k 1 x")
    return hit.any(dim=1).to(side.dtype)


def _steps(values: Float[Tensor, "*s"], first: float, second: float) -> Float[Tensor, "*s"]:
    """0, from the first step on a quarter, from the second on a half."""
    return 0.25 * (values >= first) + 0.25 * (values >= second)


def mean_over_region(values: Float[Tensor, "b y x"], region: Float[Tensor, "b y x"]) -> Float[Tensor, ""]:
    """Mean over cells weighted by a region; 0 of an empty one."""
    # Of every region some cell has weight 1, so only an empty one sums to less.
    return (region * values).sum() / region.sum().clamp(min=1)


def mean_over_boxes(values: Float[Tensor, "b k"], is_object: Bool[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Mean over the objects of the whole batch, however they are spread over its samples; 0 if there is none."""
    return values.masked_fill(~is_object, 0).sum() / is_object.sum().clamp(min=1)
