"""DetectorOutput: the output of a detector, including every intermediate map."""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class HeadOutput:
    """Raw maps of the CenterPoint head on the BEV grid."""

    heatmap: Float[Tensor, "b classes y x"]
    """Logits, one channel a class in the order of CLASSES."""
    boxes: Float[Tensor, "b tasks code y x"]
    """Per task group the code of a box, in the order of BOX_CODE (`detectors/heads/center.py`)."""
    iou: Float[Tensor, "b tasks y x"] | None = None
    """Per task group how well its box overlaps an object, as 2 IoU - 1; None of a head that does not say."""

    def to(self, device: torch.device) -> Self:
        """The same maps on another device."""
        return type(self)(
            self.heatmap.to(device), self.boxes.to(device), None if self.iou is None else self.iou.to(device)
        )


@dataclass(frozen=True)
class SensorMaps:
    """The maps up to the BEV neck; None where the detector lacks the sensor."""

    image_features: Float[Tensor, "b n c_image h w"] | None
    """Pyramid output per view, before the view transformation."""
    depth: Float[Tensor, "b n d h w"] | None
    """Probability of each depth bin; sums to 1 over d."""
    camera_bev: Float[Tensor, "b c_camera y_low x_low"] | None
    """Image features lifted and splatted into BEV."""
    lidar_bev: Float[Tensor, "b c_lidar y_low x_low"] | None
    """Sparse 3D features, height folded into channels."""
    radar_bev: Float[Tensor, "b c_radar y_low x_low"] | None
    """Pillar features, spread by convolutions."""
    bev_low: Float[Tensor, "b c_low y_low x_low"]
    """Low level: the only sensor's map or the fused one, what enters the BEV neck (UniDistill's F_low). Its cells are
    the grid's but for pillars, which are smaller."""


@dataclass(frozen=True)
class DetectorOutput(SensorMaps):
    """Every map a teacher or a student may be asked for."""

    bev_high: Float[Tensor, "b c_high y x"]
    """High level: what leaves the BEV neck and enters the head (UniDistill's F_high)."""
    head: HeadOutput

    def to(self, device: torch.device) -> Self:
        """The same maps on another device."""
        maps = {f.name: value.to(device) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(self, **maps, head=self.head.to(device))
