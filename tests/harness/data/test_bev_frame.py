"""The BEV frame of a detector is the ego car's or LIDAR_TOP's: one world, told in either."""

import json
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.batch import Inputs
from detectors.presets import PRESETS
from harness.data.augment import augment, move_bev
from harness.data.nuscenes import annotations, global_from_bev, read
from harness.data.root import LIDAR
from harness.data.sensor_files import read_lidar
from harness.evaluate.submission import write_submission
from harness.study.schedule import AugmentSpec

ALL = {"image_size": (32, 48), "keyframes": 2, "lidar_sweeps": 2, "radar_sweeps": 2}
EGO, LIDAR_FRAME = Inputs(**ALL), Inputs(bev_frame="lidar", **ALL)


@pytest.fixture
def token(smoke_root):
    return smoke_root.tokens("synthetic_val")[-1]


@pytest.fixture
def ego(smoke_root, token):
    return read(smoke_root, token, EGO)


@pytest.fixture
def lidar(smoke_root, token):
    return read(smoke_root, token, LIDAR_FRAME)


def _moved(points, matrix):
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def test_the_keyframes_points_stay_as_the_sensor_wrote_them(smoke_root, token):
    points = read(smoke_root, token, Inputs(bev_frame="lidar", lidar_sweeps=1)).lidar
    written = read_lidar(smoke_root.path / smoke_root.sweeps(token, LIDAR, 1)[0]["filename"])
    assert torch.equal(points[:, :3], torch.from_numpy(written[:, :3].copy()))


def test_every_sensor_lies_where_the_mount_of_the_lidar_says(ego, lidar):
    mount = lidar.frames.lidar_from_ego
    assert torch.equal(mount, ego.frames.lidar_from_ego)
    assert lidar.frames.bev_frame == "lidar"
    assert ego.frames.bev_frame == "ego"
    assert_close(lidar.lidar[:, :3], _moved(ego.lidar[:, :3], mount), atol=1e-4, rtol=0)
    assert torch.equal(lidar.lidar[:, 3:], ego.lidar[:, 3:])
    assert_close(lidar.radar[:, :3], _moved(ego.radar[:, :3], mount), atol=1e-4, rtol=0)
    assert_close(lidar.views.ego_from_camera, mount @ ego.views.ego_from_camera, atol=1e-4, rtol=1e-4)
    assert torch.equal(lidar.views.images, ego.views.images)


def test_right_is_x_and_ahead_is_y_in_the_lidars_frame(ego, lidar):
    ahead = ego.boxes.center[:, 0] > 5
    left = ego.boxes.center[:, 1] > 5
    assert ahead.any()
    assert left.any()
    assert (lidar.boxes.center[ahead, 1] > 3).all()
    assert (lidar.boxes.center[left, 0] < -3).all()


def test_a_box_keeps_its_points(ego, lidar):
    def inside(sample):
        boxes = sample.boxes
        offset = sample.lidar[None, :, :3] - boxes.center[:, None]
        cos, sin = boxes.yaw.cos()[:, None], boxes.yaw.sin()[:, None]
        along, across = (
            cos * offset[..., 0] + sin * offset[..., 1],
            cos * offset[..., 1] - sin * offset[..., 0],
        )
        # A hand's breadth more: the two frames are not level with one another, and a box is upright in either.
        own = torch.stack([along, across, offset[..., 2]], dim=-1).abs()
        return (own <= boxes.size[:, None] / 2 - 0.1).all(dim=-1), (own <= boxes.size[:, None] / 2 + 0.1).all(dim=-1)

    (sure, possible), (sure_too, possible_too) = inside(ego), inside(lidar)
    assert possible.any(dim=1).sum() > 3
    assert not (sure & ~possible_too).any()
    assert not (sure_too & ~possible).any()


def test_real_boxes_hold_their_points_in_the_lidars_frame_too(real_root):
    """There the sensor is not level: counted in its frame, as in the ego car's, hardly a point changes sides."""
    (token,) = real_root.tokens("mini_train")
    sample = read(real_root, token, Inputs(bev_frame="lidar", lidar_sweeps=1))
    boxes, facts = annotations(real_root, token, "lidar")
    offset = sample.lidar[None, :, :3] - boxes.center[:, None]
    cos, sin = boxes.yaw.cos()[:, None], boxes.yaw.sin()[:, None]
    along, across = cos * offset[..., 0] + sin * offset[..., 1], cos * offset[..., 1] - sin * offset[..., 0]
    inside = torch.stack([along, across, offset[..., 2]], dim=-1).abs() <= boxes.size[:, None] / 2
    difference = (inside.all(dim=-1).sum(dim=1) - facts.lidar_points).abs()
    assert (difference == 0).sum() >= 55
    assert difference.sum() <= 45


def test_a_real_scan_fills_the_voxels_that_were_counted_in_its_frame(real_root):
    (token,) = real_root.tokens("mini_train")
    points = read(real_root, token, Inputs(bev_frame="lidar", lidar_sweeps=1)).lidar
    in_range = (points[:, :2].abs() < 51.2).all(dim=1) & (points[:, 2] >= -5) & (points[:, 2] < 3)
    assert in_range.sum() == pytest.approx(32264, abs=1)


def test_predictions_are_the_same_in_global_coordinates(smoke_root, tmp_path):
    tokens = smoke_root.tokens("synthetic_val")
    results = [
        write_submission(
            tmp_path / f"{frame}.json",
            smoke_root,
            {token: annotations(smoke_root, token, frame)[0] for token in tokens},
            frozenset({"lidar"}),
            frame,
        )["results"]
        for frame in ("ego", "lidar")
    ]
    compared = 0
    for token in tokens:
        for ours, theirs in zip(*(result[token] for result in results), strict=True):
            np.testing.assert_allclose(ours["translation"], theirs["translation"], atol=2e-4)
            np.testing.assert_allclose(ours["velocity"], theirs["velocity"], atol=2e-2)
            assert ours["size"] == theirs["size"]
            assert ours["detection_name"] == theirs["detection_name"]
            # The heading is what the frames' tilts leave of it, to the second order.
            between = abs(np.dot(ours["rotation"], theirs["rotation"]))
            assert 2 * math.acos(min(1.0, between)) < 0.1
            compared += 1
    assert compared > 10
    assert json.loads((tmp_path / "lidar.json").read_text())["results"] == results[1]


def test_the_pose_of_the_frame_is_that_of_the_sensor(smoke_root, token, lidar):
    ego_pose, lidar_pose = (global_from_bev(smoke_root, token, frame) for frame in ("ego", "lidar"))
    np.testing.assert_allclose(lidar_pose @ lidar.frames.lidar_from_ego.double().numpy(), ego_pose, atol=1e-3)


def test_a_mirrored_world_is_mirrored_sideways_in_either_frame(ego, lidar, rng):
    spec = AugmentSpec(mirror_probability=1.0)
    seed = rng.initial_seed()
    mirrored = [augment(sample, spec, (32, 48), torch.Generator().manual_seed(seed)) for sample in (ego, lidar)]
    assert torch.equal(mirrored[0].views.images, mirrored[1].views.images)
    assert_close(mirrored[0].lidar[:, :3], ego.lidar[:, :3] * torch.tensor([1.0, -1, 1]))
    assert_close(mirrored[1].lidar[:, :3], lidar.lidar[:, :3] * torch.tensor([-1.0, 1, 1]))
    # What was to the left is to the right, what was ahead stays ahead.
    assert torch.equal(mirrored[1].boxes.center[:, 0], -lidar.boxes.center[:, 0])
    assert torch.equal(mirrored[1].boxes.center[:, 1], lidar.boxes.center[:, 1])


def test_real_predictions_are_the_same_in_global_coordinates(real_root, tmp_path):
    (token,) = real_root.tokens("mini_train")
    ours, theirs = (
        write_submission(
            tmp_path / f"{frame}.json",
            real_root,
            {token: annotations(real_root, token, frame)[0]},
            frozenset({"lidar"}),
            frame,
        )["results"][token]
        for frame in ("ego", "lidar")
    )
    assert len(ours) == 68
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one["translation"], other["translation"], atol=2e-3)
        assert 2 * math.acos(min(1.0, abs(np.dot(one["rotation"], other["rotation"])))) < 0.1


def test_a_sample_remembers_how_it_was_moved(ego):
    turn = torch.tensor([[0.0, -2, 0, 1], [2, 0, 0, 3], [0, 0, 2, 0], [0, 0, 0, 1]])
    once = move_bev(ego, turn)
    twice = move_bev(once, turn)
    assert_close(twice.frames.moved, turn @ turn)
    assert_close(_moved(ego.lidar[:, :3], twice.frames.moved), twice.lidar[:, :3], atol=1e-4, rtol=1e-4)


def test_two_detectors_of_different_frames_share_no_batch():
    ego = PRESETS["tiny_lidar"]
    lidar = ego.model_copy(update={"bev_frame": "lidar"})
    with pytest.raises(ValueError, match="one detector needs bev_frame ego, the other lidar"):
        ego.inputs.joined(lidar.inputs)
    assert lidar.inputs.joined(lidar.inputs).bev_frame == "lidar"


def test_the_frame_is_a_part_of_a_detectors_identity_only_where_it_is_not_the_ego_cars():
    ego = PRESETS["tiny_lidar"]
    assert "bev_frame" not in ego.model_dump(mode="json")
    assert ego.model_copy(update={"bev_frame": "lidar"}).model_dump(mode="json")["bev_frame"] == "lidar"
