"""A small scene in double precision, on a grid that is not square, and a plain way to read a map at a box."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors.batch import Batch, Points
from detectors.detector import DetectorSpec
from detectors.encoders.bev_neck import BevNeckSpec
from detectors.encoders.lidar import LidarSpec
from detectors.geometry.boxes import Boxes
from detectors.geometry.grid import BevGrid
from detectors.heads.center import CenterHeadSpec
from detectors.outputs import DetectorOutput, HeadOutput
from detectors.presets import PRESETS
from distill.feature import FeatureSpec
from distill.objective import Objective
from distill.relation import RelationSpec
from distill.response import ResponseSpec


@dataclass(frozen=True)
class Scene:
    """Two samples on 9 x 14 cells of 1 m."""

    grid: Any
    batch: Any
    valid: tuple[tuple[int, int], ...]
    """(sample, box) of the boxes that count."""

    def output(self, rng: torch.Generator, low: int, high: int, **given: Tensor) -> Any:
        """Random maps of the given widths, or the maps that are given."""

        def maps(*channels: int) -> Tensor:
            size = (2, *channels, self.grid.rows, self.grid.columns)
            return torch.randn(size, generator=rng, dtype=torch.float64)

        return DetectorOutput(
            image_features=None,
            depth=None,
            camera_bev=None,
            lidar_bev=None,
            radar_bev=None,
            bev_low=given.get("bev_low", maps(low)),
            bev_high=given.get("bev_high", maps(high)),
            head=HeadOutput(heatmap=maps(10), boxes=maps(6, 10)),
        )

    def with_boxes(self, is_box: Tensor, **fields: Tensor) -> Any:
        """The batch with other boxes."""
        return replace(self.batch, boxes=replace(self.batch.boxes, **fields), is_box=is_box)


@pytest.fixture
def scene():
    # x, y, length, width, yaw: turned, small, sticking out of the map; its centre outside; padding (never read).
    rows = [
        [[-2.3, 1.1, 4.2, 1.8, 0.7], [3.4, -2.2, 0.6, 0.7, 0.0], [7.6, 3.9, 4.5, 2.0, -1.1], [1.0, 4.1, 3.0, 2.0, 0.2]],
        [[5.2, 0.3, 9.5, 2.9, 2.9], [0.0, 0.0, 0.0, 0.0, 0.0], [1.2, -3.0, 2.0, 2.0, 0.5], [0.0, 0.0, 0.0, 0.0, 0.0]],
    ]
    x, y, length, width, yaw = torch.tensor(rows, dtype=torch.float64).unbind(-1)
    boxes = Boxes(
        center=torch.stack([x, y, torch.zeros_like(x)], dim=-1),
        size=torch.stack([length, width, torch.ones_like(x)], dim=-1),
        yaw=yaw,
        velocity=torch.full((2, 4, 2), math.nan, dtype=torch.float64),
        label=torch.tensor([[0, 5, 1, 0], [2, 0, 9, 0]]),
        score=torch.ones_like(x),
    )
    is_box = torch.tensor([[True, True, True, True], [True, False, False, False]])
    return Scene(
        grid=BevGrid(x_range=(-6, 8), y_range=(-5, 4), z_range=(-3, 2), cell=1),
        batch=Batch(tokens=("a", "b"), views=None, lidar=None, radar=None, boxes=boxes, is_box=is_box),
        valid=((0, 0), (0, 1), (0, 2), (1, 0)),
    )


@pytest.fixture
def read_keypoints():
    """A map's channels at the nine points of one box, one point and one cell after the other."""

    def read(maps: Tensor, boxes: Any, sample: int, box: int) -> list[Tensor]:
        x, y = boxes.center[sample, box, :2].tolist()
        length, width = boxes.size[sample, box, :2].tolist()
        yaw = boxes.yaw[sample, box].item()
        found = []
        for along in (-length / 2, 0, length / 2):
            for across in (-width / 2, 0, width / 2):
                column = x + along * math.cos(yaw) - across * math.sin(yaw) + 6 - 0.5
                row = y + along * math.sin(yaw) + across * math.cos(yaw) + 5 - 0.5
                value = maps.new_zeros(len(maps))
                for r in (math.floor(row), math.floor(row) + 1):
                    for c in (math.floor(column), math.floor(column) + 1):
                        if 0 <= r < maps.shape[1] and 0 <= c < maps.shape[2]:
                            value = value + (1 - abs(row - r)) * (1 - abs(column - c)) * maps[:, r, c]
                found.append(value)
        return found

    return read


@pytest.fixture
def detector_spec(scene):
    """A real detector's spec on the scene's grid."""
    return PRESETS["tiny_camera"].model_copy(update={"grid": scene.grid})


@pytest.fixture
def spec():
    """The smallest LiDAR detector, on 12 x 16 cells."""
    return DetectorSpec(
        grid=BevGrid(x_range=(-8, 8), y_range=(-5, 7), z_range=(-3, 1), cell=1),
        lidar=LidarSpec(voxels_per_cell=1, height_bins=4, widths=(4,), depths=(1,), channels=6),
        neck=BevNeckSpec(fine_width=4, coarse_width=8),
        head=CenterHeadSpec(width=8, heatmap_weight=2.0, box_weight=0.5),
    )


@pytest.fixture
def batch(scene, rng):
    """The scene with LiDAR returns, in single precision."""
    points = torch.rand(400, 5, generator=rng) * torch.tensor([16.0, 12, 4, 1, 0]) - torch.tensor([8.0, 5, 3, 0, 0])
    boxes = scene.batch.boxes
    return replace(
        scene.batch,
        lidar=Points(points, torch.arange(400) // 200),
        boxes=replace(boxes, **{name: getattr(boxes, name).float() for name in _FLOATS}),
    )


_FLOATS = ("center", "size", "yaw", "velocity", "score")


@pytest.fixture
def losses():
    """One of each of UniDistill's; one of them weighs nothing."""
    return {
        "feature": FeatureSpec(weight=3.0, adapter="conv3x3"),
        "relation": RelationSpec(weight=0.25),
        "response": ResponseSpec(weight=0.0),
    }


@pytest.fixture
def objective(spec, losses):
    """A student and a teacher of the same spec."""
    return Objective(spec.build(), spec.build(), losses)
