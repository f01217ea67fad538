"""A detector maps a batch of its sensor to boxes, trains as a whole, and survives empty scenes."""

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from detectors.detector import DetectorSpec
from detectors.encoders.bev_neck import BevNeckSpec
from detectors.encoders.camera import CameraSpec
from detectors.encoders.image import ImageSpec
from detectors.encoders.lidar import LidarSpec
from detectors.heads.center import CenterHeadSpec

# The pyramid is as wide as the BEV map: DetectorOutput names both axes c.
IMAGE = ImageSpec(stem_width=4, widths=(4, 6, 8, 10), depths=(1, 1, 1, 1), channels=7)
SENSORS = {
    "camera": CameraSpec(image_size=(32, 48), image=IMAGE, depth_range=(1.0, 13.0), depth_bins=9, channels=7),
    "lidar": LidarSpec(voxels_per_cell=2, height_bins=8, widths=(4, 6), depths=(1, 1), channels=7),
}
SHARED = {"neck": BevNeckSpec(fine_width=8, coarse_width=10), "head": CenterHeadSpec(width=12)}


@pytest.fixture(params=SENSORS)
def detector(request, grid):
    torch.manual_seed(0)
    return DetectorSpec(grid=grid, **{request.param: SENSORS[request.param]}, **SHARED).build()


def _total_loss(detector, batch):
    loss = detector.loss(detector(batch), batch)
    return loss.heatmap + loss.boxes


def test_every_map_covers_the_grid_in_the_width_of_the_spec(detector, tiny_batch, grid):
    output, size = detector(tiny_batch), (grid.rows, grid.columns)
    assert output.bev_low.shape == (2, detector.spec.low_channels, *size)
    assert output.bev_high.shape == (2, detector.spec.high_channels, *size)
    assert output.head.heatmap.shape[2:] == output.head.boxes.shape[3:] == size
    mine, other = (output.camera_bev, output.lidar_bev)[:: 1 if "camera" in detector.spec.inputs.sensors else -1]
    assert mine is output.bev_low
    assert other is None


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


@pytest.mark.parametrize("names", [[], ["camera", "lidar"]])
def test_a_detector_has_exactly_one_sensor(grid, names):
    with pytest.raises(ValidationError, match="exactly one"):
        DetectorSpec(grid=grid, **{name: SENSORS[name] for name in names}, **SHARED)
