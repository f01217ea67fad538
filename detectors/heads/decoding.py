"""Decoding: the boxes that the maps of a CenterPoint head mean, class by class or task by task, duplicates removed."""

from dataclasses import fields, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detectors.asynchronous import constant, unravelled
from detectors.geometry.boxes import CLASSES, Boxes, pad_boxes
from detectors.geometry.grid import BevGrid
from detectors.geometry.overlap import bev_iou
from detectors.heads.center import (
    TASK_GROUPS,
    TASK_OF_CLASS,
    CenterHeadSpec,
    TaskDecodingSpec,
    decode_boxes,
    gather_codes,
)
from detectors.outputs import HeadOutput

_PAIRS = 1 << 16
"""Pairs of boxes whose overlap is computed at a time, for the sake of memory."""
ROUNDS = 16
"""Rounds of non-maximum suppression where nobody asks whether they have settled everything."""


@torch.no_grad()
def decode(output: HeadOutput, spec: CenterHeadSpec, grid: BevGrid) -> list[Boxes]:
    """The boxes of each sample, best first, duplicates removed."""
    if spec.decoding is None:
        boxes, keep = _decode_by_class(output, spec, grid)
        return [boxes[sample][keep[sample]] for sample in range(len(keep))]
    of_tasks = [_decode_task(output, task, spec.decoding, grid) for task in range(len(TASK_GROUPS))]
    return [_best([boxes[sample] for boxes in of_tasks], spec.max_boxes) for sample in range(len(output.heatmap))]


@torch.no_grad()
def decode_sure(
    output: HeadOutput, spec: CenterHeadSpec, grid: BevGrid, score_threshold: float
) -> tuple[Boxes, Bool[Tensor, "b k"]]:
    """The boxes of `decode` that score more, in a padded batch, and which of it they are.

    The host does not wait for a GPU, unless the head decodes task by task. Non-maximum suppression then ends after
    ROUNDS rounds. It is exact where no more boxes than that decide about each other in a chain; otherwise it may leave
    a duplicate at the end of the chain, or take one box too many.
    """
    if spec.decoding is not None or output.heatmap.device.type == "cpu":
        return pad_boxes([boxes[boxes.score > score_threshold] for boxes in decode(output, spec, grid)])
    boxes, keep = _decode_by_class(output, spec, grid, ROUNDS)
    return boxes, keep & (boxes.score > score_threshold)


def _decode_by_class(
    output: HeadOutput, spec: CenterHeadSpec, grid: BevGrid, rounds: int | None = None
) -> tuple[Boxes, Bool[Tensor, "b k"]]:
    """Boxes at the peaks of the heatmaps, best first, and which stay: those of one class suppress one another."""
    score, label, row, column = peaks(output.heatmap, spec.max_boxes)
    code = gather_codes(output.boxes.float(), constant(TASK_OF_CLASS, label)[label], row, column)
    boxes = decode_boxes(code, row, column, label, score, grid)
    match spec.nms:
        case "circle":
            rival = within_radius(boxes.center[..., :2], constant(spec.nms_radius, score)[label])
        case "rotated":
            rival = bev_iou(boxes, boxes) > spec.nms_overlap
    return boxes, suppress(rival, label, score > spec.score_threshold, rounds)


def _decode_task(output: HeadOutput, task: int, spec: TaskDecodingSpec, grid: BevGrid) -> list[Boxes]:
    """The boxes of one task in each sample, as in CenterPoint: in any cell, for it takes no peaks."""
    labels = tuple(CLASSES.index(name) for name in TASK_GROUPS[task])
    probability = torch.stack([output.heatmap[:, label] for label in labels], dim=1).float().sigmoid()
    flat = rearrange(probability, "b classes y x -> b (classes y x)")
    score, index = flat.topk(min(spec.before, flat.shape[1]), dim=1)
    which, row, column = unravelled(index, probability.shape[1:])
    of_task = torch.full_like(which, task)
    code, label = gather_codes(output.boxes.float(), of_task, row, column), constant(labels, which)[which]
    boxes = decode_boxes(code, row, column, label, score, grid)
    order = score
    if spec.iou_power and output.iou is not None:
        claimed = gather_codes(output.iou[:, :, None].float(), of_task, row, column)[..., 0]
        overlap = (claimed / 2 + 0.5).clamp(0, 1)
        order = score ** (1 - spec.iou_power) * overlap**spec.iou_power
    return [_suppressed(boxes[sample], order[sample], task, spec) for sample in range(len(score))]


def _suppressed(boxes: Boxes, order: Float[Tensor, " k"], task: int, spec: TaskDecodingSpec) -> Boxes:
    """Those of one task in one sample that stay, the first in order first."""
    sure = boxes.score > spec.score_threshold
    boxes = boxes[sure][order[sure].argsort(descending=True, stable=True)]
    center = boxes.center[:, :2]
    match spec.nms[task]:
        case "circle":
            rival = within_radius(center[None], torch.full_like(boxes.score, spec.radius[task])[None])[0]
        case "rotated":
            scale = constant(spec.scale, boxes.score)[boxes.label]
            scaled = replace(boxes, size=boxes.size * scale[:, None])
            rival = _overlapping(scaled, spec.overlap[task])
    every = torch.ones_like(boxes.label, dtype=torch.bool)
    keep = suppress(rival[None], torch.zeros_like(boxes.label)[None], every[None])[0]
    return boxes[keep][: spec.after]


def _overlapping(boxes: Boxes, most: float) -> Bool[Tensor, "k k"]:
    """Which boxes of a sample overlap by more; compares only those that are near enough to touch."""
    reach = boxes.size[:, :2].norm(dim=1) / 2
    apart = torch.cdist(boxes.center[:, :2], boxes.center[:, :2], compute_mode="donot_use_mm_for_euclid_dist")
    # Of each pair the better one counts.
    near = (apart <= reach[:, None] + reach).triu(diagonal=1)
    first, second = near.nonzero().unbind(dim=1)
    result = torch.zeros_like(near)
    for i, j in zip(first.split(_PAIRS), second.split(_PAIRS), strict=True):
        overlap = bev_iou(_each(boxes, i), _each(boxes, j))
        result[i, j] = overlap[:, 0, 0] > most
    return result


def _each(boxes: Boxes, index: Int[Tensor, " pairs"]) -> Boxes:
    """A batch of one box a sample."""
    return Boxes(**{f.name: getattr(boxes, f.name)[index][:, None] for f in fields(Boxes)})


def _best(of_tasks: list[Boxes], most: int) -> Boxes:
    """The best of several lists of boxes."""
    together = Boxes(**{f.name: torch.cat([getattr(boxes, f.name) for boxes in of_tasks]) for f in fields(Boxes)})
    return together[together.score.argsort(descending=True, stable=True)[:most]]


def peaks(heatmap: Float[Tensor, "b classes y x"], most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probability, class, row and column, ``[b, k]`` each, of the cells that no neighbour exceeds; the best first."""
    probability = heatmap.float().sigmoid()
    is_peak = probability == F.max_pool2d(probability, kernel_size=3, stride=1, padding=1)
    flat = rearrange(probability * is_peak, "b classes y x -> b (classes y x)")
    score, index = flat.topk(min(most, flat.shape[1]), dim=1)
    label, row, column = unravelled(index, heatmap.shape[1:])
    return score, label, row, column


def within_radius(center: Float[Tensor, "b k 2"], radius: Float[Tensor, "b k"]) -> Bool[Tensor, "b k k"]:
    """Which boxes (last axis) have their centre less than a box's radius (metres) away from its own; none at 0."""
    distance = torch.cdist(center, center, compute_mode="donot_use_mm_for_euclid_dist")
    return distance < rearrange(radius, "b k -> b k 1")


def suppress(
    rival: Bool[Tensor, "b k k"],
    label: Int[Tensor, "b k"],
    candidate: Bool[Tensor, "b k"],
    rounds: int | None = None,
) -> Bool[Tensor, "b k"]:
    """Non-maximum suppression: which candidates stay if each that stays removes its worse rivals of its class.

    Args:
        rival: Whether a box (second axis) would remove another (last axis).
        label: In the order of the boxes, best first.
        candidate: False for what must neither stay nor suppress.
        rounds: So many, whatever comes of it; None: until nothing changes, which the host has to ask a GPU each time.
    """
    k = label.shape[1]
    same = rearrange(label, "b k -> b k 1") == rearrange(label, "b k -> b 1 k")
    better = torch.ones(k, k, dtype=torch.bool, device=label.device).triu(diagonal=1)
    removes = rival & same & better & rearrange(candidate, "b k -> b k 1")
    keep = candidate
    # Round i settles all boxes that at most i others in a chain decide about: the greedy answer, without its loop.
    for _ in range(k if rounds is None else rounds):
        survivors = candidate & ~(removes & rearrange(keep, "b k -> b k 1")).any(dim=1)
        if rounds is None and torch.equal(survivors, keep):
            break
        keep = survivors
    return keep
