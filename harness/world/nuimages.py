"""The synthetic world written as a nuImages root: single images of other scenes, with instance masks."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.masks import MAX_INSTANCES, box_around, encode_nuimages
from harness.world.cameras import View, ground_texture, render_camera
from harness.world.dataset import Progress, check_choice, make_root, write_scenes, write_tables
from harness.world.mounts import CAMERA_MOUNTS, HEIGHT, WIDTH, calibrate
from harness.world.rows import Job, Row, Tables, attribute_rows, category_rows, log_row, pose_row, sensor_rows, token_of
from harness.world.scene import Scene
from harness.world.scene_files import encode_jpeg, write
from harness.world.shapes import KINDS
from harness.world.street import build_scene

GENERATOR = 1
"""Raised whenever the bytes of a dataset change for the same preset and seed."""
VERSION = "v1.0-synthetic-images"
SPLITS = ("train", "val")

_STREAM = 1000
"""Added to the split's number in the seed of a scene: no scene of the detection data is drawn from the same numbers."""
_SMALLEST_PX = 12
"""Objects of which an image shows fewer pixels are not annotated."""
_DAY_US = 1_500_000_000_000_000


@dataclass(frozen=True)
class Preset:
    """How many scenes each split has; of each scene there is an image of every camera."""

    train: int
    val: int


PRESETS = {"tiny": Preset(250, 50), "small": Preset(1500, 200), "smoke": Preset(2, 1)}


@dataclass(frozen=True)
class ImagesJob(Job):
    """The images of one scene to write."""

    @property
    def name(self) -> str:
        """Of the scene's log, unique in the dataset."""
        return f"images-{SPLITS[self.split]}-{self.index:04d}"

    def token(self, *parts: object) -> str:
        """Of something in this scene; equal parts give equal tokens."""
        return token_of(VERSION, self.preset, self.seed, self.name, *parts)


def synthesize_images(
    out: Path,
    preset: str,
    seed: int,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
    waiting: Callable[[], None] = lambda: None,
) -> None:
    """As `world.nuscenes.synthesize`, in nuImages' format: one annotated image a sample, of scenes of their own."""
    check_choice(preset, PRESETS, seed)
    identity = {"preset": preset, "seed": seed, "image_generator": GENERATOR, "scenes": asdict(PRESETS[preset])}
    make_root(out, identity, lambda: _fill(out, preset, seed, workers, progress), waiting)


def _fill(out: Path, preset: str, seed: int, workers: int, progress: Progress) -> dict[str, Any]:
    counts = (PRESETS[preset].train, PRESETS[preset].val)
    jobs = [ImagesJob(out, preset, seed, split, index) for split, n in enumerate(counts) for index in range(n)]
    tables: Tables = {
        "attribute": attribute_rows(),
        "category": category_rows(),
        "sensor": sensor_rows(dict.fromkeys(CAMERA_MOUNTS, "camera")),
        "surface_ann": [],
    }
    hashes = write_scenes(write_images, jobs, tables, workers, progress)
    names = {split: [job.name for job in jobs if SPLITS[job.split] == split] for split in SPLITS}
    hashes |= write_tables(out, VERSION, tables, names)
    return {
        "note": "Synthetic images with instance masks, of no scene of the detection data. splits.json names logs.",
        "sha256": dict(sorted(hashes.items())),
    }


def write_images(job: ImagesJob) -> tuple[Tables, dict[str, str]]:
    """Render a scene in all cameras at one time; returns its rows, and the hash of every file by its path.

    Raises:
        InputError: A file cannot be written.
    """
    rng = np.random.default_rng([job.seed, _STREAM + job.split, job.index])
    scene = build_scene(rng, 0.0)
    mounts, texture = calibrate(rng), ground_texture(rng)
    start = _DAY_US + (10_000 * job.split + job.index) * 60_000_000
    tables: Tables = {"log": [log_row(job.token("log"), job.name, "2017-07-14")]}
    hashes = {}
    for channel, (*_, lag) in CAMERA_MOUNTS.items():
        view = render_camera(scene, lag, mounts[channel], rng, texture)
        taken = start + round(lag * 1e6)
        path = f"samples/{channel}/{job.name}__{channel}__{taken}.jpg"
        hashes[path] = write(job.out, path, encode_jpeg(view.image))
        mount = mounts[channel]
        assert mount.intrinsic is not None
        rows: dict[str, Row] = {
            "sample": {
                "timestamp": taken,
                "log_token": job.token("log"),
                "key_camera_token": job.token("sample_data", channel),
            },
            "sample_data": {
                "sample_token": job.token("sample", channel),
                "ego_pose_token": job.token("ego_pose", channel),
                "calibrated_sensor_token": job.token("calibrated_sensor", channel),
                "filename": path,
                "fileformat": "jpg",
                "width": WIDTH,
                "height": HEIGHT,
                "timestamp": taken,
                "is_key_frame": True,
                "prev": "",
                "next": "",
            },
            "ego_pose": {"timestamp": taken, **pose_row(scene.ego_pose(lag)), **_motion(scene, lag)},
            "calibrated_sensor": {
                "sensor_token": token_of("sensor", channel),
                **pose_row(mount.ego_from_sensor),
                "camera_intrinsic": mount.intrinsic.tolist(),
                "camera_distortion": [0.0] * 6,
            },
        }
        for table, row in rows.items():
            tables.setdefault(table, []).append({"token": job.token(table, channel), **row})
        tables.setdefault("object_ann", []).extend(_annotations(job, channel, scene, view))
    return tables, hashes


def _motion(scene: Scene, time: float) -> Row:
    return {
        "speed": scene.ego.speed,
        "rotation_rate": [0.0, 0.0, scene.ego.velocity(time)[2]],
        "acceleration": [0.0] * 3,
    }


def _annotations(job: ImagesJob, channel: str, scene: Scene, view: View) -> list[Row]:
    """Rows of the objects that an image shows enough of: the pixels that are seen, not those that others hide."""
    shown = [index for index, pixels in enumerate(view.visible_px) if pixels >= _SMALLEST_PX]
    if len(shown) > MAX_INSTANCES:
        raise RuntimeError(f"an image shows {len(shown)} objects; its readers tell {MAX_INSTANCES} apart")
    rows = []
    for index in shown:
        thing, mask = scene.objects[index], view.owner == index
        rows.append(
            {
                "token": job.token("object_ann", channel, index),
                "sample_data_token": job.token("sample_data", channel),
                "category_token": token_of("category", KINDS[thing.name].category),
                "attribute_tokens": [token_of("attribute", thing.attribute)] if thing.attribute else [],
                "bbox": box_around(mask),
                "mask": encode_nuimages(mask),
            }
        )
    return rows
