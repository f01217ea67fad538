"""CenterPoint head: class heatmaps and box maps from the high-level BEV map, and the code of a box in these maps."""

import math
from typing import Literal, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor, nn

from detectors.asynchronous import constant
from detectors.conv_block import conv_norm_relu
from detectors.geometry.boxes import CLASSES, Boxes
from detectors.geometry.grid import BevGrid
from detectors.outputs import HeadOutput
from detectors.precision import unrounded
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

CODE_WEIGHTS = tuple(0.2 if name.startswith("velocity") else 1.0 for name in BOX_CODE)
"""Of the box loss, as in CenterPoint: velocities are metres a second and noisy; at full weight they would rule it."""

# A box of 55 m; an untrained size map would overflow.
_MAX_LOG_SIZE = 4.0

BRANCHES = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
"""Channels of the maps of which a task's box map is made, in the order of BOX_CODE; CenterPoint's names of them."""

Suppression = Literal["circle", "rotated"]
"""Whether non-maximum suppression compares the distance of centres or the overlap of boxes."""


class TaskDecodingSpec(Spec):
    """CenterPoint's decoding, task by task; a tuple has an entry for each of TASK_GROUPS."""

    score_threshold: float = Field(default=0.1, ge=0, lt=1)
    """Boxes that score less are no candidates."""
    iou_power: float = Field(default=0.0, ge=0, le=1)
    """Candidates are ordered by score^(1 - p) IoU^p, with the IoU that the head predicts; their score stays."""
    before: int = Field(default=1000, ge=1)
    """Candidates of a task, the best ones."""
    after: int = Field(default=83, ge=1)
    """Boxes of a task after non-maximum suppression, the best ones."""
    nms: tuple[Suppression, ...] = ("rotated", "rotated", "rotated", "rotated", "rotated", "rotated")
    """Boxes of all classes of a task suppress one another."""
    radius: tuple[NonNegativeFloat, ...] = (2.0, 12**0.5, 10**0.5, 1.0, 0.85**0.5, 0.175**0.5)
    """Radii of "circle", metres. The published ones are 4, 12, 10, 1, 0.85 and 0.175, which the published code
    compares with a squared distance (mmdetection3d's and CenterPoint's circle_nms)."""
    overlap: tuple[float, ...] = (0.2,) * len(TASK_GROUPS)
    """Largest overlaps of "rotated"."""
    scale: tuple[float, ...] = (1.0,) * len(CLASSES)
    """By what a box's length and width are multiplied while overlaps are computed (BEVDet's Scale-NMS), in the order
    of CLASSES: small objects that do not overlap their duplicates grow, long ones that overlap neighbours shrink."""

    @model_validator(mode="after")
    def _one_entry_each(self) -> Self:
        tasks = len(TASK_GROUPS)
        for name, count in (("nms", tasks), ("radius", tasks), ("overlap", tasks), ("scale", len(CLASSES))):
            if len(getattr(self, name)) != count:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries; {count} are needed")
        return self


class CenterHeadSpec(Spec):
    """The head, its targets, its decoding, and the weights that an objective gives to its losses."""

    later = frozenset(
        {
            "box_width",
            "branches",
            "bias",
            "iou",
            "targets",
            "average",
            "code_weights",
            "learned_weights",
            "overlap_weight",
            "decoding",
        }
    )

    width: int
    box_width: PositiveInt | None = None
    """Channels of a convolution of the box maps' own, beside the heatmaps' with `width`; None: they share that one.
    "joint" only."""
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
    nms: Suppression = "circle"
    nms_radius: tuple[float, ...] = (2.0, 3.0, 3.0, 3.0, 3.0, 0.4, 0.9, 0.9, 0.4, 1.0)
    """Radii for centres, metres, in the order of CLASSES. Of two closer centres of a class, the better one stays."""
    nms_overlap: float = Field(default=0.2, gt=0, lt=1)
    """Largest BEV overlap of two boxes (intersection over union). Of two boxes above it, the better one stays."""

    branches: Literal["joint", "separate"] = "joint"
    """One 1x1 convolution for all maps, or two 3x3 convolutions for each map of each task (CenterPoint)."""
    bias: bool = False
    """Whether convolutions before a batch norm have a bias, as in det3d's and UniDistill's heads; it does nothing."""
    iou: bool = False
    """Whether each task also predicts the overlap of its boxes with the objects (UniDistill); "separate" only."""
    targets: Literal["gaussian", "nearest", "gaussian_nearest"] = "gaussian"
    """CenterPoint's: Gaussians around centres, whose cells learn the boxes; or UniDistill's: the nine nearest cells of
    each box are positive, and learn it; or CenterPoint's heatmaps, and boxes that UniDistill's cells learn."""
    average: Literal["batch", "task"] = "batch"
    """Losses are averaged over all objects of a batch, or over those of each task and then added up (CenterPoint)."""
    code_weights: tuple[NonNegativeFloat, ...] = CODE_WEIGHTS
    """Weights of the box loss in the order of BOX_CODE."""
    learned_weights: bool = False
    """Whether the losses of heatmaps, boxes and IoU are weighed by parameters, L / (2 s^2) + log(1 + s^2) (UniDistill);
    the other weights are then best left at 1."""
    overlap_weight: NonNegativeFloat = 0.0
    """Of 1 - IoU3D, which counts for a task once its box loss is below 1 (UniDistill)."""
    decoding: TaskDecodingSpec | None = None
    """How boxes are read off the maps task by task; without it, by the fields above, class by class."""

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of each term of `DetectionLoss`."""
        weights = {"heatmap": self.heatmap_weight, "boxes": self.box_weight}
        if self.iou:
            weights["iou"] = 1.0
        if self.overlap_weight:
            weights["overlap"] = self.overlap_weight
        return weights

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if len(self.nms_radius) != len(CLASSES):
            raise ValueError(f"nms_radius has {len(self.nms_radius)} entries for the {len(CLASSES)} classes {CLASSES}")
        if len(self.code_weights) != len(BOX_CODE):
            raise ValueError(f"code_weights has {len(self.code_weights)} entries for the {len(BOX_CODE)} of {BOX_CODE}")
        if self.box_width is not None and self.branches != "joint":
            raise ValueError('box_width needs branches: "joint"; "separate" ones have convolutions of their own')
        if self.iou and self.branches != "separate":
            raise ValueError('iou needs branches: "separate"')
        if self.average == "batch" and (self.iou or self.overlap_weight or self.learned_weights):
            raise ValueError('iou, overlap_weight and learned_weights need average: "task"')
        if self.learned_weights and self.branches != "separate":
            raise ValueError('learned_weights needs branches: "separate"')
        if self.decoding is not None and self.decoding.iou_power and not self.iou:
            raise ValueError(f"decoding.iou_power is {self.decoding.iou_power}, but the head has no iou")
        return self

    def build(self, in_channels: int) -> "CenterHead | TaskHeads":
        """The head with fresh weights."""
        return CenterHead(self, in_channels) if self.branches == "joint" else TaskHeads(self, in_channels)


class CenterHead(nn.Module):
    """One shared convolution, or two, then one for the heatmaps and one for the box maps of all task groups.

    It computes in float32 at least, also under autocast: rounded to 8 bits, the two best cells of an object often score
    the same, and both become boxes.
    """

    def __init__(self, spec: CenterHeadSpec, in_channels: int) -> None:
        super().__init__()
        self.shared = conv_norm_relu(in_channels, spec.width)
        self.box_features = None if spec.box_width is None else conv_norm_relu(in_channels, spec.box_width)
        self.loss_weights: nn.Parameter | None = None
        self.heatmap = nn.Conv2d(spec.width, len(CLASSES), 1)
        self.boxes = nn.Conv2d(spec.box_width or spec.width, len(TASK_GROUPS) * len(BOX_CODE), 1)
        # Without it the first steps only unlearn millions of false positives.
        nn.init.constant_(self.heatmap.bias, math.log(spec.prior / (1 - spec.prior)))  # type: ignore[arg-type]

    def forward(self, bev_high: Float[Tensor, "b c_high y x"]) -> HeadOutput:
        """Raw maps: logits and codes."""
        with unrounded(bev_high):
            return self._maps(bev_high.to(self.heatmap.weight.dtype))

    def _maps(self, bev_high: Float[Tensor, "b c_high y x"]) -> HeadOutput:
        if self.box_features is not None:
            codes = self.boxes(self.box_features(bev_high))
            return HeadOutput(self.heatmap(self.shared(bev_high)), _by_task(codes))
        # Both at once, pixel by pixel: on a CPU half the time of two convolutions.
        pixels = rearrange(self.shared(bev_high), "b c y x -> b y x c")
        weight, bias = (torch.cat([getattr(self.heatmap, n), getattr(self.boxes, n)]) for n in ("weight", "bias"))
        maps = rearrange(F.linear(pixels, weight.flatten(1), bias), "b y x c -> b c y x")
        heatmap, boxes = maps.split([self.heatmap.out_channels, self.boxes.out_channels], dim=1)
        return HeadOutput(heatmap, _by_task(boxes))


def _by_task(codes: Float[Tensor, "b channels y x"]) -> Float[Tensor, "b tasks code y x"]:
    return rearrange(codes, "b (tasks code) y x -> b tasks code y x", code=len(BOX_CODE))


LEARNED_WEIGHTS = len(BOX_CODE) + 2
"""UniDistill has so many parameters for the weights of its three losses; only the first three do anything."""


class TaskHeads(nn.Module):
    """One shared convolution, then for each task a branch of two 3x3 convolutions for each of its maps.

    It computes in float32 at least, as `CenterHead` does.
    """

    def __init__(self, spec: CenterHeadSpec, in_channels: int) -> None:
        super().__init__()
        width = spec.width
        self.shared = conv_norm_relu(in_channels, width, bias=spec.bias)
        # CenterPoint's names of branches; BRANCHES come in the order of the box code.
        others = BRANCHES | ({"iou": 1} if spec.iou else {})
        self.tasks = nn.ModuleList()
        for group in TASK_GROUPS:
            branches = {"heatmap": len(group), **others}
            self.tasks.append(nn.ModuleDict({name: _branch(width, n, spec.bias) for name, n in branches.items()}))
        for task in self.tasks:
            nn.init.constant_(task["heatmap"][-1].bias, math.log(spec.prior / (1 - spec.prior)))  # type: ignore[index]
        self.loss_weights = nn.Parameter(torch.ones(LEARNED_WEIGHTS)) if spec.learned_weights else None
        # Of each class, where its channel is among those of all tasks.
        listed = [name for group in TASK_GROUPS for name in group]
        self.order = tuple(listed.index(name) for name in CLASSES)

    def forward(self, bev_high: Float[Tensor, "b c_high y x"]) -> HeadOutput:
        """Raw maps: logits, codes and, where the head has them, overlaps."""
        with unrounded(bev_high):
            features = self.shared(bev_high.to(self.shared[0].weight.dtype))  # type: ignore[arg-type]
            maps = [{name: branch(features) for name, branch in task.items()} for task in self.tasks]  # type: ignore[operator]
        heatmap = torch.cat([task["heatmap"] for task in maps], dim=1)[:, constant(self.order, bev_high, torch.long)]
        boxes = torch.stack([torch.cat([task[name] for name in BRANCHES], dim=1) for task in maps], dim=1)
        iou = torch.cat([task["iou"] for task in maps], dim=1) if "iou" in maps[0] else None
        return HeadOutput(heatmap, boxes, iou)


def _branch(width: int, outputs: int, bias: bool) -> nn.Sequential:
    return nn.Sequential(*conv_norm_relu(width, width, bias=bias), nn.Conv2d(width, outputs, 3, padding=1))


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
