"""Rows of the nuScenes tables, common to all scenes or of one scene."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from pyquaternion import Quaternion

from harness.world.mounts import CHANNELS, HEIGHT, INTERVAL, WIDTH, Calibration, Shot, Sweeps
from harness.world.scene import RANGE, Scene
from harness.world.shapes import KINDS

SPLITS = ("synthetic_train", "synthetic_tune", "synthetic_val")
MAP = "maps/synthetic.png"
SUFFIXES = {"camera": ".jpg", "lidar": ".pcd.bin", "radar": ".pcd"}
"""Of sensor files, by modality."""

_DIGITS = 9
"""Of quaternions: at 100 m no more than a micrometre is lost, and the tables are a fifth smaller."""
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
class Job:
    """One scene to write."""

    out: Path
    preset: str
    seed: int
    split: int
    """Index into the splits of its dataset."""
    index: int
    """Of the scene in its split."""


@dataclass(frozen=True)
class SceneJob(Job):
    """All keyframes and sweeps of a scene."""

    keyframes: int
    sweeps: Sweeps

    @property
    def name(self) -> str:
        """Of the scene, unique in the dataset."""
        return f"{SPLITS[self.split].replace('_', '-')}-{self.index:04d}"

    def timestamp(self, time: float) -> int:
        """Microseconds since 1970, of seconds after the scene's first keyframe."""
        return _START_US + (self.split * 10_000 + self.index) * 60_000_000 + round(time * 1e6)

    def token(self, *parts: object) -> str:
        """Of something in this scene; equal parts give equal tokens."""
        return token_of(self.preset, self.seed, self.name, *parts)

    def path(self, shot: Shot) -> str:
        """Of a sensor file, relative to the root."""
        folder, suffix = "samples" if shot.is_keyframe else "sweeps", SUFFIXES[CHANNELS[shot.channel]]
        return f"{folder}/{shot.channel}/{self.name}__{shot.channel}__{self.timestamp(shot.time)}{suffix}"


@dataclass(frozen=True)
class Evidence:
    """What the keyframes of a scene show of every object: pixels, and how many returns lie in its box."""

    visible_px: Int[np.ndarray, "t k"]
    alone_px: Int[np.ndarray, "t k"]
    lidar: Int[np.ndarray, "t k"]
    radar: Int[np.ndarray, "t k"]


def sample_rows(job: SceneJob) -> Tables:
    """Rows of a scene, its log and its samples."""
    samples = [job.token("sample", frame) for frame in range(job.keyframes)]
    chained = zip(samples, ["", *samples[:-1]], [*samples[1:], ""], strict=True)
    return {
        "log": [log_row(job.token("log"), job.name, "2020-09-13")],
        "scene": [
            {
                "token": job.token("scene"),
                "log_token": job.token("log"),
                "nbr_samples": len(samples),
                "first_sample_token": samples[0],
                "last_sample_token": samples[-1],
                "name": job.name,
                "description": f"Synthetic scene, seed {job.seed}.",
            }
        ],
        "sample": [
            {
                "token": token,
                "timestamp": job.timestamp(frame * INTERVAL),
                "prev": before,
                "next": after,
                "scene_token": job.token("scene"),
            }
            for frame, (token, before, after) in enumerate(chained)
        ],
    }


def calibration_row(job: SceneJob, channel: str, mount: Calibration) -> Row:
    """How a sensor of a scene is mounted."""
    return {
        "token": job.token("calibrated_sensor", channel),
        "sensor_token": token_of("sensor", channel),
        **pose_row(mount.ego_from_sensor),
        "camera_intrinsic": [] if mount.intrinsic is None else mount.intrinsic.tolist(),
    }


def shot_rows(job: SceneJob, scene: Scene, fired: list[Shot]) -> Tables:
    """Files of one sensor in a scene, chained in the order given, each with the ego pose at its own time."""
    tokens = ["", *(job.token("sample_data", shot.channel, shot.number) for shot in fired), ""]
    tables: Tables = {"sample_data": [], "ego_pose": []}
    for shot, before, token, after in zip(fired, tokens, tokens[1:], tokens[2:], strict=False):
        camera = CHANNELS[shot.channel] == "camera"
        taken = job.timestamp(shot.time)
        tables["ego_pose"].append({"token": token, "timestamp": taken, **pose_row(scene.ego_pose(shot.time))})
        tables["sample_data"].append(
            {
                "token": token,
                "sample_token": job.token("sample", shot.frame),
                "ego_pose_token": token,
                "calibrated_sensor_token": job.token("calibrated_sensor", shot.channel),
                "timestamp": taken,
                "fileformat": "jpg" if camera else "pcd",
                "is_key_frame": shot.is_keyframe,
                "height": HEIGHT if camera else 0,
                "width": WIDTH if camera else 0,
                "filename": job.path(shot),
                "prev": before,
                "next": after,
            }
        )
    return tables


def object_rows(job: SceneJob, scene: Scene, evidence: Evidence) -> Tables:
    """Annotations at the times of the keyframes, of all objects in range, also of those that nothing shows."""
    tables: Tables = {"sample_annotation": [], "instance": []}
    for index, thing in enumerate(scene.objects):
        mine: list[Row] = []
        for frame in range(job.keyframes):
            center, yaw = scene.box(thing, frame * INTERVAL)
            ego_x, ego_y, _ = scene.ego.at(frame * INTERVAL)
            if math.dist(center[:2], (ego_x, ego_y)) > RANGE:
                continue
            width, length, height = thing.size
            shown = evidence.visible_px[frame, index] / max(1, evidence.alone_px[frame, index])
            mine.append(
                {
                    "token": job.token("sample_annotation", index, frame),
                    "sample_token": job.token("sample", frame),
                    "instance_token": job.token("instance", index),
                    "visibility_token": next(t for t, (_, high) in _VISIBILITIES.items() if 100 * shown <= high),
                    "attribute_tokens": [token_of("attribute", thing.attribute)] if thing.attribute else [],
                    "translation": list(center),
                    "size": [width, length, height],
                    "rotation": [round(math.cos(yaw / 2), _DIGITS), 0.0, 0.0, round(math.sin(yaw / 2), _DIGITS)],
                    "prev": "",
                    "next": "",
                    "num_lidar_pts": int(evidence.lidar[frame, index]),
                    "num_radar_pts": int(evidence.radar[frame, index]),
                }
            )
        if not mine:
            continue
        for before, after in pairwise(mine):
            before["next"], after["prev"] = after["token"], before["token"]
        tables["sample_annotation"] += mine
        tables["instance"].append(
            {
                "token": job.token("instance", index),
                "category_token": token_of("category", KINDS[thing.name].category),
                "nbr_annotations": len(mine),
                "first_annotation_token": mine[0]["token"],
                "last_annotation_token": mine[-1]["token"],
            }
        )
    return tables


def extend(tables: Tables, more: Tables) -> Tables:
    """The tables, with more rows in them."""
    for table, rows in more.items():
        tables.setdefault(table, []).extend(rows)
    return tables


def shared_tables(preset: str, seed: int) -> Tables:
    """Tables that all scenes share."""
    return {
        "attribute": attribute_rows(),
        "category": category_rows(),
        "visibility": [
            {"token": token, "level": f"v{low}-{high}", "description": f"{low} to {high} % of its pixels are visible."}
            for token, (low, high) in _VISIBILITIES.items()
        ],
        "sensor": sensor_rows(CHANNELS),
        "map": [
            {
                "token": token_of(preset, seed, "map"),
                "category": "semantic_prior",
                "filename": MAP,
                "log_tokens": [],
            }
        ],
    }


def attribute_rows() -> list[Row]:
    """Every attribute of nuScenes."""
    return [
        {"token": token_of("attribute", name), "name": name, "description": text} for name, text in _ATTRIBUTES.items()
    ]


def category_rows() -> list[Row]:
    """One category for each detection class."""
    return [
        {"token": token_of("category", kind.category), "name": kind.category, "description": f"Synthetic {name}."}
        for name, kind in KINDS.items()
    ]


def sensor_rows(modalities: Mapping[str, str]) -> list[Row]:
    """Sensors, given the modality of each channel."""
    return [
        {"token": token_of("sensor", channel), "channel": channel, "modality": modality}
        for channel, modality in modalities.items()
    ]


def log_row(token: str, name: str, date: str) -> Row:
    """The drive that a scene is from."""
    return {
        "token": token,
        "logfile": name,
        "vehicle": "synthetic",
        "date_captured": date,
        "location": "synthetic",
    }


def pose_row(matrix: Float[np.ndarray, "4 4"]) -> Row:
    """A pose as tables write it."""
    turn = Quaternion(matrix=matrix).elements
    return {"translation": matrix[:3, 3].tolist(), "rotation": turn.round(_DIGITS).tolist()}


def token_of(*parts: object) -> str:
    """Thirty-two hexadecimal digits; equal parts give equal tokens."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:32]
