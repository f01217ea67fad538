"""CenterPoint head: class heatmaps and box maps from the high-level BEV map, and their decoding to Boxes."""

import math
from typing import Literal, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from detectors.conv_block import conv_norm_relu
from detectors.geometry.boxes import CLASSES, Boxes
from detectors.geometry.grid import BevGrid
from detectors.geometry.overlap import bev_iou
from detectors.outputs import HeadOutput
from detectors.spec import Spec

TASK_GROUPS = (
    ("car",),
    ("truck", "construction_vehicle"),
    ("bus", "trailer"),
    ("barrier",),
    ("motorcycle", "bicycle"),
    ("pedestrian", "traffic_cone"),
)
"""Classes of similar shape share a box map; boxes of two groups may stand in one cell."""

TASK_OF_CLASS = tuple(next(task for task, group in enumerate(TASK_GROUPS) if name in group) for name in CLASSES)
"""Index into TASK_GROUPS of each of CLASSES."""

BOX_CODE = (
    "column",
    "row",
    "height",
    "log_length",
    "log_width",
    "log_height",
    "sin_yaw",
    "cos_yaw",
    "velocity_x",
    "velocity_y",
)
"""Channels of a box map: where in its cell the centre lies (in cells, from the lower corner), the centre's z (m),
logarithms of the size (m), heading, velocity (m/s)."""

# A box of 55 m; an untrained size map would overflow.
_MAX_LOG_SIZE = 4.0


class CenterHeadSpec(Spec):
    """The head, its targets, its decoding, and the weights that an objective gives to its two losses."""

    width: int
    heatmap_weight: float = 1.0
    box_weight: float = 0.25
    prior: float = Field(default=0.05, gt=0, lt=1)
    """Probability of every class in every cell before training."""
    min_overlap: float = Field(default=0.1, gt=0, lt=1)
    """Intersection over union that a box keeps when it is as far off as its target's Gaussian reaches."""
    min_radius_cells: int = Field(default=2, ge=0)
    score_threshold: float = 0.03
    max_boxes: int = Field(default=300, ge=1, le=500)
    """Peaks taken from a sample over all classes; the nuScenes evaluation accepts 500."""
    nms: Literal["circle", "rotated"] = "circle"
    """Whether non-maximum suppression compares the distance of centres or the overlap of boxes."""
    nms_radius: tuple[float, ...] = (2.0, 3.0, 3.0, 3.0, 3.0, 0.4, 0.9, 0.9, 0.4, 1.0)
    """Radii for centres, metres, in the order of CLASSES. Of two closer centres of a class, the better one stays."""
    nms_overlap: float = Field(default=0.2, gt=0, lt=1)
    """Largest BEV overlap of two boxes (intersection over union). Of two boxes above it, the better one stays."""

    @model_validator(mode="after")
    def _one_radius_a_class(self) -> Self:
        if len(self.nms_radius) != len(CLASSES):
            raise ValueError(f"nms_radius has {len(self.nms_radius)} entries for the {len(CLASSES)} classes {CLASSES}")
        return self

    def build(self, in_channels: int) -> "CenterHead":
        """The head with fresh weights."""
        return CenterHead(self, in_channels)


class CenterHead(nn.Module):
    """One shared convolution, then one for the heatmaps and one for the box maps of all task groups."""

    def __init__(self, spec: CenterHeadSpec, in_channels: int) -> None:
        super().__init__()
        self.shared = conv_norm_relu(in_channels, spec.width)
        self.heatmap = nn.Conv2d(spec.width, len(CLASSES), 1)
        self.boxes = nn.Conv2d(spec.width, len(TASK_GROUPS) * len(BOX_CODE), 1)
        # Without it the first steps only unlearn millions of false positives.
        nn.init.constant_(self.heatmap.bias, math.log(spec.prior / (1 - spec.prior)))  # type: ignore[arg-type]

    def forward(self, bev_high: Float[Tensor, "b c_high y x"]) -> HeadOutput:
        """Raw maps: logits and codes."""
        # Both at once, pixel by pixel: on a CPU half the time of two convolutions.
        pixels = rearrange(self.shared(bev_high), "b c y x -> b y x c")
        weight, bias = (torch.cat([getattr(self.heatmap, n), getattr(self.boxes, n)]) for n in ("weight", "bias"))
        maps = rearrange(F.linear(pixels, weight.flatten(1), bias), "b y x c -> b c y x")
        heatmap, boxes = maps.split([self.heatmap.out_channels, self.boxes.out_channels], dim=1)
        return HeadOutput(heatmap, rearrange(boxes, "b (tasks code) y x -> b tasks code y x", code=len(BOX_CODE)))


def gather_codes(
    boxes: Float[Tensor, "b tasks code y x"],
    task: Int[Tensor, "b k"],
    row: Int[Tensor, "b k"],
    column: Int[Tensor, "b k"],
) -> Float[Tensor, "b k code"]:
    """The box codes at k places of each sample."""
    _, _, codes, rows, columns = boxes.shape
    code = torch.arange(codes, device=boxes.device)
    index = rearrange(task, "b k -> b k 1") * codes + code
    index = (index * rows + rearrange(row, "b k -> b k 1")) * columns + rearrange(column, "b k -> b k 1")
    # One gather on the flat maps: its gradient is a plain scatter, that of indexing with several tensors is slow.
    flat = rearrange(boxes, "b tasks code y x -> b (tasks code y x)")
    picked = flat.gather(1, rearrange(index, "b k code -> b (k code)"))
    return rearrange(picked, "b (k code) -> b k code", code=codes)


def encode_boxes(boxes: Boxes, grid: BevGrid) -> Float[Tensor, "*b k code"]:
    """BOX_CODE of each box, relative to the cell that holds its centre; NaN where the velocity is."""
    within_cell = grid.cells_from_metres(boxes.center[..., :2]) % 1
    heading = torch.stack([boxes.yaw.sin(), boxes.yaw.cos()], dim=-1)
    return torch.cat([within_cell, boxes.center[..., 2:], boxes.size.log(), heading, boxes.velocity], dim=-1)


def decode_boxes(
    code: Float[Tensor, "*b k code"],
    row: Int[Tensor, "*b k"],
    column: Int[Tensor, "*b k"],
    label: Int[Tensor, "*b k"],
    score: Float[Tensor, "*b k"],
    grid: BevGrid,
) -> Boxes:
    """The boxes that these codes describe in these cells."""
    within_cell, z, log_size, heading, velocity = code.split([2, 1, 3, 2, 2], dim=-1)
    sin, cos = heading.unbind(dim=-1)
    return Boxes(
        center=torch.cat([grid.metres_from_cells(torch.stack([column, row], dim=-1) + within_cell), z], dim=-1),
        size=log_size.clamp(max=_MAX_LOG_SIZE).exp(),
        yaw=torch.atan2(sin, cos),
        velocity=velocity,
        label=label,
        score=score,
    )


def peaks(heatmap: Float[Tensor, "b classes y x"], most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probability, class, row and column, ``[b, k]`` each, of the cells that no neighbour exceeds; the best first."""
    probability = heatmap.float().sigmoid()
    is_peak = probability == F.max_pool2d(probability, kernel_size=3, stride=1, padding=1)
    flat = rearrange(probability * is_peak, "b classes y x -> b (classes y x)")
    score, index = flat.topk(min(most, flat.shape[1]), dim=1)
    label, row, column = torch.unravel_index(index, heatmap.shape[1:])
    return score, label, row, column


@torch.no_grad()
def decode(output: HeadOutput, spec: CenterHeadSpec, grid: BevGrid) -> list[Boxes]:
    """The boxes at the peaks of each sample's heatmaps, best first, duplicates removed."""
    score, label, row, column = peaks(output.heatmap, spec.max_boxes)
    code = gather_codes(output.boxes.float(), label.new_tensor(TASK_OF_CLASS)[label], row, column)
    boxes = decode_boxes(code, row, column, label, score, grid)
    match spec.nms:
        case "circle":
            rival = within_radius(boxes.center[..., :2], score.new_tensor(spec.nms_radius)[label])
        case "rotated":
            rival = bev_iou(boxes, boxes) > spec.nms_overlap
    keep = suppress(rival, label, score > spec.score_threshold)
    return [boxes[sample][keep[sample]] for sample in range(len(keep))]


def within_radius(center: Float[Tensor, "b k 2"], radius: Float[Tensor, "b k"]) -> Bool[Tensor, "b k k"]:
    """Which boxes (last axis) have their centre less than a box's radius (metres) away from its own; none at 0."""
    distance = torch.cdist(center, center, compute_mode="donot_use_mm_for_euclid_dist")
    return distance < rearrange(radius, "b k -> b k 1")


def suppress(
    rival: Bool[Tensor, "b k k"], label: Int[Tensor, "b k"], candidate: Bool[Tensor, "b k"]
) -> Bool[Tensor, "b k"]:
    """Non-maximum suppression: which candidates stay if each that stays removes its worse rivals of its class.

    Args:
        rival: Whether a box (second axis) would remove another (last axis).
        label: In the order of the boxes, best first.
        candidate: False for what must neither stay nor suppress.
    """
    k = label.shape[1]
    same = rearrange(label, "b k -> b k 1") == rearrange(label, "b k -> b 1 k")
    better = torch.ones(k, k, dtype=torch.bool, device=label.device).triu(diagonal=1)
    removes = rival & same & better & rearrange(candidate, "b k -> b k 1")
    keep = candidate
    # Round i settles all boxes that at most i others in a chain decide about: the greedy answer, without its loop.
    for _ in range(k):
        survivors = candidate & ~(removes & rearrange(keep, "b k -> b k 1")).any(dim=1)
        if torch.equal(survivors, keep):
            break
        keep = survivors
    return keep
