"""Augmentation of a training sample: images, matrices, points and boxes are moved together, so geometry stays true."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from detectors.batch import CameraViews, Sample
from harness.study.spec import AugmentSpec


def augment(sample: Sample, spec: AugmentSpec, generator: torch.Generator) -> Sample:
    """A sample as a mirrored or turned world would have shown it; the same numbers are drawn for any set of sensors."""
    chance, share = torch.rand(2, generator=generator).tolist()
    if chance < spec.mirror_probability:
        sample = mirror(sample)
    return turn(sample, math.radians(spec.rotation_degrees) * (2 * share - 1))


def mirror(sample: Sample) -> Sample:
    """Left and right exchanged: y becomes -y, and every image is flipped.

    A mirrored camera would be left-handed. Its own x axis is mirrored, too, which the flip of the image makes good.
    """
    flip = torch.tensor([1.0, -1.0, 1.0])
    boxes = sample.boxes
    return replace(
        sample,
        views=sample.views and _mirror_views(sample.views),
        points=None if sample.points is None else sample.points * torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0]),
        boxes=replace(boxes, center=boxes.center * flip, yaw=-boxes.yaw, velocity=boxes.velocity * flip[:2]),
    )


def _mirror_views(views: CameraViews) -> CameraViews:
    width = views.images.shape[-1]
    intrinsics = views.intrinsics.clone()
    intrinsics[..., 0, 2] = width - intrinsics[..., 0, 2]
    world, camera = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0])), torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    return CameraViews(views.images.flip(-1), intrinsics, world @ views.ego_from_camera @ camera)


def turn(sample: Sample, angle: float) -> Sample:
    """The BEV frame turned so that everything in it moves counter-clockwise by an angle in radians."""
    rotation = torch.eye(4)
    rotation[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    def turned(vectors: Tensor) -> Tensor:
        return torch.cat([vectors[:, :2] @ rotation[:2, :2].T, vectors[:, 2:]], dim=1)

    views, boxes = sample.views, sample.boxes
    return replace(
        sample,
        views=views and replace(views, ego_from_camera=rotation @ views.ego_from_camera),
        points=None if sample.points is None else turned(sample.points),
        boxes=replace(
            boxes,
            center=turned(boxes.center),
            yaw=torch.remainder(boxes.yaw + angle + math.pi, 2 * math.pi) - math.pi,
            velocity=turned(boxes.velocity),
        ),
    )
