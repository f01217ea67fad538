"""GT-paste: objects of other training samples are put into a sample's LiDAR points (Yan et al., SECOND, 2018)."""

from dataclasses import fields, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from detectors.batch import BoxFacts, Sample
from detectors.geometry.boxes import CLASSES, Boxes
from detectors.geometry.overlap import bev_iou
from harness.data.objects import Objects, returns_in
from harness.study.schedule import PasteSpec

Columns = TypeVar("Columns", Boxes, BoxFacts)


def paste(sample: Sample, spec: PasteSpec, objects: Objects, generator: torch.Generator) -> Sample:
    """The sample with more objects, each where it stood in the sample that it comes from.

    Of each class as many are drawn as it has fewer boxes here than `spec.counts`. One that would overlap a box, seen
    from above, or one that was pasted before it is left out. The returns of the scene within the others give way.

    Args:
        sample: Before any other augmentation; a detector reads its LiDAR alone.
        spec: How many, and which.
        objects: To draw from.
        generator: Draws.
    """
    assert sample.lidar is not None
    assert sample.views is None, "images do not show what is pasted"
    assert sample.radar is None, "RADAR does not see what is pasted"
    here = sample.boxes.label.bincount(minlength=len(CLASSES)).tolist()
    drawn = []
    for label, name in enumerate(CLASSES):
        choice = objects.of_class(label, spec.min_points)
        wanted = spec.counts.get(name, 0) - here[label]
        if wanted > 0 and len(choice):
            drawn.append(choice[torch.randint(len(choice), (wanted,), generator=generator)])
    if not drawn:
        return sample
    numbers = torch.cat(drawn)
    candidates = objects.boxes[numbers]
    is_free = _is_free(candidates, sample.boxes)
    boxes = candidates[is_free]
    returns = [objects.returns(number) for number in numbers[is_free].tolist()]
    scene = sample.lidar.numpy()
    stays = np.ones(len(scene), bool)
    for index in range(len(boxes)):
        stays[returns_in(boxes, index, scene)] = False
    facts = None
    if sample.facts is not None:
        seen_now = torch.tensor([int((each[:, 4] == 0).sum()) for each in returns], dtype=torch.long)
        unknown = torch.zeros_like(seen_now)
        facts = _joined(sample.facts, BoxFacts(unknown - 1, unknown, seen_now, unknown))
    return replace(
        sample,
        # Those that are pasted first: where a voxel takes so many returns at most, it takes them.
        lidar=torch.cat([*returns, torch.from_numpy(scene[stays])]),
        boxes=_joined(sample.boxes, boxes),
        facts=facts,
    )


def _is_free(candidates: Boxes, scene: Boxes) -> Bool[Tensor, " k"]:
    """Which boxes overlap none of a scene's, and none before them that is free itself."""
    is_free = ~_overlaps(candidates, scene).any(dim=1)
    overlaps = _overlaps(candidates, candidates)
    for index in range(len(candidates)):
        is_free[index] &= not (overlaps[index, :index] & is_free[:index]).any()
    return is_free


def _overlaps(boxes: Boxes, others: Boxes) -> Bool[Tensor, "k m"]:
    """Which pairs share some ground."""
    reach, further = (each.size[:, :2].norm(dim=1) / 2 for each in (boxes, others))
    overlaps = torch.cdist(boxes.center[:, :2], others.center[:, :2]) <= reach[:, None] + further + 1e-3
    # Of the few pairs whose circles meet.
    first, second = overlaps.nonzero().unbind(dim=1)
    overlaps[first, second] = bev_iou(boxes[first[:, None]], others[second[:, None]])[:, 0, 0] > 0
    return overlaps


def _joined(first: Columns, second: Columns) -> Columns:
    names = [field.name for field in fields(first)]
    return type(first)(**{name: torch.cat([getattr(each, name) for each in (first, second)]) for name in names})
