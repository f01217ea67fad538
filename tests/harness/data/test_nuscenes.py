"""One reader for synthetic and real roots: its frames are nuScenes' own, and what is wrong with a root is named."""

import json
import shutil

import pytest
import torch

BOTH = frozenset({"camera", "lidar"})

# Counted independently of this project in the full images (depth above 1 m).
POINTS_IN_REAL_IMAGES = {
    "CAM_FRONT": 3067,
    "CAM_FRONT_RIGHT": 3079,
    "CAM_FRONT_LEFT": 3704,
    "CAM_BACK": 4826,
    "CAM_BACK_LEFT": 4097,
    "CAM_BACK_RIGHT": 3379,
}


def _points_inside(boxes, points):
    """By the definition of a box: |offset| at most half the size, in the box's own axes."""
    counts = []
    for center, size, yaw in zip(boxes.center, boxes.size, boxes.yaw, strict=True):
        offset = points[:, :3] - center
        ahead = torch.stack([yaw.cos(), yaw.sin()])
        left = torch.stack([-yaw.sin(), yaw.cos()])
        own = torch.stack([offset[:, :2] @ ahead, offset[:, :2] @ left, offset[:, 2]], dim=1)
        counts.append(int((own.abs() <= size / 2).all(dim=1).sum()))
    return torch.tensor(counts)


def _pixels(views, points, camera):
    """Columns, rows and depths of BEV points in a view."""
    camera_from_ego = torch.linalg.inv(views.ego_from_camera[camera].double())
    own = points[:, :3].double() @ camera_from_ego[:3, :3].T + camera_from_ego[:3, 3]
    uvw = own @ views.intrinsics[camera].double().T
    return uvw[:, 0] / uvw[:, 2], uvw[:, 1] / uvw[:, 2], own[:, 2]


def test_real_boxes_hold_the_points_that_were_annotated(real_root):
    (token,) = real_root.tokens("mini_train")
    boxes, annotated = real_root.annotations(token)
    counted = _points_inside(boxes, real_root.read(token, frozenset({"lidar"}), None).points)
    assert len(boxes) == 68
    assert annotated[:, 0].sum() == 999
    # 60 and 29 with the boxes' full rotation; upright in the BEV frame, as detectors see them, it is 62 and 28.
    assert (counted == annotated[:, 0]).sum() >= 60
    assert (counted - annotated[:, 0]).abs().sum() <= 29


def test_real_points_project_into_the_images_they_belong_to(real_root):
    from harness.data.nuscenes import CAMERAS

    (token,) = real_root.tokens("mini_train")
    sample = real_root.read(token, BOTH, (900, 1600))
    counts = {}
    for camera, channel in enumerate(CAMERAS):
        u, v, depth = _pixels(sample.views, sample.points, camera)
        counts[channel] = int(((depth > 1) & (u > 0) & (u < 1600) & (v > 0) & (v < 900)).sum())
    assert counts == POINTS_IN_REAL_IMAGES


def test_resizing_moves_pixels_and_intrinsics_together(real_root):
    (token,) = real_root.tokens("mini_train")
    full = real_root.read(token, BOTH, (900, 1600))
    small = real_root.read(token, BOTH, (64, 176))
    for camera in range(6):
        u, v, depth = _pixels(full.views, full.points, camera)
        u_small, v_small, _ = _pixels(small.views, small.points, camera)
        seen = depth > 1
        # 1600 x 900 becomes 176 x 99, of which the upper 35 rows are cut.
        torch.testing.assert_close(u_small[seen], u[seen] * 0.11, atol=1e-3, rtol=1e-5)
        torch.testing.assert_close(v_small[seen], v[seen] * 0.11 - 35, atol=1e-3, rtol=1e-5)


def test_synthetic_boxes_hold_the_points_that_were_annotated(smoke_root):
    # The annotation counts in the global frame, where boxes stand upright; the BEV frame leans with the ego car.
    for token in smoke_root.tokens("synthetic_val"):
        boxes, annotated = smoke_root.annotations(token)
        counted = _points_inside(boxes, smoke_root.read(token, frozenset({"lidar"}), None).points)
        assert (counted - annotated[:, 0]).abs().sum() <= 0.05 * annotated[:, 0].sum()


def test_bev_frame_leads_back_to_the_global_frame(smoke_root):
    token = smoke_root.tokens("synthetic_val")[0]
    boxes, _ = smoke_root.annotations(token)
    pose = torch.tensor(smoke_root.global_from_bev(token))
    there = boxes.center.double() @ pose[:3, :3].T + pose[:3, 3]
    tokens = smoke_root.devkit.get("sample", token)["anns"]
    expected = torch.tensor([smoke_root.devkit.get("sample_annotation", t)["translation"] for t in tokens])
    torch.testing.assert_close(there, expected.double(), atol=1e-3, rtol=1e-5)


def test_training_ignores_what_no_sensor_point_fell_on(smoke_root):
    for token in smoke_root.tokens("synthetic_train"):
        boxes, annotated = smoke_root.annotations(token)
        assert len(smoke_root.read(token, frozenset(), None).boxes) == (annotated.sum(dim=1) > 0).sum() <= len(boxes)


def test_only_the_sensors_asked_for_are_read(smoke_root):
    token = smoke_root.tokens("synthetic_train")[0]
    camera, lidar = (smoke_root.read(token, frozenset({name}), (32, 48)) for name in ("camera", "lidar"))
    assert camera.points is None
    assert camera.views.images.shape == (6, 3, 32, 48)
    assert lidar.views is None
    assert lidar.points.shape[1] == 5
    assert 0 <= lidar.points[:, 3].min() <= lidar.points[:, 3].max() <= 1


def test_fingerprint_follows_content_not_place(smoke_path, smoke_root, tmp_path):
    from harness.data.nuscenes import NuScenesRoot

    copy = tmp_path / "moved"
    shutil.copytree(smoke_path, copy)
    assert NuScenesRoot(copy, "v1.0-synthetic").fingerprint() == smoke_root.fingerprint()
    table = copy / "v1.0-synthetic" / "sample_annotation.json"
    rows = json.loads(table.read_text())
    rows[0]["num_lidar_pts"] += 1
    table.write_text(json.dumps(rows))
    assert NuScenesRoot(copy, "v1.0-synthetic").fingerprint() != smoke_root.fingerprint()


@pytest.fixture
def broken(smoke_path, tmp_path):
    """A copy of the root to damage, and the message that opening and checking it must end in."""
    from harness.data.nuscenes import NuScenesRoot
    from harness.errors import InputError

    copy = tmp_path / "root"
    shutil.copytree(smoke_path, copy)

    def use(split, version):
        root = NuScenesRoot(copy, version)
        tokens = root.tokens(split)
        root.check_files(tokens, BOTH)
        for token in tokens:
            root.read(token, BOTH, (32, 48))

    def message(split="synthetic_val", version="v1.0-synthetic"):
        with pytest.raises(InputError) as caught:
            use(split, version)
        return str(caught.value)

    return copy, message


def test_missing_root_is_named(tmp_path):
    from harness.data.nuscenes import NuScenesRoot
    from harness.errors import InputError

    with pytest.raises(InputError, match="nowhere"):
        NuScenesRoot(tmp_path / "nowhere", "v1.0-mini")


def test_unknown_version_and_split_name_the_known_ones(broken):
    _, message = broken
    assert "v1.0-synthetic" in message(version="v1.0-sythetic")
    assert "synthetic_val" in message(split="synthetic_vall")
    assert "'val'" in message(split="val")


def test_missing_or_invalid_table_is_named(broken):
    root, message = broken
    table = root / "v1.0-synthetic" / "ego_pose.json"
    table.write_text("[{")
    assert "ego_pose.json is not valid JSON" in message()
    table.unlink()
    assert "ego_pose.json is missing" in message()


@pytest.mark.parametrize("channel", ["LIDAR_TOP", "CAM_BACK"])
@pytest.mark.parametrize("content", [None, b"", b"version https://git-lfs.github.com/spec/v1", b"\xff" * 40])
def test_missing_or_unreadable_sensor_file_is_named(broken, smoke_root, channel, content):
    root, message = broken
    token = smoke_root.tokens("synthetic_val")[0]
    record = smoke_root.devkit.get("sample_data", smoke_root.devkit.get("sample", token)["data"][channel])
    path = root / record["filename"]
    path.unlink() if content is None else path.write_bytes(content)
    assert path.name in message()
