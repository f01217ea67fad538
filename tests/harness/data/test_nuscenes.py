"""One reader for synthetic and real roots: its frames and its ways through time are nuScenes' own."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from nuscenes.utils.data_classes import LidarPointCloud, RadarPointCloud
from nuscenes.utils.geometry_utils import transform_matrix
from pyquaternion import Quaternion
from torch.testing import assert_close

import harness.data.nuscenes
from detectors.batch import RADAR_STATES, CameraViews, Inputs, Points
from detectors.encoders.depth_net import calibration_numbers
from detectors.encoders.depth_supervision import depth_targets
from detectors.encoders.voxels import voxelise
from detectors.geometry.boxes import ATTRIBUTES, CLASSES
from detectors.geometry.grid import BevGrid
from detectors.geometry.lift import LiftGeometry
from harness.data.nuscenes import annotations, global_from_bev, read
from harness.data.root import CAMERAS, RADARS, NuScenesRoot
from harness.data.sensor_files import read_lidar
from harness.errors import InputError
from harness.study.schedule import ImageAugmentSpec

# Counted independently of this project in the full images (depth above 1 m).
POINTS_IN_REAL_IMAGES = {
    "CAM_FRONT": 3067,
    "CAM_FRONT_RIGHT": 3079,
    "CAM_FRONT_LEFT": 3704,
    "CAM_BACK": 4826,
    "CAM_BACK_LEFT": 4097,
    "CAM_BACK_RIGHT": 3379,
}


@pytest.fixture
def real_sample(real_root):
    """The real frame with full images, one LiDAR sweep and one of each RADAR."""
    (token,) = real_root.tokens("mini_train")
    return read(real_root, token, Inputs(image_size=(900, 1600), lidar_sweeps=1, radar_sweeps=1))


def _inside(points, center, size, turn):
    """By the definition of a box: |offset| at most half the size (length, width, height), in the box's own axes."""
    return ((points - center) @ turn).abs().le(size / 2).all(dim=1)


def _upright(yaw):
    cos, sin = float(yaw.cos()), float(yaw.sin())
    return torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _pixels(views, points, camera):
    """Columns, rows and depths of BEV points in a view."""
    camera_from_ego = torch.linalg.inv(views.ego_from_camera[camera].double())
    own = points[:, :3].double() @ camera_from_ego[:3, :3].T + camera_from_ego[:3, 3]
    uvw = own @ views.intrinsics[camera].double().T
    return uvw[:, 0] / uvw[:, 2], uvw[:, 1] / uvw[:, 2], own[:, 2]


def test_real_boxes_hold_the_points_that_were_annotated(real_root, real_sample):
    token = real_sample.token
    boxes, facts = annotations(real_root, token)
    assert len(boxes) == 68
    assert facts.lidar_points.sum() == 999

    # With the full rotation of the annotation, in the global frame: the independently counted 60 and 29.
    pose = torch.tensor(global_from_bev(real_root, token))
    points = real_sample.lidar[:, :3].double() @ pose[:3, :3].T + pose[:3, 3]
    counted = []
    for annotation in (
        real_root.devkit.get("sample_annotation", t) for t in real_root.devkit.get("sample", token)["anns"]
    ):
        width, length, height = annotation["size"]
        turn = torch.tensor(Quaternion(annotation["rotation"]).rotation_matrix)
        box = torch.tensor(annotation["translation"]), torch.tensor([length, width, height]), turn
        counted.append(int(_inside(points, *box).sum()))
    difference = (torch.tensor(counted) - facts.lidar_points).abs()
    assert ((difference == 0).sum(), difference.sum()) == (60, 29)

    # Upright in the BEV frame, as detectors see them, hardly another point changes sides.
    counted = [
        int(_inside(real_sample.lidar[:, :3], center, size, _upright(yaw)).sum())
        for center, size, yaw in zip(boxes.center, boxes.size, boxes.yaw, strict=True)
    ]
    difference = (torch.tensor(counted) - facts.lidar_points).abs()
    assert (difference == 0).sum() >= 60
    assert difference.sum() <= 29


def test_real_points_project_into_the_images_they_belong_to(real_sample):
    counts = {}
    for camera, channel in enumerate(CAMERAS):
        u, v, depth = _pixels(real_sample.views, real_sample.lidar, camera)
        counts[channel] = int(((depth > 1) & (u > 0) & (u < 1600) & (v > 0) & (v < 900)).sum())
    assert counts == POINTS_IN_REAL_IMAGES


def test_real_points_fill_the_voxels_and_pillars_that_were_counted(real_root, real_sample):
    # The count was made in the LiDAR's own frame.
    record = real_root.sweeps(real_sample.token, "LIDAR_TOP", 1)[0]
    sensor = real_root.devkit.get("calibrated_sensor", record["calibrated_sensor_token"])
    turn = torch.tensor(Quaternion(sensor["rotation"]).rotation_matrix)
    own = (real_sample.lidar[:, :3].double() - torch.tensor(sensor["translation"])) @ turn
    points = torch.cat([own.float(), real_sample.lidar[:, 3:]], dim=1)
    cloud = Points(points, torch.zeros(len(points), dtype=torch.long))
    limits = {"x_range": (-51.2, 51.2), "y_range": (-51.2, 51.2), "z_range": (-5.0, 3.0)}
    in_range = (points[:, :2].abs() < 51.2).all(dim=1) & (points[:, 2] >= -5) & (points[:, 2] < 3)
    assert in_range.sum() == pytest.approx(32264, abs=1)
    voxels, _ = voxelise(cloud, BevGrid(cell=0.1, **limits), 1, 40)
    pillars, _ = voxelise(cloud, BevGrid(cell=0.2, **limits), 1, 1)
    assert len(voxels) == pytest.approx(15307, abs=1)
    assert len(pillars) == pytest.approx(7896, abs=1)


def test_resizing_moves_pixels_and_intrinsics_together(real_root, real_sample):
    small = read(real_root, real_sample.token, Inputs(image_size=(64, 176)))
    whole = read(real_root, real_sample.token, Inputs(image_size=(64, 176)), ImageAugmentSpec(zoom=(1.0, 2.0)))
    assert whole.views.images.shape == (6, 3, 198, 352)
    for camera in range(6):
        u, v, depth = _pixels(real_sample.views, real_sample.lidar, camera)
        seen = depth > 1
        # 1600 x 900 becomes 176 x 99, of which the upper 35 rows are cut.
        for views, scale, cut in ((small.views, 0.11, 35), (whole.views, 0.22, 0)):
            columns, rows, _ = _pixels(views, real_sample.lidar, camera)
            torch.testing.assert_close(columns[seen], u[seen] * scale, atol=1e-3, rtol=1e-5)
            torch.testing.assert_close(rows[seen], v[seen] * scale - cut, atol=1e-3, rtol=1e-5)


def test_a_missing_past_is_no_past(real_root, real_sample):
    asked = Inputs(image_size=(32, 48), keyframes=3, lidar_sweeps=10, radar_sweeps=6)
    sample = read(real_root, real_sample.token, asked)
    assert torch.equal(sample.lidar, real_sample.lidar)
    assert torch.equal(sample.radar, real_sample.radar)
    # The only keyframe stands in for those before it, so that a batch has the same views for every sample.
    assert len(sample.views.images) == 18
    assert torch.equal(sample.views.images[:6], sample.views.images[12:])
    assert torch.equal(sample.views.age[:6], sample.views.age[6:12])


def test_facts_are_those_of_the_tables(smoke_root):
    token = smoke_root.tokens("synthetic_val")[1]
    boxes, facts = annotations(smoke_root, token)
    devkit = smoke_root.devkit
    rows = [devkit.get("sample_annotation", t) for t in devkit.get("sample", token)["anns"]]
    assert len(rows) == len(boxes) > 10
    for i, row in enumerate(rows):
        names = [devkit.get("attribute", t)["name"] for t in row["attribute_tokens"]]
        assert names == ([ATTRIBUTES[facts.attribute[i]]] if facts.attribute[i] >= 0 else [])
        assert (not names) == (CLASSES[boxes.label[i]] in ("barrier", "traffic_cone"))
        assert int(row["visibility_token"]) == facts.visibility[i]
        assert (row["num_lidar_pts"], row["num_radar_pts"]) == (facts.lidar_points[i], facts.radar_points[i])
        assert row["size"] == pytest.approx(boxes.size[i, [1, 0, 2]].tolist())
        speed = np.hypot(*devkit.box_velocity(row["token"])[:2])
        assert speed == pytest.approx(float(boxes.velocity[i].norm()), abs=0.05)


def test_synthetic_boxes_hold_the_points_that_were_annotated(smoke_root):
    # The annotation counts in the global frame, where boxes stand upright; the BEV frame leans with the ego car.
    for token in smoke_root.tokens("synthetic_val"):
        boxes, facts = annotations(smoke_root, token)
        points = read(smoke_root, token, Inputs(lidar_sweeps=1)).lidar[:, :3]
        counted = [
            int(_inside(points, center, size, _upright(yaw)).sum())
            for center, size, yaw in zip(boxes.center, boxes.size, boxes.yaw, strict=True)
        ]
        difference = (torch.tensor(counted) - facts.lidar_points).abs().sum()
        assert difference <= 0.05 * facts.lidar_points.sum()


def test_bev_frame_leads_back_to_the_global_frame(smoke_root):
    token = smoke_root.tokens("synthetic_val")[0]
    boxes, _ = annotations(smoke_root, token)
    pose = torch.tensor(global_from_bev(smoke_root, token))
    there = boxes.center.double() @ pose[:3, :3].T + pose[:3, 3]
    tokens = smoke_root.devkit.get("sample", token)["anns"]
    expected = torch.tensor([smoke_root.devkit.get("sample_annotation", t)["translation"] for t in tokens])
    torch.testing.assert_close(there, expected.double(), atol=1e-3, rtol=1e-5)


def _sensor_pose(devkit, record):
    """ego_from_sensor, by the devkit's own function."""
    sensor = devkit.get("calibrated_sensor", record["calibrated_sensor_token"])
    return transform_matrix(sensor["translation"], Quaternion(sensor["rotation"]))


def test_lidar_sweeps_lie_where_the_devkit_puts_them(smoke_root):
    token = smoke_root.tokens("synthetic_val")[-1]
    sample = smoke_root.devkit.get("sample", token)
    points = read(smoke_root, token, Inputs(lidar_sweeps=3)).lidar
    cloud, ages = LidarPointCloud.from_file_multisweep(smoke_root.devkit, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=3)
    pose = _sensor_pose(smoke_root.devkit, smoke_root.devkit.get("sample_data", sample["data"]["LIDAR_TOP"]))
    expected = (pose @ np.vstack([cloud.points[:3], np.ones((1, cloud.points.shape[1]))]))[:3].T
    assert len(points) == len(expected)
    torch.testing.assert_close(points[:, :3].double(), torch.tensor(expected), atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(points[:, 4].double(), torch.tensor(ages[0]), atol=1e-6, rtol=0)
    assert len(points[:, 4].unique()) == 3
    assert 0 <= points[:, 3].min() <= points[:, 3].max() <= 1


def test_a_short_list_of_sweeps_is_filled_with_the_oldest(smoke_root):
    first, second = smoke_root.tokens("synthetic_val")[:2]
    for token in (first, second):
        left = read(smoke_root, token, Inputs(lidar_sweeps=9)).lidar
        filled = read(smoke_root, token, Inputs(lidar_sweeps=9, lidar_fill=True)).lidar
        ages, counts = left[:, 4].unique(return_counts=True)
        missing = 9 - len(smoke_root.sweeps(token, "LIDAR_TOP", 9))
        assert missing > 0
        oldest = left[left[:, 4] == ages[-1]]
        assert len(filled) == len(left) + missing * int(counts[-1])
        assert torch.equal(filled, torch.cat([left, *[oldest] * missing]))


def test_near_returns_of_earlier_sweeps_stay_where_they_are_asked_for(smoke_root, monkeypatch):
    token = smoke_root.tokens("synthetic_val")[-1]
    close = read_lidar(smoke_root.path / smoke_root.sweeps(token, "LIDAR_TOP", 2)[1]["filename"]).copy()
    close[:5, :3] = torch.tensor([0.5, -0.5, 0.0])
    monkeypatch.setattr(harness.data.nuscenes, "read_lidar", lambda path: close)
    stay, go = (read(smoke_root, token, Inputs(lidar_sweeps=3, lidar_near=near)).lidar for near in (True, False))
    assert len(stay) == 3 * len(close)
    # Of both sweeps before the keyframe, but not of that.
    assert len(stay) - len(go) == 2 * int(((close[:, 0] ** 2 < 1) & (close[:, 1] ** 2 < 1)).sum()) >= 10


def test_radar_sweeps_lie_where_the_devkit_puts_them(smoke_root):
    token = smoke_root.tokens("synthetic_val")[-1]
    devkit = smoke_root.devkit
    sample = devkit.get("sample", token)
    points = read(smoke_root, token, Inputs(radar_sweeps=3)).radar
    pose = _sensor_pose(devkit, devkit.get("sample_data", sample["data"]["LIDAR_TOP"]))
    clouds, ages = [], []
    for channel in RADARS:
        cloud, age = RadarPointCloud.from_file_multisweep(devkit, sample, channel, "LIDAR_TOP", 3, min_distance=0.0)
        clouds.append((pose @ np.vstack([cloud.points[:3], np.ones((1, cloud.points.shape[1]))]))[:3].T)
        ages.append(age[0])
    torch.testing.assert_close(points[:, :3].double(), torch.tensor(np.vstack(clouds)), atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(points[:, 6].double(), torch.tensor(np.hstack(ages)), atol=1e-6, rtol=0)
    # What is measured is the radial speed: a velocity points along the line from the RADAR, which is near the ego car.
    moving = points[:, 4:6].norm(dim=1) > 2
    direction = points[moving, :2] / points[moving, :2].norm(dim=1, keepdim=True)
    along = (points[moving, 4:6] * direction).sum(dim=1).abs() / points[moving, 4:6].norm(dim=1)
    assert moving.sum() > 3
    assert along.median() > 0.9


def test_states_come_with_all_returns_and_without_them_the_valid_ones_alone(real_root, real_sample):
    asked = Inputs(radar_sweeps=1, radar_states=True)
    radar = read(real_root, real_sample.token, asked).radar
    assert radar.shape == (5 * 125, 7 + len(RADAR_STATES))
    dyn_prop, ambig_state, invalid_state, _ = radar[:, 7:].unbind(dim=1)
    valid = (invalid_state == 0) & (dyn_prop <= 6) & (ambig_state == 3)
    assert 0 < valid.sum() < len(radar)
    assert torch.equal(radar[valid, :7], real_sample.radar)
    for column, count in enumerate(RADAR_STATES.values(), start=7):
        assert radar[:, column].min() >= 0
        assert radar[:, column].max() < count


def test_earlier_keyframes_are_seen_from_where_they_were_taken(smoke_root):
    first, _, last = smoke_root.tokens("synthetic_val")
    sample = read(smoke_root, last, Inputs(image_size=(32, 48), keyframes=3))
    views = read(smoke_root, first, Inputs(image_size=(32, 48))).views
    assert sample.views.images.shape == (18, 3, 32, 48)
    assert torch.equal(sample.views.images[12:], views.images)
    # A place in the world has the same pixel in the old image, whichever of the two BEV frames it is told in.
    now, then = (torch.tensor(global_from_bev(smoke_root, token)) for token in (last, first))
    ahead = torch.tensor([[20.0, 5.0, 1.0], [-15.0, 8.0, 2.0]], dtype=torch.float64)
    moved = (ahead @ then[:3, :3].T + then[:3, 3] - now[:3, 3]) @ now[:3, :3]
    for camera in range(len(CAMERAS)):
        before, after = _pixels(views, ahead, camera), _pixels(sample.views, moved, 12 + camera)
        for one, other in zip(before, after, strict=True):
            torch.testing.assert_close(one, other, atol=0.05, rtol=1e-3)
    assert sample.views.age[12:].numpy() == pytest.approx(1.0 + views.age.numpy(), abs=1e-3)


def test_training_ignores_what_no_sensor_point_fell_on(smoke_root):
    for token in smoke_root.tokens("synthetic_train"):
        boxes, facts = annotations(smoke_root, token)
        sample = read(smoke_root, token, Inputs())
        seen = facts.lidar_points + facts.radar_points > 0
        assert len(sample.boxes) == len(sample.facts.visibility) == seen.sum() < len(boxes)


def test_only_the_sensors_asked_for_are_read(smoke_root):
    token = smoke_root.tokens("synthetic_train")[0]
    asked = (Inputs(image_size=(32, 48)), Inputs(lidar_sweeps=1), Inputs(radar_sweeps=1))
    camera, lidar, radar = (read(smoke_root, token, inputs) for inputs in asked)
    assert camera.views.images.shape == (6, 3, 32, 48)
    assert (camera.lidar, camera.radar) == (None, None)
    assert (lidar.views, lidar.lidar.shape[1], lidar.radar) == (None, 5, None)
    assert (radar.views, radar.lidar, radar.radar.shape[1]) == (None, None, 7)


def test_an_image_of_another_size_than_its_calibration_is_refused(smoke_root, smoke_path, tmp_path):
    copy = NuScenesRoot(shutil.copytree(smoke_path, tmp_path / "copy"), smoke_root.version)
    token = copy.tokens("synthetic_val")[0]
    path = copy.path / copy.sweeps(token, "CAM_BACK", 1)[0]["filename"]
    # Of the same shape, half as large: without the check its calibration would be wrong by a factor of two.
    cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (176, 99)))
    with pytest.raises(InputError, match=f"{path.name} has 176 x 99 pixels, but 352 x 198"):
        read(copy, token, Inputs(image_size=(32, 48)))


def test_what_is_known_of_a_real_camera_is_in_the_tables(real_root):
    """BEVDepth's numbers: the lens of the file, how it was shrunk and cropped, and where the camera is mounted."""
    (token,) = real_root.tokens("mini_train")
    views = read(real_root, token, Inputs(image_size=(256, 704))).views
    batch = CameraViews(*(value[None] for value in vars(views).values()))
    numbers = calibration_numbers(batch)[0]
    for view, channel in enumerate(CAMERAS):
        record = real_root.sweeps(token, channel, 1)[0]
        sensor = real_root.index.get("calibrated_sensor", record["calibrated_sensor_token"])
        lens = torch.tensor(sensor["camera_intrinsic"])
        assert_close(
            numbers[view, :4], torch.stack([lens[0, 0], lens[1, 1], lens[0, 2], lens[1, 2]]), rtol=1e-4, atol=0.01
        )
        # 900 x 1600 pixels to 396 x 704, of which the upper 140 rows are cut off.
        assert_close(numbers[view, 4:10], torch.tensor([0.44, 0.0, 0.0, 0.0, 0.44, -140.0]), rtol=1e-6, atol=1e-4)
        assert numbers[view, 10:15].tolist() == [1, 0, 0, 1, 1]
        turn = torch.tensor(Quaternion(sensor["rotation"]).rotation_matrix, dtype=torch.float32)
        mount = torch.cat([turn, torch.tensor(sensor["translation"])[:, None]], dim=1)
        # The car drives between the camera's time and the LiDAR's.
        assert_close(numbers[view, 15:].reshape(3, 4)[:, :3], turn, atol=0.01, rtol=0)
        assert_close(numbers[view, 15:].reshape(3, 4), mount, atol=1.0, rtol=0)


def test_returns_for_a_loss_are_those_of_the_keyframe(smoke_root):
    token = smoke_root.tokens("synthetic_val")[-1]
    inputs = Inputs(image_size=(80, 224), lidar_for_loss=True)
    sample = read(smoke_root, token, inputs)
    assert torch.equal(sample.lidar, read(smoke_root, token, Inputs(lidar_sweeps=1)).lidar)
    assert not sample.lidar[:, 4].any()
    asked = {row["filename"] for row in smoke_root.files(token, inputs)}
    images = {row["filename"] for row in smoke_root.files(token, Inputs(image_size=(80, 224)))}
    assert asked - images == {smoke_root.sweeps(token, "LIDAR_TOP", 1)[0]["filename"]}


def test_depths_of_the_real_frame_are_those_of_its_returns(real_root):
    """In the patches of a real image, the nearest return by the slow way: one point after the other."""
    (token,) = real_root.tokens("mini_train")
    sample = read(real_root, token, Inputs(image_size=(256, 704), lidar_sweeps=1))
    grid = BevGrid(x_range=(-51.2, 51.2), y_range=(-51.2, 51.2), z_range=(-5.0, 3.0), cell=0.8)
    geometry = LiftGeometry(grid=grid, feature_size=(16, 44), stride=16, depth_range=(2.0, 58.0), depth_bins=112)
    bins = depth_targets(sample.lidar[:, :3], sample.views, geometry)
    for camera in (0, 3):
        column, row, depth = _pixels(sample.views, sample.lidar, camera)
        nearest = {}
        for c, r, z in zip(column.tolist(), row.tolist(), depth.tolist(), strict=True):
            if z > 0 and 0 <= c < 704 and 0 <= r < 256:
                patch = int(r // 16), int(c // 16)
                nearest[patch] = min(nearest.get(patch, np.inf), z)
        wanted = torch.full((16, 44), -1)
        for patch, z in nearest.items():
            if 2 <= z < 58:
                wanted[patch] = int((z - 2) / 0.5)
        assert (wanted >= 0).sum() > 100
        # A place may be a rounding away from the border of a patch or of a bin.
        assert (wanted != bins[camera]).sum() <= 2
