"""The synthetic world written as a nuScenes root: sensor files, the thirteen tables, custom splits and a manifest."""

import hashlib
import io
import json
import math
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from filelock import FileLock
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
from harness.errors import InputError, unknown

GENERATOR = 1
"""Raised whenever the bytes of a dataset change for the same preset and seed."""
VERSION = "v1.0-synthetic"
MARKER = ".crossbev-synthetic.json"
"""Written first: tells an unfinished dataset of ours from a stranger's folder."""
MANIFEST = "manifest.json"
"""Written last: a dataset without it is unfinished."""
SPLITS = ("synthetic_train", "synthetic_tune", "synthetic_val")

_INTERVAL_US = 500_000
_START_US = 1_600_000_000_000_000
_MAP = "maps/synthetic.png"
_MAP_METRES = 200
_LOCK = ".crossbev-synthetic.lock"
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
class Preset:
    """How many scenes each split has, and how many keyframes a scene."""

    train: int
    tune: int
    val: int
    keyframes: int

    @property
    def scenes(self) -> list[tuple[int, int]]:
        """Split and index in it, of every scene."""
        return [(split, index) for split, n in enumerate((self.train, self.tune, self.val)) for index in range(n)]


PRESETS = {
    "tiny": Preset(train=80, tune=10, val=20, keyframes=5),
    "smoke": Preset(train=2, tune=1, val=1, keyframes=3),
}


def embedded_root(preset: str, seed: int, workers: int) -> Path:
    """The dataset in the user's cache folder, made there first where it is missing."""
    out = platformdirs.user_cache_path("crossbev") / f"synthetic-{preset}-{seed}-{GENERATOR}"
    synthesize(out, preset, seed, workers)
    return out


def synthesize(
    out: Path,
    preset: str,
    seed: int,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a dataset, or return at once where the same one already is.

    What an interrupted call left is thrown away and made again. Equal arguments give equal bytes, for any `workers`.

    Args:
        out: A folder that is new, empty, or one of ours.
        preset: A key of `PRESETS`.
        seed: Not negative.
        workers: Processes to render scenes in; with 1, all is done in this one.
        progress: Called with the number of scenes done and of all scenes.

    Raises:
        InputError: For an unknown preset, a negative seed, or an `out` that is not ours or holds another dataset.
    """
    if preset not in PRESETS:
        raise InputError(unknown("preset", preset, PRESETS))
    if seed < 0:
        raise InputError(f"seed {seed} is negative; a seed is 0 or more")
    identity = {"preset": preset, "seed": seed, "generator": GENERATOR}
    if _is_complete(out, identity):
        return
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is not a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file() and not (out / _LOCK).is_file():
        raise InputError(f"{out} is not empty and holds no synthetic dataset; name a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / _LOCK)
        lock.acquire()
    except OSError as error:
        raise InputError(f"{out} cannot be written to: {error}") from error
    with lock:
        # Another process may have made it while this one waited.
        if not _is_complete(out, identity):
            _clear(out)
            _write_json(out / MARKER, identity)
            _generate(out, preset, seed, workers, progress or (lambda done, total: None), identity)
    lock.release(force=True)


def _is_complete(out: Path, identity: dict[str, Any]) -> bool:
    """Whether the dataset is there; raises InputError where another one is."""
    if not (out / MANIFEST).is_file():
        return False
    if not (out / MARKER).is_file():
        raise InputError(f"{out} has a {MANIFEST}, but it was not written by this program; name a new folder")
    manifest = json.loads((out / MANIFEST).read_text())
    found = {key: manifest.get(key) for key in identity}
    if found != identity:
        raise InputError(f"{out} holds another dataset, {found}; wanted was {identity}")
    return True


def _clear(out: Path) -> None:
    for folder in ("samples", "maps", VERSION):
        if (out / folder).exists():
            shutil.rmtree(out / folder)


def _generate(
    out: Path, preset: str, seed: int, workers: int, progress: Callable[[int, int], None], identity: dict[str, Any]
) -> None:
    scenes = PRESETS[preset].scenes
    for channel in (*CAMERA_MOUNTS, "LIDAR_TOP"):
        (out / "samples" / channel).mkdir(parents=True)
    jobs = [_Job(out, preset, seed, split, index) for split, index in scenes]
    tables = _shared_tables(preset, seed)
    hashes: dict[str, str] = {}
    for done, (rows, files) in enumerate(_each_scene(jobs, workers), start=1):
        for table, of_scene in rows.items():
            tables.setdefault(table, []).extend(of_scene)
        hashes |= files
        progress(done, len(jobs))
    tables["map"][0]["log_tokens"] = [log["token"] for log in tables["log"]]
    (out / "maps").mkdir()
    picture = io.BytesIO()
    Image.new("L", (10 * _MAP_METRES, 10 * _MAP_METRES), 255).save(picture, "png")
    hashes[_MAP] = _write(out, _MAP, picture.getvalue())
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    for job in jobs:
        names[SPLITS[job.split]].append(job.name)
    (out / VERSION).mkdir()
    for table, content in (*tables.items(), ("splits", names)):
        path = f"{VERSION}/{table}.json"
        hashes[path] = _write(out, path, json.dumps(content, indent=0).encode())
    manifest = {
        **identity,
        "note": "Synthetic scenes. Class frequencies are flattened: rare classes are as common as cars.",
        "frames": "nuScenes v1.0 conventions; LiDAR scans and images are instantaneous, each at its own time.",
        "scenes": {split: len(found) for split, found in names.items()},
        "keyframes_per_scene": PRESETS[preset].keyframes,
        "sha256": dict(sorted(hashes.items())),
    }
    _write_json(out / MANIFEST, manifest)


@dataclass(frozen=True)
class _Job:
    """One scene to write."""

    out: Path
    preset: str
    seed: int
    split: int
    index: int

    @property
    def name(self) -> str:
        return f"{SPLITS[self.split].replace('_', '-')}-{self.index:04d}"

    def token(self, *parts: object) -> str:
        return _token(self.preset, self.seed, self.name, *parts)


def _each_scene(jobs: list[_Job], workers: int) -> Iterable[tuple[Tables, dict[str, str]]]:
    """Results in the order of the jobs, whoever finishes first."""
    if workers == 1:
        yield from map(_write_scene, jobs)
        return
    # Spawned, not forked: the caller may hold threads of torch or a progress display.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_leave_interrupts) as pool:
        try:
            yield from pool.map(_write_scene, jobs)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts() -> None:
    """Ctrl-C reaches all processes of a terminal; the parent alone reacts and stops the rest."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_scene(job: _Job) -> tuple[Tables, dict[str, str]]:
    """Render a scene and write its files; returns its rows and the hashes of its files."""
    count = PRESETS[job.preset].keyframes
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
    job: _Job,
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
    hashes[path] = _write(job.out, path, content)
    pose = scene.ego_pose(frame * _INTERVAL_US * 1e-6 + lag)
    token = job.token("sample_data", channel, frame)
    tables["ego_pose"].append({"token": token, "timestamp": taken, **_pose(pose)})
    last = PRESETS[job.preset].keyframes - 1
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
    job: _Job, scene: Scene, frame: int, sample: str, lidar: Calibration, points: np.ndarray, shown: np.ndarray
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


def _link(job: _Job, scene: Scene, annotations: list[Row]) -> list[Row]:
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


def _shared_tables(preset: str, seed: int) -> Tables:
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
                "filename": _MAP,
                "log_tokens": [],
            }
        ],
    }


def _log_row(job: _Job) -> Row:
    return {
        "token": job.token("log"),
        "logfile": job.name,
        "vehicle": "synthetic",
        "date_captured": "2020-09-13",
        "location": "synthetic",
    }


def _scene_row(job: _Job, samples: list[str]) -> Row:
    return {
        "token": job.token("scene"),
        "log_token": job.token("log"),
        "nbr_samples": len(samples),
        "first_sample_token": samples[0],
        "last_sample_token": samples[-1],
        "name": job.name,
        "description": f"Synthetic scene, seed {job.seed}.",
    }


def _calibration_row(job: _Job, channel: str, mount: Calibration) -> Row:
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


def _write(out: Path, path: str, content: bytes) -> str:
    """Write a file; returns its hash."""
    (out / path).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _write_json(path: Path, content: object) -> None:
    """Write a file that is there as a whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1))
    os.replace(partial, path)
