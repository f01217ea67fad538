"""Overlap of boxes seen from above: the intersection over union of rotated rectangles."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from detectors.geometry.boxes import FOOTPRINT, Boxes, points_of_boxes

# A nanometre: what is closer together than this lies on one line.
_ON_THE_LINE = 1e-9


def bev_iou(boxes: Boxes, others: Boxes) -> Float[Tensor, "*b k m"]:
    """Area that two boxes' footprints share over the area they cover together, for every pair; 0 where both are empty.

    The border of the shared area is made of each rectangle's sides as far as they run inside the other; the sum over
    these pieces of half the cross product of their ends is the area (Green's theorem). Computed in float64, as two
    sides on one line must count once.
    """
    here = rearrange(_corners(boxes), "... k corner xy -> ... k 1 corner xy")
    there = rearrange(_corners(others), "... m corner xy -> ... 1 m corner xy")
    # From a corner of the pair: cross products of places far from the origin would cancel out.
    origin = here[..., :1, :]
    here, there = (here - origin).expand_as(here + there), (there - origin).expand_as(here + there)
    shared = (_area_along(here, there, -_ON_THE_LINE) + _area_along(there, here, _ON_THE_LINE)).clamp(min=0)
    area, other = (b.size[..., :2].double().prod(dim=-1) for b in (boxes, others))
    together = rearrange(area, "... k -> ... k 1") + rearrange(other, "... m -> ... 1 m") - shared
    return torch.where(together > 0, shared / together, 0.0).to(boxes.center.dtype)


def _corners(boxes: Boxes) -> Float[Tensor, "*b k 4 2"]:
    """Counter-clockwise, float64."""
    return points_of_boxes(boxes.center[..., :2].double(), boxes.size[..., :2].double(), boxes.yaw.double(), FOOTPRINT)


def _area_along(
    polygon: Float[Tensor, "*pair 4 2"], other: Float[Tensor, "*pair 4 2"], margin: float
) -> Float[Tensor, "*pair"]:
    """Half the cross products of the ends of one's sides, as far as they lie `margin` or more within the other."""
    start = rearrange(polygon, "... side xy -> ... side 1 xy")
    step = rearrange(polygon.roll(-1, dims=-2) - polygon, "... side xy -> ... side 1 xy")
    corner = rearrange(other, "... edge xy -> ... 1 edge xy")
    edge = rearrange(other.roll(-1, dims=-2) - other, "... edge xy -> ... 1 edge xy")
    edge = edge / edge.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    # A side that runs against the edge it lies on has the other rectangle behind it: the two touch and share nothing.
    margin_here = torch.where((edge * step).sum(dim=-1) > 0, margin, _ON_THE_LINE)
    # Distance to the left of each of the other's edges, along the side from its start (0) to its end (1).
    distance, slope = _cross(edge, start - corner) - margin_here, _cross(edge, step)
    crossing = -distance / torch.where(slope == 0, 1.0, slope)
    # Of two sides on one line exactly one counts: where the margin decides, the one that need not be within it.
    outside = (distance < 0) | ((distance == 0) & (margin_here > 0))
    enters = torch.where(slope > 0, crossing, torch.where((slope == 0) & outside, torch.inf, -torch.inf))
    leaves = torch.where(slope < 0, crossing, torch.inf)
    begin, end = enters.amax(dim=-1).clamp(min=0), leaves.amin(dim=-1).clamp(max=1)
    start, step = start[..., 0, :], step[..., 0, :]
    # cross(start + begin step, start + end step) = (end - begin) cross(start, step)
    return ((end - begin).clamp(min=0) * _cross(start, step)).sum(dim=-1) / 2


def _cross(a: Float[Tensor, "*#any 2"], b: Float[Tensor, "*#any 2"]) -> Float[Tensor, "*any"]:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
