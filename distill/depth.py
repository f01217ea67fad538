"""Depth supervision: LiDAR returns in an image supervise the camera's depth."""

from collections.abc import Callable

import torch
import torch.nn as nn
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detectors.batch import Batch, CameraViews
from detectors.detector import DetectorSpec
from detectors.encoders.depth_supervision import NOW, nearest_depth
from detectors.geometry.lift import LiftGeometry
from detectors.outputs import DetectorOutput
from distill.loss import DetectorLossSpec
from distill.maps import TeacherMaps


class DepthSpec(DetectorLossSpec):
    """Explicit depth supervision as in BEVDepth (Li et al., AAAI 2023), which X3KD compares itself with.

    The cross entropy of the camera's depth distribution at the features that a return of the teacher's LiDAR falls
    into; of several returns the nearest counts. BEVDepth has a binary cross entropy of each bin.
    """

    reaches_bev = False
    asks_features = False

    def build(self, student: DetectorSpec, teacher: TeacherMaps) -> "DepthTerm":
        """The term between one student and one teacher, of which it takes no more than that its LiDAR is there."""
        if student.camera is None:
            raise ValueError("depth supervision needs a student with a camera; this one has none")
        if teacher.lidar is None:
            raise ValueError("depth supervision needs a teacher with a LiDAR; this one has none")
        return DepthTerm(student.camera.lift(student.grid))


class DepthTerm(nn.Module):
    """Owns no parameter."""

    def __init__(self, geometry: LiftGeometry) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, student: DetectorOutput, teacher: DetectorOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the features whose depth is known; 0 without any. Annotations and teacher's maps do not enter."""
        assert student.depth is not None
        bins = self._bins(batch)
        with torch.autocast(bins.device.type, enabled=False):
            depth = student.depth[:, : bins.shape[1]].to(torch.promote_types(student.depth.dtype, torch.float32))
            chosen = depth.gather(2, rearrange(bins.clamp(min=0), "b n h w -> b n 1 h w"))[:, :, 0]
            # Of a bin that softmax has rounded to nothing there would be no gradient.
            errors = -chosen.clamp(min=torch.finfo(chosen.dtype).tiny).log()
        return errors.masked_fill(bins < 0, 0).sum() / (bins >= 0).sum().clamp(min=1)

    def counts(self, teacher: Callable[[], DetectorOutput], batch: Batch) -> Float[Tensor, "1"]:
        """The features whose depth is known."""
        return (self._bins(batch) >= 0).sum().float()[None]

    def _bins(self, batch: Batch) -> Int[Tensor, "b n h w"]:
        """`depth_bins` of each sample, in the views of its newest keyframe."""
        assert batch.views is not None
        assert batch.lidar is not None
        newest = slice(0, batch.views.images.shape[1] // self.geometry.keyframes)
        known = [
            depth_bins(points[:, :3], batch.views[number, newest], self.geometry, points[:, 4] <= NOW)
            for number, points in enumerate(batch.lidar.of_samples(len(batch)))
        ]
        return torch.stack(known)


def depth_bins(
    points: Float[Tensor, "p 3"], views: CameraViews, geometry: LiftGeometry, counts: Bool[Tensor, " p"] | None = None
) -> Int[Tensor, "n h w"]:
    """The depth bin of the nearest point that falls into each feature, or -1.

    Args:
        points: In the BEV frame, metres.
        views: Of one sample.
        geometry: Features and bins.
        counts: Which points there are; all if not given.
    """
    low, high = geometry.depth_range
    nearest = nearest_depth(points, views, geometry, (low, high), counts)
    bins = ((nearest - low) / ((high - low) / geometry.depth_bins)).floor().clamp(max=geometry.depth_bins - 1)
    return torch.where(nearest.isfinite(), bins, -1).long()
