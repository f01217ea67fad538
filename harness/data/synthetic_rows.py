"""One synthetic scene as sensor files and as rows of the nuScenes tables."""

import hashlib
import io
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pyquaternion import Quaternion

from harness.data.synthetic_sensors import (
    CAMERA_MOUNTS,
    HEIGHT,
    WIDTH,
    Calibration,
    calibrate,
    ground_texture,
    render_camera,
    scan_lidar,
)
from harness.data.synthetic_shapes import KINDS
from harness.data.synthetic_world import RANGE, Scene, build_scene, rotation

SPLITS = ("synthetic_train", "synthetic_tune", "synthetic_val")
MAP = "maps/synthetic.png"

_INTERVAL_US = 500_000
_START_US = 1_600_000_000_000_000
_ATTRIBUTES = {
    "vehicle.moving": "Vehicle is moving.",
    "vehicle.stopped": "Vehicle, with a driver in it, is not moving for now.",
    "vehicle.parked": "Vehicle is left standing.",
    "cycle.with_rider": "A person rides the cycle.",
    "cycle.without_rider": "Nobody is on the cycle.",
    "pedestrian.sitting_lying_down": "The person sits or lies.",
    "pedestrian.standing": "The person stands.",
    "pedestrian.moving": "The person walks.",
}
_VISIBILITIES = {"1": (0, 40), "2": (40, 60), "3": (60, 80), "4": (80, 100)}


Row = dict[str, Any]
Tables = dict[str, list[Row]]


@dataclass(frozen=True)
class SceneJob:
    """One scene to write."""

    out: Path
    preset: str
    seed: int
    split: int
    """Index into `SPLITS`."""
    index: int
    """Of the scene in its split."""
    keyframes: int

    @property
    def name(self) -> str:
        """Of the scene, unique in the dataset."""
        return f"{SPLITS[self.split].replace('_', '-')}-{self.index:04d}"

    def token(self, *parts: object) -> str:
        """Of something in this scene; equal parts give equal tokens."""
        return _token(self.preset, self.seed, self.name, *parts)


def write_scene(job: SceneJob) -> tuple[Tables, dict[str, str]]:
    """Render a scene and write its files; returns its rows and the hashes of its files."""
    count = job.keyframes
    rng = np.random.default_rng([job.seed, job.split, job.index])
    scene = build_scene(rng, (count - 1) * _INTERVAL_US * 1e-6)
    mounts, texture = calibrate(rng), ground_texture(rng)
    start = _START_US + (job.split * 10_000 + job.index) * 60_000_000
    samples = [job.token("sample", frame) for frame in range(count)]
    tables: Tables = {
        "log": [_log_row(job)],
        "scene": [_scene_row(job, samples)],
        "calibrated_sensor": [_calibration_row(job, channel, mount) for channel, mount in mounts.items()],
    }
    for table in ("sample", "sample_data", "ego_pose", "sample_annotation", "instance"):
        tables[table] = []
    hashes: dict[str, str] = {}
    for frame in range(count):
        timestamp = start + frame * _INTERVAL_US
        tables["sample"].append(
            {
                "token": samples[frame],
                "timestamp": timestamp,
                "prev": samples[frame - 1] if frame else "",
                "next": samples[frame + 1] if frame + 1 < count else "",
                "scene_token": job.token("scene"),
            }
        )
        now = frame * _INTERVAL_US * 1e-6
        visible = alone = np.zeros(len(scene.objects), dtype=np.int64)
        for channel, (_, _, _, lag) in CAMERA_MOUNTS.items():
            view = render_camera(scene, now + lag, mounts[channel], rng, texture)
            picture = io.BytesIO()
            Image.fromarray(view.image).save(picture, "jpeg", quality=90)
            visible, alone = visible + view.visible_px, alone + view.alone_px
            _add_file(job, scene, tables, hashes, channel, frame, timestamp, lag, ".jpg", picture.getvalue())
        points = scan_lidar(scene, now, mounts["LIDAR_TOP"], rng)
        _add_file(job, scene, tables, hashes, "LIDAR_TOP", frame, timestamp, 0.0, ".pcd.bin", points.tobytes())
        tables["sample_annotation"] += _annotations(
            job, scene, frame, samples[frame], mounts["LIDAR_TOP"], points, visible / alone.clip(1)
        )
    tables["instance"] = _link(job, scene, tables["sample_annotation"])
    return tables, hashes


def _add_file(
    job: SceneJob,
    scene: Scene,
    tables: Tables,
    hashes: dict[str, str],
    channel: str,
    frame: int,
    timestamp: int,
    lag: float,
    suffix: str,
    content: bytes,
) -> None:
    """Write one sensor file, with its sample_data row and the ego pose at its own time."""
    taken = timestamp + round(lag * 1e6)
    path = f"samples/{channel}/{job.name}__{channel}__{taken}{suffix}"
    hashes[path] = write(job.out, path, content)
    pose = scene.ego_pose(frame * _INTERVAL_US * 1e-6 + lag)
    token = job.token("sample_data", channel, frame)
    tables["ego_pose"].append({"token": token, "timestamp": taken, **_pose(pose)})
    last = job.keyframes - 1
    camera = channel != "LIDAR_TOP"
    tables["sample_data"].append(
        {
            "token": token,
            "sample_token": job.token("sample", frame),
            "ego_pose_token": token,
            "calibrated_sensor_token": job.token("calibrated_sensor", channel),
            "timestamp": taken,
            "fileformat": "jpg" if camera else "pcd",
            "is_key_frame": True,
            "height": HEIGHT if camera else 0,
            "width": WIDTH if camera else 0,
            "filename": path,
            "prev": job.token("sample_data", channel, frame - 1) if frame else "",
            "next": job.token("sample_data", channel, frame + 1) if frame < last else "",
        }
    )


def _annotations(
    job: SceneJob, scene: Scene, frame: int, sample: str, lidar: Calibration, points: np.ndarray, shown: np.ndarray
) -> list[Row]:
    """Boxes at the time of the LiDAR, of all objects in range, also of those that no ray met."""
    now = frame * _INTERVAL_US * 1e-6
    ego = scene.ego_pose(now)
    pose = np.einsum("ij,jk->ik", ego, lidar.ego_from_sensor)
    in_global = np.einsum("ij,nj->ni", pose[:3, :3], points[:, :3].astype(np.float64)) + pose[:3, 3]
    rows = []
    for index, thing in enumerate(scene.objects):
        center, yaw = scene.box(thing, now)
        if math.dist(center[:2], ego[:2, 3]) > RANGE:
            continue
        width, length, height = thing.size
        local = np.einsum("ni,ij->nj", in_global - np.array(center), rotation(yaw))
        inside = (np.abs(local) <= np.array([length, width, height]) / 2).all(axis=1)
        level = next(name for name, (_, high) in _VISIBILITIES.items() if 100 * shown[index] <= high)
        rows.append(
            {
                "token": job.token("sample_annotation", index, frame),
                "sample_token": sample,
                "instance_token": job.token("instance", index),
                "visibility_token": level,
                "attribute_tokens": [_token("attribute", thing.attribute)] if thing.attribute else [],
                "translation": list(center),
                "size": [width, length, height],
                "rotation": [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)],
                "prev": "",
                "next": "",
                "num_lidar_pts": int(inside.sum()),
                "num_radar_pts": 0,
            }
        )
    return rows


def _link(job: SceneJob, scene: Scene, annotations: list[Row]) -> list[Row]:
    """Chain every object's annotations, in place, and return the instances."""
    instances = []
    for index, thing in enumerate(scene.objects):
        token = job.token("instance", index)
        mine = [row for row in annotations if row["instance_token"] == token]
        if not mine:
            continue
        for before, after in pairwise(mine):
            before["next"], after["prev"] = after["token"], before["token"]
        instances.append(
            {
                "token": token,
                "category_token": _token("category", KINDS[thing.name].category),
                "nbr_annotations": len(mine),
                "first_annotation_token": mine[0]["token"],
                "last_annotation_token": mine[-1]["token"],
            }
        )
    return instances


def shared_tables(preset: str, seed: int) -> Tables:
    """Tables that all scenes share."""
    return {
        "attribute": [
            {"token": _token("attribute", name), "name": name, "description": text}
            for name, text in _ATTRIBUTES.items()
        ],
        "category": [
            {"token": _token("category", kind.category), "name": kind.category, "description": f"Synthetic {name}."}
            for name, kind in KINDS.items()
        ],
        "visibility": [
            {"token": token, "level": f"v{low}-{high}", "description": f"{low} to {high} % of its pixels are visible."}
            for token, (low, high) in _VISIBILITIES.items()
        ],
        "sensor": [
            {
                "token": _token("sensor", channel),
                "channel": channel,
                "modality": "lidar" if channel == "LIDAR_TOP" else "camera",
            }
            for channel in (*CAMERA_MOUNTS, "LIDAR_TOP")
        ],
        "map": [
            {
                "token": _token(preset, seed, "map"),
                "category": "semantic_prior",
                "filename": MAP,
                "log_tokens": [],
            }
        ],
    }


def _log_row(job: SceneJob) -> Row:
    return {
        "token": job.token("log"),
        "logfile": job.name,
        "vehicle": "synthetic",
        "date_captured": "2020-09-13",
        "location": "synthetic",
    }


def _scene_row(job: SceneJob, samples: list[str]) -> Row:
    return {
        "token": job.token("scene"),
        "log_token": job.token("log"),
        "nbr_samples": len(samples),
        "first_sample_token": samples[0],
        "last_sample_token": samples[-1],
        "name": job.name,
        "description": f"Synthetic scene, seed {job.seed}.",
    }


def _calibration_row(job: SceneJob, channel: str, mount: Calibration) -> Row:
    return {
        "token": job.token("calibrated_sensor", channel),
        "sensor_token": _token("sensor", channel),
        **_pose(mount.ego_from_sensor),
        "camera_intrinsic": [] if mount.intrinsic is None else mount.intrinsic.tolist(),
    }


def _pose(matrix: np.ndarray) -> Row:
    return {"translation": matrix[:3, 3].tolist(), "rotation": Quaternion(matrix=matrix).elements.tolist()}


def _token(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:32]


def write(out: Path, path: str, content: bytes) -> str:
    """Write a file; returns its hash."""
    (out / path).write_bytes(content)
    return hashlib.sha256(content).hexdigest()
