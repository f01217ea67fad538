"""CenterPoint training: Gaussian targets, the focal loss of the heatmaps, the L1 loss of the boxes."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detectors.geometry.boxes import CLASSES, Boxes
from detectors.geometry.grid import BevGrid
from detectors.heads.center import BOX_CODE, TASK_OF_CLASS, CenterHeadSpec, encode_boxes, gather_codes
from detectors.outputs import HeadOutput

# As in CenterPoint: velocities are metres a second and noisy; at full weight they would rule the sum.
_CODE_WEIGHT = tuple(0.2 if name.startswith("velocity") else 1.0 for name in BOX_CODE)


@dataclass(frozen=True)
class CenterTargets:
    """What the head should say about the annotations of a batch."""

    heatmap: Float[Tensor, "b classes y x"]
    """1 in the cell of a centre, a Gaussian around it, the larger where two meet."""
    code: Float[Tensor, "b k code"]
    """BOX_CODE of each box; NaN where the annotation does not say."""
    task: Int[Tensor, "b k"]
    row: Int[Tensor, "b k"]
    column: Int[Tensor, "b k"]
    """Cell of each centre; 0 where ``is_target`` is false."""
    is_target: Bool[Tensor, "b k"]
    """A box, not padding, with its centre on the grid."""


@dataclass(frozen=True)
class DetectionLoss:
    """The two unweighted losses of a detector."""

    heatmap: Float[Tensor, ""]
    boxes: Float[Tensor, ""]


def center_targets(boxes: Boxes, is_box: Bool[Tensor, "b k"], spec: CenterHeadSpec, grid: BevGrid) -> CenterTargets:
    """Targets of a padded batch of annotations."""
    column, row = grid.cells_from_metres(boxes.center[..., :2]).floor().long().unbind(dim=-1)
    is_target = is_box & grid.contains(boxes.center[..., :2])
    row, column = row * is_target, column * is_target

    extent = torch.where(is_target[..., None], boxes.size[..., :2] / grid.cell, 1.0)
    radius = gaussian_radius(extent, spec.min_overlap).floor().clamp(min=spec.min_radius_cells)
    heatmap = draw_centers(row, column, radius, boxes.label, is_target, (grid.rows, grid.columns))
    return CenterTargets(
        heatmap=heatmap,
        code=torch.where(is_target[..., None], encode_boxes(boxes, grid), torch.nan),
        task=boxes.label.new_tensor(TASK_OF_CLASS)[boxes.label],
        row=row,
        column=column,
        is_target=is_target,
    )


def draw_centers(
    row: Int[Tensor, "b k"],
    column: Int[Tensor, "b k"],
    radius: Float[Tensor, "b k"],
    label: Int[Tensor, "b k"],
    is_target: Bool[Tensor, "b k"],
    cells: tuple[int, int],
) -> Float[Tensor, "b classes y x"]:
    """Class heatmaps of so many rows and columns: 1 in each target's cell, a Gaussian within its radius in cells."""
    # A separable Gaussian whose window of 2 radius + 1 cells spans six standard deviations.
    deviation = (2 * radius + 1) / 6
    down = _bump(torch.arange(cells[0], device=row.device), row, radius, deviation)
    across = _bump(torch.arange(cells[1], device=row.device), column, radius, deviation)
    bumps = rearrange(down * is_target[..., None], "b k y -> b k y 1") * rearrange(across, "b k x -> b k 1 x")

    flat = rearrange(bumps, "b k y x -> b k (y x)")
    channel = repeat(label, "b k -> b k cells", cells=flat.shape[-1])
    empty = flat.new_zeros(len(flat), len(CLASSES), flat.shape[-1])
    return rearrange(empty.scatter_reduce(1, channel, flat, "amax"), "b classes (y x) -> b classes y x", y=cells[0])


def gaussian_radius(extent: Float[Tensor, "*b 2"], min_overlap: float) -> Float[Tensor, "*b"]:
    """How many cells both corners of a box may move so that it keeps this intersection over union (CornerNet).

    The least of three cases, each a quadratic equation in the radius: both corners move the same way, both inwards,
    both outwards. (The widespread implementation errs in dividing by 2 where it should divide by 2a.)

    Args:
        extent: Length and width in cells.
        min_overlap: In (0, 1).
    """
    total, area = extent.sum(dim=-1), extent.prod(dim=-1)
    o = min_overlap
    shifted = (total - (total**2 - 4 * area * (1 - o) / (1 + o)).sqrt()) / 2
    shrunk = (total - (total**2 - 4 * area * (1 - o)).sqrt()) / 4
    grown = ((total**2 + 4 * area * (1 - o) / o).sqrt() - total) / 4
    return torch.minimum(torch.minimum(shifted, shrunk), grown)


def _bump(
    cells: Int[Tensor, " cells"],
    peak: Int[Tensor, "b k"],
    radius: Float[Tensor, "b k"],
    deviation: Float[Tensor, "b k"],
) -> Float[Tensor, "b k cells"]:
    """A Gaussian along one axis, exactly 1 at its peak and 0 beyond the radius."""
    distance = (cells - rearrange(peak, "b k -> b k 1")).abs()
    bump = torch.exp(-(distance**2) / (2 * rearrange(deviation, "b k -> b k 1") ** 2))
    return bump * (distance <= rearrange(radius, "b k -> b k 1"))


def detection_loss(
    output: HeadOutput, targets: CenterTargets, confidence: Float[Tensor, "b k"] | None = None, beta: float = 0.0
) -> DetectionLoss:
    """Both losses of a batch, in float32 at least, whatever the head computes in; the rest as for `box_loss`."""
    dtype = torch.promote_types(output.heatmap.dtype, torch.float32)
    predicted = gather_codes(output.boxes, targets.task, targets.row, targets.column).to(dtype)
    return DetectionLoss(
        heatmap=focal_loss(output.heatmap.to(dtype), targets.heatmap),
        boxes=box_loss(predicted, targets.code, targets.is_target, confidence, beta),
    )


def focal_loss(logits: Float[Tensor, "b classes y x"], target: Float[Tensor, "b classes y x"]) -> Float[Tensor, ""]:
    """Penalty-reduced focal loss: summed over cells, divided by the number of centres (by 1 without any).

    A cell counts as a centre where its target is 1; elsewhere a high target lowers the penalty (CornerNet, eq. 1, with
    alpha 2 and beta 4).
    """
    probability = logits.sigmoid()
    is_center = target == 1
    hit = (1 - probability) ** 2 * F.logsigmoid(logits)
    miss = (1 - target) ** 4 * probability**2 * F.logsigmoid(-logits)
    return -torch.where(is_center, hit, miss).sum() / is_center.sum().clamp(min=1)


def box_loss(
    predicted: Float[Tensor, "b k code"],
    target: Float[Tensor, "b k code"],
    is_target: Bool[Tensor, "b k"],
    confidence: Float[Tensor, "b k"] | None = None,
    beta: float = 0.0,
) -> Float[Tensor, ""]:
    """Absolute error, summed over the code and divided by the number of boxes (by 1 without any).

    Elements whose target is NaN cost nothing.

    Args:
        predicted: Codes at the boxes' centres.
        target: What they should be.
        is_target: The others cost nothing.
        confidence: Weight of each box's error; 1 if not given.
        beta: Below this an error is squared and divided by 2 beta, and above it less beta / 2 (smooth L1).
    """
    known = is_target[..., None] & ~target.isnan()
    error = F.smooth_l1_loss(predicted, torch.where(known, target, predicted.detach()), reduction="none", beta=beta)
    per_box = reduce(error * error.new_tensor(_CODE_WEIGHT), "b k code -> b k", "sum")
    if confidence is not None:
        per_box = per_box * confidence
    return per_box.sum() / is_target.sum().clamp(min=1)
