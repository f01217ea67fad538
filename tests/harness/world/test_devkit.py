"""To the unmodified devkit the synthetic world is a dataset like any other: opened, fused, drawn and scored."""

import json
import math
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.eval.detection.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.data_classes import Box, LidarPointCloud, RadarPointCloud
from nuscenes.utils.geometry_utils import points_in_box
from pyquaternion import Quaternion

from harness.world import nuscenes
from harness.world.nuscenes import SWEEPS, Preset, synthesize

pytestmark = pytest.mark.slow

RADARS = ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT")


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    """A dataset with enough scenes that every class has an object in range in its validation split."""
    out = tmp_path_factory.mktemp("devkit") / "world"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(nuscenes.PRESETS, "smoke", Preset(train=1, tune=0, val=5, keyframes=3, sweeps=SWEEPS))
        synthesize(out, "smoke", 1)
    return NuScenes(version="v1.0-synthetic", dataroot=str(out), verbose=False)


def _radar(devkit, row):
    """All returns of a RADAR file, unfiltered: its 18 rows, and x, y, z in the global frame."""
    states = (list(range(18)), list(range(8)), list(range(5)))
    cloud = RadarPointCloud.from_file(f"{devkit.dataroot}/{row['filename']}", *states)
    moved = RadarPointCloud(cloud.points.copy())
    for table in ("calibrated_sensor", "ego_pose"):
        pose = devkit.get(table, row[f"{table}_token"])
        moved.rotate(Quaternion(pose["rotation"]).rotation_matrix)
        moved.translate(np.array(pose["translation"]))
    return cloud.points, moved.points[:3]


def _in_box(box, points):
    """Points (3 x n, global) in the frame of a box: forward, left, up."""
    return box.orientation.inverse.rotation_matrix @ (points - box.center[:, None])


def test_counts_of_points_are_the_devkits_own(devkit):
    lidar, radar = 0, 0
    for sample in devkit.sample:
        path, boxes, _ = devkit.get_sample_data(sample["data"]["LIDAR_TOP"])
        points = LidarPointCloud.from_file(path).points[:3].astype(np.float64)
        rows = [devkit.get("sample_data", sample["data"][channel]) for channel in RADARS]
        returns = np.concatenate([_radar(devkit, row)[1] for row in rows], axis=1)
        for box in boxes:
            annotation = devkit.get("sample_annotation", box.token)
            assert int(points_in_box(box, points).sum()) == annotation["num_lidar_pts"]
            forward, left, _ = np.abs(_in_box(devkit.get_box(box.token), returns))
            width, length, _ = annotation["size"]
            assert ((forward <= length / 2) & (left <= width / 2)).sum() == annotation["num_radar_pts"]
            lidar, radar = lidar + (annotation["num_lidar_pts"] > 0), radar + (annotation["num_radar_pts"] > 0)
    assert lidar > 300
    assert radar > 100


def test_near_objects_in_plain_view_keep_enough_lidar_points(devkit):
    counts = {}
    for sample in devkit.sample:
        row = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
        ego = devkit.get("ego_pose", row["ego_pose_token"])["translation"]
        for annotation in (devkit.get("sample_annotation", token) for token in sample["anns"]):
            if annotation["visibility_token"] == "4" and math.dist(ego[:2], annotation["translation"][:2]) < 25:
                counts.setdefault(annotation["category_name"], []).append(annotation["num_lidar_pts"])
    assert len(counts) == 10
    for name, found in counts.items():
        # A cone at 20 m is narrower than the gap between two rays.
        cone = name == "movable_object.trafficcone"
        assert np.mean(np.array(found) > 0) > (0.5 if cone else 0.9)
        assert np.median(found) >= (1 if cone else 5)
    assert np.median(counts["vehicle.car"]) > 25


@pytest.mark.parametrize("channel", ["LIDAR_TOP", "RADAR_FRONT", "RADAR_BACK_LEFT"])
def test_more_sweeps_are_more_points_with_their_ages(devkit, channel):
    cloud, step = (LidarPointCloud, 1 / 4) if channel == "LIDAR_TOP" else (RadarPointCloud, 1 / 6)
    for sample in devkit.sample[:6]:
        counts = []
        for sweeps in (1, 2, 3):
            points, ages = cloud.from_file_multisweep(devkit, sample, channel, "LIDAR_TOP", nsweeps=sweeps)
            counts.append(points.nbr_points())
            found = sorted({round(float(age), 4) for age in ages[0]})
            if channel == "LIDAR_TOP" and not sample["prev"]:
                sweeps = min(sweeps, 2)  # the first keyframe's past
            assert len(found) == sweeps
            # A RADAR fires up to 43 ms before or after the LiDAR, with 6 ms of jitter.
            assert found[0] == pytest.approx(0, abs=0 if channel == "LIDAR_TOP" else 0.043)
            assert np.diff(found) == pytest.approx(step, abs=0 if channel == "LIDAR_TOP" else 0.012)
        assert counts[0] < counts[1] <= counts[2]


def test_what_stands_still_lines_up_over_sweeps(devkit):
    """Around parked vehicles, LiDAR returns of an earlier sweep lie in the box and not beside it."""
    beside, within = {1: 0, 2: 0}, {1: 0, 2: 0}
    parked = {row["token"] for row in devkit.attribute if row["name"] in ("vehicle.parked", "vehicle.stopped")}
    for sample in devkit.sample:
        moving = np.linalg.norm(
            np.subtract(*(devkit.get("ego_pose", t)["translation"] for t in _poses(devkit, sample)))
        )
        if moving < 0.5:
            continue
        points, ages = LidarPointCloud.from_file_multisweep(devkit, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=2)
        _, boxes, _ = devkit.get_sample_data(sample["data"]["LIDAR_TOP"])
        for box in boxes:
            if not parked & set(devkit.get("sample_annotation", box.token)["attribute_tokens"]):
                continue
            width, length, height = box.wlh
            forward, left, up = np.abs(_in_box(box, points.points[:3].astype(np.float64)))
            # How far outside the sides; the ground around the wheels, which may slope, is left out.
            outside = np.maximum(forward - length / 2, left - width / 2)
            level = _in_box(box, points.points[:3])[2] > 0.8 - height / 2
            for sweep, own in ((1, ages[0] == 0), (2, ages[0] > 0)):
                mine = own & level & (up < height / 2 + 0.05)
                within[sweep] += (mine & (outside <= 0.0)).sum()
                # Range noise of at most 6 cm, less the gap of 5 cm between box and surface, is 1 cm.
                beside[sweep] += (mine & (outside > 0.02) & (outside < 0.25)).sum()
    for sweep in (1, 2):
        assert within[sweep] > 1000
        assert beside[sweep] < 0.005 * within[sweep]


def _poses(devkit, sample):
    row = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
    return row["ego_pose_token"], devkit.get("sample_data", row["prev"])["ego_pose_token"]


def test_radar_speeds_are_those_of_the_annotations_along_the_line_of_sight(devkit):
    differences = []
    for sample in devkit.sample:
        for channel in RADARS:
            row = devkit.get("sample_data", sample["data"][channel])
            raw, returns = _radar(devkit, row)
            sight = raw[:2] / np.hypot(*raw[:2])
            speed = (raw[8:10] * sight).sum(axis=0)
            mount, ego = (devkit.get(table, row[f"{table}_token"]) for table in ("calibrated_sensor", "ego_pose"))
            turn = (Quaternion(ego["rotation"]) * Quaternion(mount["rotation"])).inverse
            valid = (raw[14] == 0) & (raw[3] <= 6) & (raw[11] == 3)
            for token in sample["anns"]:
                velocity = devkit.box_velocity(token)
                if not np.linalg.norm(velocity[:2]) > 1:
                    continue
                box = devkit.get_box(token)
                forward, left, _ = np.abs(_in_box(box, returns))
                inside = valid & (forward <= box.wlh[1] / 2) & (left <= box.wlh[0] / 2)
                differences.append(np.abs(speed - turn.rotate(velocity)[:2] @ sight)[inside])
    differences = np.concatenate(differences)
    assert len(differences) > 100
    assert np.median(differences) < 0.3


def test_every_channel_is_one_chain_through_keyframes_and_sweeps(devkit):
    expected = {"camera": (3, 0), "lidar": (3, 1), "radar": (3, 2)}
    for scene in devkit.scene:
        samples = [row for row in devkit.sample if row["scene_token"] == scene["token"]]
        times = np.array([row["timestamp"] for row in samples])
        mine = [row for row in devkit.sample_data if row["sample_token"] in {sample["token"] for sample in samples}]
        channels = {row["channel"] for row in mine}
        assert len(channels) == 12
        for channel in channels:
            (first,) = [row for row in mine if row["channel"] == channel and not row["prev"]]
            chain = [first]
            while chain[-1]["next"]:
                chain.append(devkit.get("sample_data", chain[-1]["next"]))
            keyframes, between = expected[first["sensor_modality"]]
            assert len(chain) == sum(row["channel"] == channel for row in mine) == keyframes * (1 + between)
            for before, after in pairwise(chain):
                assert after["prev"] == before["token"]
                assert after["timestamp"] > before["timestamp"]
            # The past of the first keyframe is as long as that of the others.
            assert [row["is_key_frame"] for row in chain] == ([False] * between + [True]) * keyframes
            assert [sample["data"][channel] for sample in samples] == [
                row["token"] for row in chain if row["is_key_frame"]
            ]
            for row in chain:
                assert row["filename"].startswith(f"{'samples' if row['is_key_frame'] else 'sweeps'}/{channel}/")
                assert devkit.get("ego_pose", row["ego_pose_token"])["timestamp"] == row["timestamp"]
                lag = np.abs(times - row["timestamp"])
                own = next(i for i, sample in enumerate(samples) if sample["token"] == row["sample_token"])
                assert lag[own] == lag.min()
                if row["is_key_frame"]:
                    assert lag[own] < 50_000


@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
def test_a_sample_is_drawn(devkit, tmp_path):
    plt.switch_backend("Agg")
    devkit.render_sample(devkit.sample[-1]["token"], out_path=str(tmp_path / "sample.png"), verbose=False)
    plt.close("all")
    # The road under the ego car, which the map shows as drivable, is there at every scene's ends.
    mask = devkit.map[0]["mask"]
    for scene in devkit.scene:
        for token in (scene["first_sample_token"], scene["last_sample_token"]):
            x, y, _ = devkit.get("ego_pose", devkit.get("sample", token)["data"]["LIDAR_TOP"])["translation"]
            around = np.linspace(0, 2 * math.pi, 12)
            assert mask.is_on_mask(x + 60 * np.cos(around), y + 60 * np.sin(around)).all()
    assert (tmp_path / "sample.png").stat().st_size > 100_000


@pytest.fixture
def score(devkit, tmp_path):
    """Scores the annotations that a sensor saw, after a change to each box: ``score(change)``."""

    def run(change):
        names = json.loads(Path(devkit.dataroot, "v1.0-synthetic", "splits.json").read_text())["synthetic_val"]
        scenes = {scene["token"] for scene in devkit.scene if scene["name"] in names}
        attributes = {row["token"]: row["name"] for row in devkit.attribute}
        results = {sample["token"]: [] for sample in devkit.sample if sample["scene_token"] in scenes}
        for token in results:
            for annotation in devkit.get("sample", token)["anns"]:
                row = devkit.get("sample_annotation", annotation)
                if row["num_lidar_pts"] + row["num_radar_pts"] == 0:
                    continue
                box = Box(row["translation"], row["size"], Quaternion(row["rotation"]))
                change(box)
                results[token].append(
                    {
                        "sample_token": token,
                        "translation": box.center.tolist(),
                        "size": box.wlh.tolist(),
                        "rotation": box.orientation.elements.tolist(),
                        # An object that is annotated once has no velocity, and a submission cannot say so.
                        "velocity": np.nan_to_num(devkit.box_velocity(annotation)[:2]).tolist(),
                        "detection_name": category_to_detection_name(row["category_name"]),
                        "detection_score": 1.0,
                        "attribute_name": "".join(attributes[a] for a in row["attribute_tokens"]),
                    }
                )
        path = tmp_path / "submission.json"
        path.write_text(json.dumps({"meta": {}, "results": results}))
        config = config_factory("detection_cvpr_2019")
        return DetectionEval(devkit, config, str(path), "synthetic_val", str(tmp_path), verbose=False).evaluate()[0]

    return run


def test_annotations_as_a_submission_score_full_marks(score):
    metrics = score(lambda box: None)
    assert metrics.mean_ap >= 0.999
    assert metrics.nd_score >= 0.999
    assert max(metrics.tp_errors.values()) < 1e-6


def test_boxes_moved_by_a_decimetre_are_off_by_a_decimetre(score):
    metrics = score(lambda box: box.translate(np.array([0.1, 0.0, 0.0])))
    assert metrics.tp_errors["trans_err"] == pytest.approx(0.1, abs=0.01)
    assert metrics.tp_errors["orient_err"] < 1e-6


def test_boxes_turned_by_a_tenth_are_off_by_a_tenth(score):
    def turn(box):
        box.orientation = Quaternion(axis=[0, 0, 1], radians=0.1) * box.orientation

    metrics = score(turn)
    assert metrics.tp_errors["orient_err"] == pytest.approx(0.1, abs=0.01)
    assert metrics.tp_errors["trans_err"] < 1e-6
