"""A detector maps a batch of its sensor to boxes, trains as a whole, and survives empty scenes."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from detectors.detector import DetectorSpec
from detectors.encoders.bev_neck import BevNeckSpec
from detectors.encoders.camera import CameraSpec
from detectors.encoders.fusion import FusionSpec
from detectors.encoders.image import ImageSpec
from detectors.encoders.lidar import LidarSpec
from detectors.encoders.radar import RadarSpec
from detectors.encoders.resnet import ResNetSpec
from detectors.heads.center import CenterHeadSpec

# The pyramid is as wide as the BEV map: DetectorOutput names both axes c.
IMAGE = ImageSpec(backbone=ResNetSpec(stem_width=4, widths=(4, 6, 8, 10), depths=(1, 1, 1, 1)), channels=7)
ENCODERS = {
    "camera": CameraSpec(image_size=(32, 48), image=IMAGE, depth_range=(1.0, 13.0), depth_bins=9, channels=7),
    "lidar": LidarSpec(voxels_per_cell=2, height_bins=8, widths=(4, 6), depths=(1, 1), channels=7),
    "radar": RadarSpec(width=5, depth=2, channels=6),
}
FUSION = FusionSpec(channels=9)
SENSORS = {
    **{name: {name: encoder} for name, encoder in ENCODERS.items()},
    "camera_lidar": {"camera": ENCODERS["camera"], "lidar": ENCODERS["lidar"], "fusion": FUSION},
    "camera_radar": {"camera": ENCODERS["camera"], "radar": ENCODERS["radar"], "fusion": FUSION},
    "all": {**ENCODERS, "fusion": FUSION},
}
SHARED = {"neck": BevNeckSpec(fine_width=8, coarse_width=10), "head": CenterHeadSpec(width=12)}


@pytest.fixture(params=SENSORS)
def detector(request, grid):
    torch.manual_seed(0)
    return DetectorSpec(grid=grid, **SENSORS[request.param], **SHARED).build()


def _total_loss(detector, batch):
    loss = detector.loss(detector(batch), batch)
    return loss.heatmap + loss.boxes


def test_every_map_covers_the_grid_in_the_width_of_the_spec(detector, tiny_batch, grid):
    output, size = detector(tiny_batch), (grid.rows, grid.columns)
    assert output.bev_low.shape == (2, detector.spec.low_channels, *size)
    assert output.bev_high.shape == (2, detector.spec.high_channels, *size)
    assert output.head.heatmap.shape[2:] == output.head.boxes.shape[3:] == size
    maps = {"camera": output.camera_bev, "lidar": output.lidar_bev, "radar": output.radar_bev}
    present = {name: bev for name, bev in maps.items() if bev is not None}
    assert set(present) == detector.spec.inputs.sensors
    assert tuple(bev.shape[1] for bev in present.values()) == detector.spec.sensor_channels
    if len(present) == 1:
        assert present.popitem()[1] is output.bev_low


def test_one_step_changes_every_parameter(detector, tiny_batch):
    before = {name: parameter.clone() for name, parameter in detector.named_parameters()}
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.1)
    _total_loss(detector, tiny_batch).backward()
    optimizer.step()
    unchanged = [name for name, parameter in detector.named_parameters() if torch.equal(parameter, before[name])]
    assert unchanged == []


def test_gradients_are_finite(detector, tiny_batch):
    _total_loss(detector, tiny_batch).backward()
    assert all(parameter.grad.isfinite().all() for parameter in detector.parameters())


def test_a_few_steps_on_one_batch_lower_the_loss(detector, tiny_batch):
    optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-3)
    losses = []
    for _ in range(20):
        loss = _total_loss(detector, tiny_batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_the_same_seed_gives_the_same_bits(detector, tiny_batch):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        runs = []
        for _ in range(2):
            torch.manual_seed(3)
            twin = detector.spec.build()
            loss = _total_loss(twin, tiny_batch)
            runs.append((loss, *torch.autograd.grad(loss, list(twin.parameters()))))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_a_scene_without_points_and_boxes_trains_and_decodes(detector, make_batch):
    batch = make_batch(boxes=(0, 0), points=0)
    _total_loss(detector, batch).backward()
    assert all(parameter.grad.isfinite().all() for parameter in detector.parameters())
    assert len(detector.eval().decode(detector(batch))) == 2


def test_decoded_boxes_are_confident_and_on_known_classes(detector, tiny_batch):
    for boxes in detector.decode(detector(tiny_batch)):
        assert ((boxes.score > detector.spec.head.score_threshold) & (boxes.score <= 1)).all()
        assert boxes.score.diff().le(0).all()
        assert len(boxes) <= detector.spec.head.max_boxes
        assert boxes.center.isfinite().all()
        assert not boxes.center.requires_grad


def test_bfloat16_autocast_trains(detector, tiny_batch):
    exact = _total_loss(detector, tiny_batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = _total_loss(detector, tiny_batch)
    rounded.backward()
    assert all(parameter.grad.isfinite().all() for parameter in detector.parameters())
    assert_close(rounded, exact, rtol=0.05, atol=0)


def test_weights_load_into_another_detector_of_the_spec(detector, tiny_batch):
    twin = detector.spec.build()
    twin.load_state_dict(detector.state_dict(), strict=True)
    assert_close(twin.eval()(tiny_batch).head.heatmap, detector.eval()(tiny_batch).head.heatmap)


def test_a_spec_survives_json(detector):
    assert DetectorSpec.model_validate_json(detector.spec.model_dump_json()) == detector.spec


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "needs a sensor"),
        ({"camera": ENCODERS["camera"], "lidar": ENCODERS["lidar"]}, "two or more sensors"),
        ({"radar": ENCODERS["radar"], "fusion": FUSION}, "two or more sensors"),
    ],
)
def test_impossible_sets_of_sensors_are_refused(grid, parts, message):
    with pytest.raises(ValidationError, match=message):
        DetectorSpec(grid=grid, **parts, **SHARED)


def test_a_batch_without_a_sensor_is_refused_by_name(detector, tiny_batch):
    with pytest.raises(ValueError, match="has no"):
        detector(replace(tiny_batch, views=None, lidar=None, radar=None))


SUPERVISED = ENCODERS["camera"].model_copy(update={"depth_weight": 3.0})


def test_a_supervised_camera_learns_its_depths_from_the_batchs_returns(tiny_batch, grid):
    torch.manual_seed(0)
    detector = DetectorSpec(grid=grid, camera=SUPERVISED, **SHARED).build()
    now = replace(
        tiny_batch, lidar=replace(tiny_batch.lidar, values=tiny_batch.lidar.values * torch.tensor([1, 1, 1, 1, 0.0]))
    )
    loss = detector.loss(detector(now), now)
    assert detector.spec.loss_weights == {"heatmap": 1.0, "boxes": 0.25, "lidar_depth": 3.0}
    assert set(loss.terms) == set(detector.spec.loss_weights)
    loss.lidar_depth.backward()
    # The depth logits, and not the context that is lifted.
    grad = detector.camera.lift.weight.grad
    assert grad[: SUPERVISED.depth_bins].any()
    assert not grad[SUPERVISED.depth_bins :].any()
    assert detector.head.shared[0].weight.grad is None


def test_a_supervised_camera_detects_without_returns_and_does_not_learn_without(tiny_batch, grid):
    torch.manual_seed(0)
    detector = DetectorSpec(grid=grid, camera=SUPERVISED, **SHARED).build().eval()
    blind = replace(tiny_batch, lidar=None, radar=None)
    assert len(detector.decode(detector(blind))) == 2
    with pytest.raises(ValueError, match="the batch has no lidar"):
        detector.loss(detector(blind), blind)


def test_an_unsupervised_camera_has_no_such_term(tiny_batch, grid):
    torch.manual_seed(0)
    detector = DetectorSpec(grid=grid, camera=ENCODERS["camera"], **SHARED).build()
    assert set(detector.loss(detector(tiny_batch), tiny_batch).terms) == {"heatmap", "boxes"}
    assert detector.spec.training_inputs == detector.spec.inputs


TRUNKS = {
    "resnet_fpn": {"stem_width": 6, "widths": (6, 8), "depths": (1, 1), "strides": (1, 2), "up_width": 5},
    "resnet_up": {"widths": (4, 6), "depths": (1, 1), "strides": (2, 2), "channels": 3},
}


@pytest.mark.parametrize("kind", TRUNKS)
def test_a_trunk_stands_where_a_neck_does(kind, tiny_batch, grid):
    """Written down as JSON and read again, too."""
    torch.manual_seed(0)
    neck = {"kind": kind, **TRUNKS[kind]}
    spec = DetectorSpec.model_validate({"grid": grid, "lidar": ENCODERS["lidar"], **SHARED, "neck": neck})
    assert DetectorSpec.model_validate_json(spec.model_dump_json()) == spec
    output = spec.build()(tiny_batch)
    assert output.bev_high.shape == (2, spec.high_channels, grid.rows, grid.columns)
