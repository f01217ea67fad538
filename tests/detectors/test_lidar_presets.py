"""Detectors at full size have the published numbers of parameters, and each of their fields names its source."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from detectors.detector import DetectorSpec
from detectors.lidar_presets import LIDAR_PRESETS, LIDAR_SOURCES
from detectors.presets import PRESETS

# Derived from the published configurations, parameter by parameter; 12 of UniDistill's are weights of its losses.
PARAMETERS = {
    "centerpoint_pillar02": 5_982_854,
    "centerpoint_voxel01": 8_938_262,
    "centerpoint_voxel0075": 8_938_262,
    "unidistill_camera": 32_136_008,
    "unidistill_lidar": 9_167_400,
    "unidistill_camera_lidar": 36_274_136,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_the_published_network_has(name):
    with torch.device("meta"):
        detector = LIDAR_PRESETS[name].build()
    assert sum(each.numel() for each in detector.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(("part", "gigamacs"), [("neck", 62.9), ("head", 61.1)])
def test_unidistill_multiplies_as_often_as_derived(part, gigamacs):
    spec = LIDAR_PRESETS["unidistill_lidar"]
    channels = {"neck": spec.low_channels, "head": spec.high_channels}[part]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        module = spec.build().get_submodule(part)
        module(torch.empty(1, channels, spec.grid.rows, spec.grid.columns))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gigamacs, rel=0.01)


def _leaves(fields, prefix=""):
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("name", LIDAR_PRESETS)
def test_every_field_has_a_source(name):
    sources = LIDAR_SOURCES[name]
    for leaf in _leaves(LIDAR_PRESETS[name].model_dump()):
        path = leaf.split(".")
        assert any(".".join(path[:end]) in sources for end in range(1, len(path) + 1)), leaf


def test_the_three_detectors_of_unidistill_differ_in_their_sensors_alone():
    camera, lidar, both = (LIDAR_PRESETS[f"unidistill_{name}"] for name in ("camera", "lidar", "camera_lidar"))
    assert camera.grid == lidar.grid == both.grid
    assert camera.neck == lidar.neck == both.neck
    assert camera.head == lidar.head == both.head
    assert (both.camera, both.lidar) == (camera.camera, lidar.lidar)
    assert camera.low_channels == lidar.low_channels == both.low_channels == 256


@pytest.mark.parametrize(
    ("name", "cells"), [("centerpoint_voxel01", 128), ("centerpoint_voxel0075", 180), ("unidistill_lidar", 180)]
)
def test_voxels_are_as_large_as_their_names_say(name, cells):
    spec = LIDAR_PRESETS[name]
    size = 0.1 if name == "centerpoint_voxel01" else 0.075
    assert spec.grid.cell / spec.lidar.voxels_per_cell == pytest.approx(size)
    assert (spec.grid.rows, spec.grid.columns) == (cells, cells)
    assert (spec.grid.z_range[1] - spec.grid.z_range[0]) / spec.lidar.height_bins == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["centerpoint_pillar02", "centerpoint_voxel01", "centerpoint_voxel0075"])
def test_centerpoint_draws_nine_of_ten_sweeps_in_training_alone(name):
    spec = PRESETS[name]
    assert (spec.training_inputs.lidar_sweeps, spec.training_inputs.lidar_pool) == (10, 10)
    assert spec.training_inputs.lidar_read == 11
    assert spec.inputs.lidar_read == 10
    assert not spec.inputs.lidar_near
    assert not spec.inputs.lidar_fill


@pytest.mark.parametrize("name", ["unidistill_lidar", "unidistill_camera_lidar"])
def test_unidistill_fills_short_lists_of_sweeps_and_keeps_near_returns(name):
    for inputs in (PRESETS[name].training_inputs, PRESETS[name].inputs):
        assert inputs.lidar_fill
        assert inputs.lidar_near
        assert inputs.lidar_read == 10


def test_fewer_sweeps_to_draw_from_than_are_drawn_are_refused():
    spec = PRESETS["centerpoint_voxel01"]
    fields = spec.model_dump() | {"lidar": spec.lidar.model_dump() | {"earlier": {"pool": 8}}}
    with pytest.raises(ValueError, match=r"lidar.earlier.pool is 8, from which 9 sweeps are drawn"):
        DetectorSpec.model_validate(fields)


def test_sweeps_as_they_were_read_before_leave_no_trace_in_a_detector():
    assert "earlier" not in PRESETS["tiny_lidar"].model_dump()["lidar"]
    assert "earlier" not in PRESETS["bevfusion_camera_lidar"].model_dump()["lidar"]
