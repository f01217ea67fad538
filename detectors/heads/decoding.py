"""Decoding: the boxes that the maps of a CenterPoint head mean, class by class or task by task, duplicates removed."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detectors.geometry.boxes import Boxes
from detectors.geometry.grid import BevGrid
from detectors.geometry.overlap import bev_iou
from detectors.heads.center import TASK_OF_CLASS, CenterHeadSpec, decode_boxes, gather_codes
from detectors.outputs import HeadOutput


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
