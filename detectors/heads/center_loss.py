"""CenterPoint training: targets, the focal loss of heatmaps, the L1 loss of boxes, and what UniDistill adds to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detectors.asynchronous import constant
from detectors.geometry.boxes import CLASSES, Boxes
from detectors.geometry.grid import BevGrid
from detectors.heads.center import (
    CODE_WEIGHTS,
    TASK_GROUPS,
    TASK_OF_CLASS,
    CenterHeadSpec,
    encode_boxes,
    gather_codes,
)
from detectors.heads.nearest_targets import nearest_cells
from detectors.heads.task_losses import iou_error, learned, of_tasks, overlap_loss
from detectors.outputs import HeadOutput
from detectors.shares import SAMPLES, Shares

_ALPHA = 0.25
"""Of UniDistill's focal loss: the weight of positive cells, and 1 less it that of the others."""
_TASK_MEMBERS = tuple(tuple(float(task == of_class) for task in range(len(TASK_GROUPS))) for of_class in TASK_OF_CLASS)
"""1 where a class (first axis) is of a task (second axis)."""


@dataclass(frozen=True)
class CenterTargets:
    """What the head should say about the annotations of a batch, in k cells of each sample."""

    heatmap: Float[Tensor, "b classes y x"]
    """1 in the cell of a centre, a Gaussian around it, the larger where two meet; or 1 in positive cells and 0 else."""
    code: Float[Tensor, "b k code"]
    """BOX_CODE of each cell's box; NaN where the annotation does not say."""
    task: Int[Tensor, "b k"]
    row: Int[Tensor, "b k"]
    column: Int[Tensor, "b k"]
    """Of each cell; 0 where ``is_target`` is false."""
    is_target: Bool[Tensor, "b k"]
    """A cell of a box, not of padding, and of one with its centre on the grid."""
    box: Int[Tensor, "b k"]
    """Which of the batch's boxes a cell is of."""


@dataclass(frozen=True)
class DetectionLoss:
    """The losses of a detector, without the weights that its spec gives them."""

    heatmap: Float[Tensor, ""]
    boxes: Float[Tensor, ""]
    iou: Float[Tensor, ""] | None = None
    """Of the predicted overlaps; None of a head that predicts none."""
    overlap: Float[Tensor, ""] | None = None
    """1 - IoU3D; None of a head that does not weigh it."""
    lidar_depth: Float[Tensor, ""] | None = None
    """Of the camera's depths; None of a detector whose camera does not weigh it."""

    @property
    def terms(self) -> dict[str, Float[Tensor, ""]]:
        """Those there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def center_targets(boxes: Boxes, is_box: Bool[Tensor, "b k"], spec: CenterHeadSpec, grid: BevGrid) -> CenterTargets:
    """Targets of a padded batch of annotations."""
    place = grid.cells_from_metres(boxes.center[..., :2])
    column, row = place.floor().long().unbind(dim=-1)
    is_target = is_box & grid.contains(boxes.center[..., :2])
    row, column = row * is_target, column * is_target
    task = constant(TASK_OF_CLASS, boxes.label)[boxes.label]
    cells = (grid.rows, grid.columns)
    code = encode_boxes(boxes, grid)

    heatmap = None
    if spec.targets != "nearest":
        radius = _radius(boxes, is_target, spec, grid)
        heatmap = draw_centers(row, column, radius, boxes.label, is_target, cells)
    if spec.targets == "gaussian":
        box = torch.arange(row.shape[1], device=row.device).expand_as(row)
    else:
        box, row, column, is_target = nearest_cells(place, task, is_target, cells)
        label, task = boxes.label.gather(1, box), task.gather(1, box)
        place, code = (each.gather(1, repeat(box, "b k -> b k c", c=each.shape[2])) for each in (place, code))
        code = torch.cat([place - torch.stack([column, row], dim=-1), code[..., 2:]], dim=-1)
    if heatmap is None:
        heatmap = draw_cells(row, column, label, is_target, cells, place.dtype)
    code = torch.where(is_target[..., None], code, torch.nan)
    return CenterTargets(heatmap, code, task, row, column, is_target, box)


def center_bumps(
    boxes: Boxes, is_box: Bool[Tensor, "b k"], spec: CenterHeadSpec, grid: BevGrid
) -> Float[Tensor, "b k y x"]:
    """The Gaussian around each centre by itself; zero for padding and for a box with its centre outside of the grid."""
    column, row = grid.cells_from_metres(boxes.center[..., :2]).floor().long().unbind(dim=-1)
    is_target = is_box & grid.contains(boxes.center[..., :2])
    radius = _radius(boxes, is_target, spec, grid)
    return _bumps(row * is_target, column * is_target, radius, is_target, (grid.rows, grid.columns))


def _radius(boxes: Boxes, is_target: Bool[Tensor, "b k"], spec: CenterHeadSpec, grid: BevGrid) -> Float[Tensor, "b k"]:
    """Radius of each Gaussian in cells."""
    extent = torch.where(is_target[..., None], boxes.size[..., :2] / grid.cell, 1.0)
    return gaussian_radius(extent, spec.min_overlap).floor().clamp(min=spec.min_radius_cells)


def draw_centers(
    row: Int[Tensor, "b k"],
    column: Int[Tensor, "b k"],
    radius: Float[Tensor, "b k"],
    label: Int[Tensor, "b k"],
    is_target: Bool[Tensor, "b k"],
    cells: tuple[int, int],
) -> Float[Tensor, "b classes y x"]:
    """Class heatmaps of so many rows and columns: 1 in each target's cell, a Gaussian within its radius in cells."""
    flat = rearrange(_bumps(row, column, radius, is_target, cells), "b k y x -> b k (y x)")
    channel = repeat(label, "b k -> b k cells", cells=flat.shape[-1])
    empty = flat.new_zeros(len(flat), len(CLASSES), flat.shape[-1])
    return rearrange(empty.scatter_reduce(1, channel, flat, "amax"), "b classes (y x) -> b classes y x", y=cells[0])


def draw_cells(
    row: Int[Tensor, "b k"],
    column: Int[Tensor, "b k"],
    label: Int[Tensor, "b k"],
    is_target: Bool[Tensor, "b k"],
    cells: tuple[int, int],
    dtype: torch.dtype,
) -> Float[Tensor, "b classes y x"]:
    """Class heatmaps of so many rows and columns: 1 in each target's cell, 0 elsewhere."""
    rows, columns = cells
    empty = torch.zeros(len(row), len(CLASSES) * rows * columns, dtype=dtype, device=row.device)
    index = (label * rows + row) * columns + column
    flat = empty.scatter_reduce(1, index, is_target.to(dtype), "amax")
    return rearrange(flat, "b (classes y x) -> b classes y x", y=rows, x=columns)


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


def _bumps(
    row: Int[Tensor, "b k"],
    column: Int[Tensor, "b k"],
    radius: Float[Tensor, "b k"],
    is_target: Bool[Tensor, "b k"],
    cells: tuple[int, int],
) -> Float[Tensor, "b k y x"]:
    """A separable Gaussian for each target, whose window of 2 radius + 1 cells spans six standard deviations."""
    deviation = (2 * radius + 1) / 6
    down = _bump(torch.arange(cells[0], device=row.device), row, radius, deviation)
    across = _bump(torch.arange(cells[1], device=row.device), column, radius, deviation)
    return rearrange(down * is_target[..., None], "b k y -> b k y 1") * rearrange(across, "b k x -> b k 1 x")


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
    output: HeadOutput,
    targets: CenterTargets,
    spec: CenterHeadSpec,
    grid: BevGrid,
    weights: Float[Tensor, " weights"] | None = None,
    confidence: Float[Tensor, "b k"] | None = None,
    beta: float = 0.0,
    shares: Shares | None = None,
) -> DetectionLoss:
    """The losses of a batch, in float32 at least, whatever the head computes in.

    Args:
        output: Of the head.
        targets: Of the batch.
        spec: Of the head.
        grid: Of the detector.
        weights: Learned ones of heatmap, boxes and IoU; without them none is applied.
        confidence: As for `box_loss`.
        beta: As for `box_loss`.
        shares: Of a part of a batch, those of `detection_counts` by the names of the losses, and that of its samples.
    """
    dtype = torch.promote_types(output.heatmap.dtype, torch.float32)
    predicted = gather_codes(output.boxes, targets.task, targets.row, targets.column).to(dtype)
    alpha = _ALPHA if spec.targets == "nearest" else None
    if spec.average == "batch":
        heatmap = focal_loss(output.heatmap.to(dtype), targets.heatmap, alpha)
        boxes = box_loss(predicted, targets.code, targets.is_target, confidence, beta, spec.code_weights)
        if shares is not None:
            heatmap, boxes = heatmap * shares["heatmap"].squeeze(), boxes * shares["boxes"].squeeze()
        return DetectionLoss(heatmap, boxes)

    member = _task_members(targets)
    errors = box_errors(predicted, targets.code, targets.is_target, confidence, beta, spec.code_weights)
    of_boxes = of_tasks(errors, member)
    costs = {"heatmap": focal_loss_of_tasks(output.heatmap.to(dtype), targets.heatmap, alpha), "boxes": of_boxes}
    target = targets.code.nan_to_num(0.0)
    overlap = None
    if spec.overlap_weight:
        sure = of_boxes.detach() < 1
        overlaps = of_tasks(overlap_loss(predicted, target, grid.cell), member) * sure
        overlap = (overlaps if shares is None else overlaps * shares["overlap"]).sum()
    if output.iou is not None:
        claimed = gather_codes(output.iou[:, :, None], targets.task, targets.row, targets.column).to(dtype)
        costs["iou"] = of_tasks(iou_error(claimed[..., 0], predicted, target, grid.cell), member)
    if shares is not None:
        costs = {name: cost * shares[name] for name, cost in costs.items()}
    if weights is not None:
        share = 1.0 if shares is None else shares[SAMPLES]
        costs = {
            name: learned(cost, weight, share) for (name, cost), weight in zip(costs.items(), weights, strict=False)
        }
    return DetectionLoss(**{name: cost.sum() for name, cost in costs.items()}, overlap=overlap)


def detection_counts(targets: CenterTargets, spec: CenterHeadSpec) -> dict[str, Float[Tensor, " means"]]:
    """What `detection_loss` divides by: centres and boxes of the batch, or of each of TASK_GROUPS, by loss."""
    centers = reduce((targets.heatmap == 1).float(), "b classes y x -> classes", "sum")
    if spec.average == "batch":
        return {"heatmap": centers.sum()[None], "boxes": targets.is_target.sum().float()[None]}
    boxes = _task_members(targets).sum(dim=(0, 1)).float()
    member = F.one_hot(torch.tensor(TASK_OF_CLASS, device=centers.device)).to(centers)
    others = {"iou": spec.iou, "overlap": spec.overlap_weight > 0}
    return {"heatmap": centers @ member, "boxes": boxes} | {name: boxes for name, there in others.items() if there}


def _task_members(targets: CenterTargets) -> Bool[Tensor, "b k tasks"]:
    """Which task each target belongs to; what is no target, to none."""
    tasks = torch.arange(len(TASK_GROUPS), device=targets.task.device)
    return (targets.task[..., None] == tasks) & targets.is_target[..., None]


def focal_loss(
    logits: Float[Tensor, "b classes y x"], target: Float[Tensor, "b classes y x"], alpha: float | None = None
) -> Float[Tensor, ""]:
    """Penalty-reduced focal loss: summed over cells, divided by the number of centres (by 1 without any).

    The terms are those of `focal_terms`.
    """
    is_center = target == 1
    return focal_terms(logits, target, alpha).sum() / is_center.sum().clamp(min=1)


def focal_loss_of_tasks(
    logits: Float[Tensor, "b classes y x"], target: Float[Tensor, "b classes y x"], alpha: float | None = None
) -> Float[Tensor, " tasks"]:
    """The same of each of TASK_GROUPS on its own."""
    sums, centers = (
        reduce(values, "b classes y x -> classes", "sum").to(logits.dtype)
        for values in (focal_terms(logits, target, alpha), target == 1)
    )
    member = constant(_TASK_MEMBERS, logits)
    return (sums @ member) / (centers @ member).clamp(min=1)


def focal_terms(
    logits: Float[Tensor, "b classes y x"], target: Float[Tensor, "b classes y x"], alpha: float | None
) -> Float[Tensor, "b classes y x"]:
    """The focal loss of each cell.

    A cell counts as a centre where its target is 1; elsewhere a high target lowers the penalty (CornerNet, eq. 1, with
    alpha 2 and beta 4). With an `alpha` (RetinaNet's), centres have this weight and other cells 1 less it.
    """
    probability = logits.sigmoid()
    hit = (1 - probability) ** 2 * F.logsigmoid(logits)
    miss = (1 - target) ** 4 * probability**2 * F.logsigmoid(-logits)
    if alpha is not None:
        hit, miss = alpha * hit, (1 - alpha) * miss
    return -torch.where(target == 1, hit, miss)


def box_loss(
    predicted: Float[Tensor, "b k code"],
    target: Float[Tensor, "b k code"],
    is_target: Bool[Tensor, "b k"],
    confidence: Float[Tensor, "b k"] | None = None,
    beta: float = 0.0,
    code_weights: Sequence[float] = CODE_WEIGHTS,
) -> Float[Tensor, ""]:
    """Absolute error, summed over the code and divided by the number of boxes (by 1 without any); see `box_errors`."""
    errors = box_errors(predicted, target, is_target, confidence, beta, code_weights)
    return errors.sum() / is_target.sum().clamp(min=1)


def box_errors(
    predicted: Float[Tensor, "b k code"],
    target: Float[Tensor, "b k code"],
    is_target: Bool[Tensor, "b k"],
    confidence: Float[Tensor, "b k"] | None = None,
    beta: float = 0.0,
    code_weights: Sequence[float] = CODE_WEIGHTS,
) -> Float[Tensor, "b k"]:
    """Absolute error of each box, summed over the code; elements whose target is NaN cost nothing.

    Args:
        predicted: Codes at the boxes' centres.
        target: What they should be.
        is_target: The others cost nothing.
        confidence: Weight of each box's error; 1 if not given.
        beta: Below this an error is squared and divided by 2 beta, and above it less beta / 2 (smooth L1).
        code_weights: Weight of each element of the code.
    """
    known = is_target[..., None] & ~target.isnan()
    error = F.smooth_l1_loss(predicted, torch.where(known, target, predicted.detach()), reduction="none", beta=beta)
    per_box = reduce(error * constant(tuple(code_weights), error), "b k code -> b k", "sum")
    return per_box if confidence is None else per_box * confidence
