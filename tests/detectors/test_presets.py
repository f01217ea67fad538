"""Presets build, run, and differ in nothing but their sensors."""

import pytest
import torch

from detectors.geometry.boxes import CLASSES
from detectors.presets import PRESETS, TINY_PRESETS


@pytest.mark.parametrize("name", TINY_PRESETS)
def test_preset_runs_on_what_its_spec_asks_for(name, make_batch):
    spec = PRESETS[name]
    batch = make_batch(boxes=(4,), image_size=spec.inputs.image_size or (8, 8), points=500)
    torch.manual_seed(0)
    detector = spec.build().eval()
    with torch.no_grad():
        output = detector(batch)
    size = (spec.grid.rows, spec.grid.columns)
    assert output.bev_low.shape == (1, spec.low_channels, *size)
    assert output.bev_high.shape == (1, spec.high_channels, *size)
    assert output.head.heatmap.shape == (1, len(CLASSES), *size)
    assert len(detector.decode(output)) == 1


def test_tiny_presets_share_all_but_the_encoder():
    camera, lidar = PRESETS["tiny_camera"], PRESETS["tiny_lidar"]
    assert (camera.grid, camera.neck, camera.head) == (lidar.grid, lidar.neck, lidar.head)
    assert (camera.low_channels, camera.high_channels) == (lidar.low_channels, lidar.high_channels)
    assert (camera.inputs.sensors, lidar.inputs.sensors) == ({"camera"}, {"lidar"})
    assert (camera.inputs.image_size, lidar.inputs.image_size) == ((80, 224), None)
