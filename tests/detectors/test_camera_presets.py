"""Camera presets have exactly the parameters of the papers' networks, and say where each value comes from."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from detectors.camera_presets import (
    BD,
    BDP,
    BF,
    CAMERA_PRESETS,
    CAMERA_SOURCES,
    OURS,
    TORCHVISION,
    UNIDISTILL_CAMERA,
    UNIDISTILL_GRID,
    X3KD,
)
from detectors.geometry.boxes import CLASSES

# Worked out layer by layer from the published configurations, as are those of the parts.
PARAMETERS = {
    "bevdet_r50": 47_975_297,
    "bevdepth_r50": 75_752_270,
    "bevdepth_r50_2key": 76_384_590,
    "bevdepth_r50_2key_da": 76_384_590 + 230_960,
    "bevdepth_r50_4key": 77_649_230,
    "bevdepth_r50_512x1408": 76_384_590,
    "x3kd_r50": 76_384_590,
    "x3kd_r101_640x1600": 76_384_590 + 18_992_128,
}
# Multiply-adds of six views, in units of 10^9.
GMACS = {
    "bevdet_r50": {"backbone": 88.1, "image neck": 13.3, "neck": 7.2 + 42.1, "head": 24.8, "all": 175.8},
    "bevdepth_r50": {"backbone": 88.1, "all": 241.8},
    "bevdepth_r50_2key": {"backbone": 2 * 88.1, "all": 447.0},
}


def _parameters(*modules):
    return sum(weight.numel() for module in modules for weight in module.parameters())


def _built(spec):
    with torch.device("meta"):
        return spec.build()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_of_the_published_network(name):
    assert _parameters(_built(CAMERA_PRESETS[name])) == PARAMETERS[name]


def test_parameters_of_parts():
    bevdet, bevdepth = (_built(CAMERA_PRESETS[name]) for name in ("bevdet_r50", "bevdepth_r50"))
    for detector in (bevdet, bevdepth):
        assert _parameters(detector.camera.image.backbone) == 23_508_032
    assert _parameters(bevdet.camera.image.lateral, bevdet.camera.image.smooth) == 3_933_696
    assert _parameters(bevdet.camera.lift) == 512 * 123 + 123
    assert _parameters(bevdet.neck.layers) == 12_394_368
    assert _parameters(bevdet.neck.conv, bevdet.neck.up2) == 6_556_416
    assert _parameters(bevdepth.camera.image.lateral) == 1_967_104
    assert _parameters(bevdepth.camera.lift) == 27_817_736
    assert _parameters(bevdepth.neck) - _parameters(bevdepth.neck.deblocks) == 17_944_000
    assert _parameters(bevdepth.neck.deblocks) == 2_995_712
    with torch.device("meta"):
        # A detector of 32,136,008 parameters, without UniDistill's neck and head.
        assert _parameters(UNIDISTILL_CAMERA.build(UNIDISTILL_GRID)) == 25_663_920


def _gmacs(spec):
    """Of the convolutions of each part, on maps of no content."""
    detector, found = _built(spec), {}

    def count(part, module, *sizes):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module.eval()(*(torch.empty(size, device="meta", dtype=dtype) for size, dtype in sizes))
        found[part] = counter.get_total_flops() / 2e9

    camera, grid = spec.camera, spec.grid
    (height, width), views, stride = camera.image_size, 6 * camera.keyframes, camera.image.stride
    h, w = height // stride, width // stride
    images = (views, 3, height, width)
    count("backbone", detector.camera.image.backbone, (images, torch.float32))
    count("image", detector.camera.image, (images, torch.uint8))
    found["image neck"] = found["image"] - found["backbone"]
    features, numbers = (views, camera.image.channels, h, w), (views, 27)
    count("depth net", detector.camera.lift, (features, torch.float32), (numbers, torch.float32))
    count("neck", detector.neck, ((1, spec.low_channels, grid.rows, grid.columns), torch.float32))
    count("head", detector.head, ((1, spec.high_channels, grid.rows, grid.columns), torch.float32))
    found["all"] = sum(found[part] for part in ("image", "depth net", "neck", "head"))
    return found


@pytest.mark.parametrize("name", GMACS)
def test_operations_are_those_of_the_published_network(name):
    found = _gmacs(CAMERA_PRESETS[name])
    for part, wanted in GMACS[name].items():
        assert found[part] == pytest.approx(wanted, rel=0.01), part


def _leaves(value, path=""):
    """Dotted paths of the values of a spec, defaults included."""
    if value is None:
        return
    if hasattr(type(value), "model_fields"):
        for field in type(value).model_fields:
            yield from _leaves(getattr(value, field), f"{path}.{field}" if path else field)
    else:
        yield path


def _is_below(path, field):
    return path == field or path.startswith(f"{field}.")


@pytest.mark.parametrize("name", CAMERA_PRESETS)
def test_each_value_has_a_source(name):
    paths, sources = list(_leaves(CAMERA_PRESETS[name])), CAMERA_SOURCES[name]
    assert set(sources.values()) <= {BD, BDP, BF, TORCHVISION, X3KD, OURS}
    assert [path for path in paths if not any(_is_below(path, field) for field in sources)] == []
    assert [field for field in sources if not any(_is_below(path, field) for path in paths)] == []


def test_keyframes_may_be_changed_and_change_what_the_trunk_reads():
    camera = CAMERA_PRESETS["bevdepth_r50"].camera.model_copy(update={"keyframes": 2})
    spec = CAMERA_PRESETS["bevdepth_r50"].model_copy(update={"camera": camera})
    assert spec.low_channels == 160
    assert _parameters(_built(spec)) == PARAMETERS["bevdepth_r50_2key"]


def test_a_depth_loss_asks_for_returns_in_training_alone():
    spec = CAMERA_PRESETS["bevdepth_r50"]
    assert spec.training_inputs.lidar_for_loss
    assert not spec.inputs.lidar_for_loss
    assert spec.training_inputs.sensors == {"camera"}
    assert spec.loss_weights == {"heatmap": 1.0, "boxes": 0.25, "lidar_depth": 3.0}
    assert not CAMERA_PRESETS["bevdet_r50"].training_inputs.lidar_for_loss
    assert not CAMERA_PRESETS["x3kd_r50"].training_inputs.lidar_for_loss


def test_boxes_of_small_objects_grow_before_they_suppress_one_another():
    scale = dict(zip(CLASSES, CAMERA_PRESETS["bevdet_r50"].head.decoding.scale, strict=True))
    assert (scale["car"], scale["pedestrian"], scale["traffic_cone"], scale["trailer"]) == (1.0, 4.5, 9.0, 0.55)
