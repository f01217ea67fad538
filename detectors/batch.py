"""Sample and Batch: what goes into a detector."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from detectors.geometry.boxes import Boxes, pad_boxes


@dataclass(frozen=True)
class CameraViews:
    """The images of one sample (no leading axis) or of a batch (leading axis b), n cameras each."""

    images: UInt8[Tensor, "*b n 3 h w"]
    """RGB, resized and cropped to the detector's input, not normalised."""
    intrinsics: Float[Tensor, "*b n 3 3"]
    """Pixels (column, row, 1) of that input from the camera frame (x right, y down, z forward)."""
    ego_from_camera: Float[Tensor, "*b n 4 4"]
    """BEV frame from the camera frame at the camera's own time: ego motion between the two is included."""

    def to(self, device: torch.device | str) -> Self:
        """The same views on another device."""
        return type(self)(self.images.to(device), self.intrinsics.to(device), self.ego_from_camera.to(device))


@dataclass(frozen=True)
class Sample:
    """One keyframe. Sensors that were not asked for are None."""

    token: str
    views: CameraViews | None
    points: Float[Tensor, "p 5"] | None
    """LiDAR returns in the BEV frame: x, y, z (m), intensity in [0, 1], age (s)."""
    boxes: Boxes
    """Annotations in the BEV frame."""


@dataclass(frozen=True)
class Batch:
    """b samples, collated."""

    tokens: tuple[str, ...]
    views: CameraViews | None
    points: Float[Tensor, "p 5"] | None
    """The points of all samples, one after the other."""
    point_sample: Int[Tensor, " p"] | None
    """Which sample a point belongs to."""
    boxes: Boxes
    """Annotations, padded to ``[b, k]``."""
    is_box: Bool[Tensor, "b k"]
    """False where ``boxes`` is padding."""

    def __len__(self) -> int:
        """Samples in the batch."""
        return len(self.tokens)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        return replace(
            self,
            views=self.views and self.views.to(device),
            points=None if self.points is None else self.points.to(device),
            point_sample=None if self.point_sample is None else self.point_sample.to(device),
            boxes=self.boxes.to(device),
            is_box=self.is_box.to(device),
        )


def collate(samples: list[Sample]) -> Batch:
    """Samples to a batch; all of them carry the same sensors."""
    views = [sample.views for sample in samples if sample.views is not None]
    points = [sample.points for sample in samples if sample.points is not None]
    assert {len(views), len(points)} <= {0, len(samples)}, "samples carry different sensors"
    boxes, is_box = pad_boxes([sample.boxes for sample in samples])
    return Batch(
        tokens=tuple(sample.token for sample in samples),
        views=CameraViews(
            images=torch.stack([view.images for view in views]),
            intrinsics=torch.stack([view.intrinsics for view in views]),
            ego_from_camera=torch.stack([view.ego_from_camera for view in views]),
        )
        if views
        else None,
        points=torch.cat(points) if points else None,
        point_sample=torch.cat([torch.full((len(p),), i) for i, p in enumerate(points)]) if points else None,
        boxes=boxes,
        is_box=is_box,
    )
