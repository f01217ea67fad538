"""How fast a sample is read, against BEVDet's and BEVDepth's pipeline (PIL), and against OpenCV on whole images.

Measured only with ``pytest tests/benchmarks --benchmark-enable -s``: six images of 1600 x 900, ten LiDAR sweeps, five
RADARs, for images of 704 x 256, on one thread. Without it each body runs once, as a test. The images are those of the
real frame where there is one.
"""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from nuscenes.utils.data_classes import RadarPointCloud
from PIL import Image
from pyquaternion import Quaternion

from detectors.batch import Inputs
from harness.data.nuscenes import read
from harness.data.root import CAMERAS, LIDAR, RADARS, NuScenesRoot
from harness.data.sensor_files import RADAR_FIELDS, encode_radar, read_image
from tests.benchmarks.test_index import CHANNELS, SMALL, VERSION, write_tables

HEIGHT, WIDTH = 256, 704
SWEEPS = 10
IMAGES = Inputs(image_size=(HEIGHT, WIDTH))
EVERYTHING = Inputs(image_size=(HEIGHT, WIDTH), lidar_sweeps=SWEEPS, radar_sweeps=1)
REAL = Path(__file__).parents[2] / "shared" / "real" / "nuscenes-frame"
POINTS = 34_000
RETURNS = 60
MEAN, SPREAD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """A root of tables as nuScenes', and the token of a sample in it that has all of its sensor files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_tables(tmp_path / "root", SMALL)
    root = NuScenesRoot(tmp_path / "root", VERSION)
    token = root.index.column("sample", "token")[len(CHANNELS)]
    rng = np.random.default_rng(0)
    for row in root.files(token, EVERYTHING):
        file = root.path / row["filename"]
        file.parent.mkdir(parents=True, exist_ok=True)
        match row["sensor_modality"]:
            case "camera":
                file.write_bytes(_image(row["channel"], rng))
            case "lidar":
                points = rng.uniform(-50, 50, (POINTS, 5)).astype(np.float32)
                points[:, 3:] = rng.integers(0, 32, (POINTS, 2))
                file.write_bytes(points.tobytes())
            case "radar":
                returns = np.ones(RETURNS, RADAR_FIELDS)
                returns["invalid_state"], returns["ambig_state"] = 0, 3
                file.write_bytes(encode_radar(returns))
    assert len(root.sweeps(token, LIDAR, SWEEPS)) == SWEEPS
    return root, token


def _image(channel, rng):
    """A file of 1600 x 900 pixels: of the real frame, or of soft blots with noise."""
    real = Path(os.environ.get("CROSSBEV_REAL_FRAME", REAL))
    for file in real.glob(f"samples/{channel}/*.jpg"):
        return file.read_bytes()
    blots = cv2.resize(rng.uniform(0, 255, (30, 50, 3)), (1600, 900))
    image = np.clip(blots + rng.normal(0, 6, blots.shape), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def _by_pil(root, token):
    """As BEVDet and BEVDepth read images: opened, resized, cropped, normalised to floats."""
    images = []
    for channel in CAMERAS:
        image = Image.open(root.path / root.sweeps(token, channel, 1)[0]["filename"])
        scale = max(HEIGHT / image.height, WIDTH / image.width)
        width, height = int(image.width * scale), int(image.height * scale)
        left, top = (width - WIDTH) // 2, height - HEIGHT
        image = image.resize((width, height)).crop((left, top, left + WIDTH, top + HEIGHT))
        normal = (np.array(image).astype(np.float32) - MEAN) / SPREAD
        images.append(torch.tensor(normal).float().permute(2, 0, 1).contiguous())
    return torch.stack(images)


def _by_opencv(root, token):
    """Decoded as a whole, resized by area, cropped."""
    images = []
    for channel in CAMERAS:
        image = read_image(root.path / root.sweeps(token, channel, 1)[0]["filename"])
        scale = max(HEIGHT / image.shape[0], WIDTH / image.shape[1])
        width, height = round(image.shape[1] * scale), round(image.shape[0] * scale)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        left, top = (width - WIDTH) // 2, height - HEIGHT
        images.append(image[top : top + HEIGHT, left : left + WIDTH])
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))


def _pose(row):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Quaternion(row["rotation"]).rotation_matrix, row["translation"]
    return matrix


def _points(root, token):
    """As these repositories read points: a file after the other, moved as homogeneous doubles, concatenated."""
    index, clouds = root.index, []
    now = root.sweeps(token, LIDAR, 1)[0]
    ego = np.linalg.inv(_pose(index.get("ego_pose", now["ego_pose_token"])))
    sources = [(LIDAR, SWEEPS), *((channel, 1) for channel in RADARS)]
    for row in (row for channel, count in sources for row in root.sweeps(token, channel, count)):
        file = str(root.path / row["filename"])
        if row["sensor_modality"] == "radar":
            points = RadarPointCloud.from_file(file).points.T.astype(np.float64)
        else:
            points = np.fromfile(file, np.float32).reshape(-1, 5).astype(np.float64)
        sensor = _pose(index.get("calibrated_sensor", row["calibrated_sensor_token"]))
        moved = ego @ _pose(index.get("ego_pose", row["ego_pose_token"])) @ sensor
        points[:, :3] = (moved @ np.concatenate([points[:, :3], np.ones((len(points), 1))], axis=1).T).T[:, :3]
        clouds.append(torch.tensor(points, dtype=torch.float32))
    return clouds


def test_samples_against_pil_and_opencv(benchmark, speedups, sample):
    root, token = sample
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    ours, theirs = read(root, token, IMAGES).views.images.float(), _by_opencv(root, token).float()
    assert ours.shape == theirs.shape == _by_pil(root, token).shape
    assert 10 * torch.log10(255**2 / (ours - theirs).square().mean()) > 35
    assert len(_points(root, token)) == SWEEPS + len(RADARS)
    if benchmark.enabled:
        ways = {
            "images": {
                "ours": lambda: read(root, token, IMAGES),
                "PIL": lambda: _by_pil(root, token),
                "OpenCV": lambda: _by_opencv(root, token),
            },
            "images and points": {
                "ours": lambda: read(root, token, EVERYTHING),
                "PIL": lambda: (_by_pil(root, token), _points(root, token)),
                "OpenCV": lambda: (_by_opencv(root, token), _points(root, token)),
            },
        }
        for what, each in ways.items():
            for other in ("PIL", "OpenCV"):
                pair = {name: each[name] for name in ("ours", other)}
                factors = speedups(pair, of=other, rounds=15)
                print(f"{what}, against {other}: {factors}")
                benchmark.extra_info |= {f"{what}, {other}: {key}": value for key, value in factors.items()}
    benchmark(read, root, token, EVERYTHING)
