"""The picture of a sample shows the reader's boxes where the devkit's own projection has them."""

import cv2
import numpy as np
import pytest
from nuscenes.eval.common.utils import quaternion_yaw
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import view_points
from pyquaternion import Quaternion
from typer.testing import CliRunner

from harness.data.__main__ import app
from harness.data.nuscenes import annotations
from harness.data.root import CAMERAS
from harness.inspect import picture
from harness.inspect.picture import cut_polygon, into_camera, pixels, read_whole


def _into(box, record):
    """Move a devkit box into the frame of a row of ego_pose or calibrated_sensor."""
    box.translate(-np.array(record["translation"]))
    box.rotate(Quaternion(record["rotation"]).inverse)


def _devkit_boxes(devkit, sample, channel, upright):
    """All boxes of the ten classes in the frame of a camera, by the devkit; `upright` in the ego frame of the LiDAR."""
    camera = devkit.get("sample_data", sample["data"][channel])
    pose = devkit.get("ego_pose", devkit.get("sample_data", sample["data"]["LIDAR_TOP"])["ego_pose_token"])
    for token in sample["anns"]:
        box = devkit.get_box(token)
        if category_to_detection_name(box.name) is None:
            continue
        if upright:
            _into(box, pose)
            box = Box(box.center, box.wlh, Quaternion(axis=[0, 0, 1], angle=quaternion_yaw(box.orientation)))
            box.rotate(Quaternion(pose["rotation"]))
            box.translate(np.array(pose["translation"]))
        _into(box, devkit.get("ego_pose", camera["ego_pose_token"]))
        _into(box, devkit.get("calibrated_sensor", camera["calibrated_sensor_token"]))
        yield box


@pytest.fixture(params=["synthetic", "real"])
def root_and_token(request):
    root = request.getfixturevalue("smoke_root" if request.param == "synthetic" else "real_root")
    return root, root.tokens("synthetic_val" if request.param == "synthetic" else "mini_train")[-1]


def test_corners_are_drawn_where_the_devkit_projects_them(root_and_token):
    root, token = root_and_token
    devkit, sample = root.devkit, root.devkit.get("sample", token)
    boxes, _ = annotations(root, token)
    views = read_whole(root, token).views
    compared = 0
    for camera, channel in enumerate(CAMERAS):
        record = devkit.get("sample_data", sample["data"][channel])
        sensor = devkit.get("calibrated_sensor", record["calibrated_sensor_token"])
        assert views.images.shape[-2:] == (record["height"], record["width"])
        placed = into_camera(boxes.corners(), views, camera)
        found = pixels(placed.numpy(), views.intrinsics[camera].numpy())
        centers = into_camera(boxes.center[:, None], views, camera)[:, 0]
        for i, box in enumerate(_devkit_boxes(devkit, sample, channel, upright=True)):
            if (placed[i, :, 2] < 1).any():
                continue
            expected = view_points(box.corners(), np.array(sensor["camera_intrinsic"]), normalize=True)[:2].T
            np.testing.assert_allclose(found[i], expected, atol=1.0)
            compared += 1
        for center, box in zip(centers, _devkit_boxes(devkit, sample, channel, upright=False), strict=True):
            # Boxes stand upright on the ego frame here and as annotated there; their middles are the same.
            np.testing.assert_allclose(center, box.center, atol=2e-3)
    assert compared > 30


def test_a_box_is_cut_where_it_meets_the_image_plane():
    line = np.array([[0.0, 0.0, -0.8], [1.0, 2.0, 1.2]])
    np.testing.assert_allclose(cut_polygon(line, closed=False), [[0.5, 1.0, 0.2], [1.0, 2.0, 1.2]])
    np.testing.assert_allclose(cut_polygon(line[::-1], closed=False), [[1.0, 2.0, 1.2], [0.5, 1.0, 0.2]])
    ahead = np.array([0.0, 0.0, 5.0])
    assert len(cut_polygon(line - ahead, closed=False)) == 0
    np.testing.assert_array_equal(cut_polygon(line + ahead, closed=False), line + ahead)
    square = np.array([[-1.0, 0.0, 1.2], [1.0, 0.0, 1.2], [1.0, 0.0, -0.8], [-1.0, 0.0, -0.8]])
    kept = cut_polygon(square)
    assert {tuple(point) for point in kept.round(6)} == {(-1, 0, 1.2), (1, 0, 1.2), (1, 0, 0.2), (-1, 0, 0.2)}
    assert len(cut_polygon(-square)) == 4
    assert len(cut_polygon(square - ahead)) == 0


def test_the_figure_has_six_images_and_a_view_from_above(root_and_token):
    from harness.inspect.picture import draw

    root, token = root_and_token
    figure = draw(root, token)
    assert len(figure.axes) == 7
    assert [len(axes.images) for axes in figure.axes] == [1] * 6 + [0]
    names = [axes.texts[0].get_text() for axes in figure.axes[:6]]
    assert names == ["front left", "front", "front right", "back left", "back", "back right"]
    above = figure.axes[6]
    assert (above.get_xlim(), above.get_ylim()) == ((-50, 50), (-50, 50))
    title = figure.texts[0].get_text()
    assert root.version in title
    assert token in title


def test_forward_is_up_and_left_is_left(smoke_root):
    from harness.inspect.picture import draw

    token = smoke_root.tokens("synthetic_val")[0]
    lidar = read_whole(smoke_root, token).lidar
    drawn = draw(smoke_root, token).axes[6].collections[0].get_offsets()
    np.testing.assert_allclose(drawn, np.stack([-lidar[:, 1], lidar[:, 0]], axis=1))


@pytest.mark.parametrize("suffix", ["png", "pdf", pytest.param("jpg", marks=pytest.mark.slow)])
def test_the_command_writes_a_picture(smoke_path, smoke_root, tmp_path, suffix):
    path = tmp_path / f"sample.{suffix}"
    token = smoke_root.tokens("synthetic_val")[1]
    result = CliRunner().invoke(app, ["inspect", str(smoke_path), "--fast", "--picture", str(path), "--sample", token])
    assert result.exit_code == 0, result.output
    assert f"picture: {path}" in result.output
    if suffix == "pdf":
        assert path.read_bytes().startswith(b"%PDF")
        return
    image = cv2.imread(str(path))
    assert image.shape[1] > 2000
    assert image.std() > 20
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 1000


@pytest.mark.slow
def test_the_first_sample_of_the_split_is_drawn(smoke_path, smoke_root, tmp_path, monkeypatch):
    drawn = []
    original = picture.draw
    monkeypatch.setattr(picture, "draw", lambda root, token: drawn.append(token) or original(root, token))
    command = ["inspect", str(smoke_path), "--fast", "--picture", str(tmp_path / "a.png")]
    for arguments in ([], ["--split", "synthetic_val"]):
        assert CliRunner().invoke(app, [*command, *arguments]).exit_code == 0
    assert drawn == [smoke_root.devkit.sample[0]["token"], smoke_root.tokens("synthetic_val")[0]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--picture", "{}/a.gif"], "unknown suffix '.gif'"),
        (["--picture", "{}/a"], "unknown suffix ''"),
        (["--picture", "{}/nowhere/a.png"], "nowhere does not exist"),
        (["--picture", "{}/folder.png"], "folder.png is a folder"),
        (["--picture", "/proc/a.png"], "a.png cannot be written"),
        (["--picture", "{}/a.png", "--sample", "lost"], "sample 'lost' is none of"),
        (["--sample", "lost"], "--sample chooses what --picture draws; add --picture FILE"),
    ],
)
def test_a_picture_that_cannot_be_made_is_said_so_by_name(smoke_path, tmp_path, arguments, words):
    (tmp_path / "folder.png").mkdir()
    given = [argument.format(tmp_path) for argument in arguments]
    result = CliRunner().invoke(app, ["inspect", str(smoke_path), "--fast", *given])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]
