"""Writes one synthetic scene as sensor files, and counts how much each sensor shows of every object."""

import hashlib
import io
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from harness.data.sensor_files import encode_radar
from harness.errors import input_error_on_os_error
from harness.world.cameras import ground_texture, render_camera
from harness.world.lidar import scan_lidar
from harness.world.mounts import CHANNELS, INTERVAL, calibrate, shots
from harness.world.radar import reflectors, scan_radar
from harness.world.rows import Evidence, SceneJob, Tables, calibration_row, extend, object_rows, sample_rows, shot_rows
from harness.world.scene import Scene, rotation
from harness.world.street import build_scene

_JPEG_QUALITY = 85


def write_scene(job: SceneJob) -> tuple[Tables, dict[str, str]]:
    """Fire all sensors of a scene and write their files; returns its rows, and the hash of every file by its path.

    Raises:
        InputError: A file cannot be written.
    """
    rng = np.random.default_rng([job.seed, job.split, job.index])
    scene = build_scene(rng, (job.keyframes - 1) * INTERVAL)
    mounts, texture, places = calibrate(rng), ground_texture(rng), reflectors(scene, rng)
    shape = (job.keyframes, len(scene.objects))
    evidence = Evidence(*(np.zeros(shape, dtype=np.int64) for _ in range(4)))
    tables = sample_rows(job)
    tables["calibrated_sensor"] = [calibration_row(job, channel, mount) for channel, mount in mounts.items()]
    hashes: dict[str, str] = {}
    for channel, modality in CHANNELS.items():
        mount, fired = mounts[channel], shots(rng, channel, job.keyframes, job.sweeps)
        for shot in fired:
            pose = np.einsum("ij,jk->ik", scene.ego_pose(shot.time), mount.ego_from_sensor)
            if modality == "camera":
                view = render_camera(scene, shot.time, mount, rng, texture)
                content = encode_jpeg(view.image)
                evidence.visible_px[shot.frame] += view.visible_px
                evidence.alone_px[shot.frame] += view.alone_px
            elif modality == "lidar":
                points = scan_lidar(scene, shot.time, mount, rng)
                content = points.tobytes()
                if shot.is_keyframe:
                    evidence.lidar[shot.frame] += _in_boxes(scene, shot.frame, points[:, :3], pose)
            else:
                returns = scan_radar(scene, places, shot.time, mount, channel == "RADAR_FRONT", rng)
                content = encode_radar(returns)
                if shot.is_keyframe:
                    xyz = np.stack([returns["x"], returns["y"], returns["z"]], axis=1)
                    evidence.radar[shot.frame] += _in_boxes(scene, shot.frame, xyz, pose, by_height=False)
            hashes[job.path(shot)] = write(job.out, job.path(shot), content)
        extend(tables, shot_rows(job, scene, fired))
    return extend(tables, object_rows(job, scene, evidence)), hashes


def _in_boxes(
    scene: Scene, frame: int, points: Float[np.ndarray, "p 3"], pose: Float[np.ndarray, "4 4"], by_height: bool = True
) -> Int[np.ndarray, " k"]:
    """How many points (sensor frame; `pose` is global_from_sensor) lie in each object's box at a keyframe.

    RADAR returns have no height: without `by_height`, a point in the footprint counts.
    """
    in_global = np.einsum("ij,nj->ni", pose[:3, :3], points.astype(np.float64)) + pose[:3, 3]
    axes = 3 if by_height else 2
    counts = []
    for thing in scene.objects:
        center, yaw = scene.box(thing, frame * INTERVAL)
        width, length, height = thing.size
        local = np.einsum("ni,ij->nj", in_global - np.array(center), rotation(yaw))
        inside = np.abs(local) <= np.array([length, width, height]) / 2
        counts.append(inside[:, :axes].all(axis=1).sum())
    return np.array(counts, dtype=np.int64)


def encode_jpeg(image: np.ndarray) -> bytes:
    """An RGB image as the content of a file."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "jpeg", quality=_JPEG_QUALITY, optimize=True)
    return content.getvalue()


def write(out: Path, path: str, content: bytes) -> str:
    """Write a file, in a folder that is made where there is none; returns its hash."""
    with writing(out / path):
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def writing(path: Path) -> AbstractContextManager[None]:
    """Around what writes a file or folder: a full disk or a read-only folder becomes one InputError that names it."""
    return input_error_on_os_error(f"{path} cannot be written")
