"""The LiDAR of the synthetic world, as a pure function of a scene and a time."""

import math

import numpy as np
from jaxtyping import Float

from harness.world.mounts import Calibration
from harness.world.rays import Window, cast, corners_in_sensor, cuboids_at, face, ground_range, into_parts, painted
from harness.world.scene import Scene

RINGS, COLUMNS = 32, 300
LIDAR_RANGE = 70.0
_ASPHALT = 0.2
_ELEVATION = np.radians(np.concatenate([np.linspace(-30, -11, 6), np.linspace(-10, 3, 22), np.linspace(5, 11, 4)]))
"""Closest together where objects at 15 m and more are."""
_DENSE = 22.0
"""Nearer than so many metres, returns are thinned with the square of the range, so that files are small: up to there
surfaces carry about equally many, whatever they belong to."""


def scan_lidar(
    scene: Scene, time: float, calibration: Calibration, rng: np.random.Generator
) -> Float[np.ndarray, "n 5"]:
    """One turn of the LiDAR, taken as instantaneous: x, y, z (sensor frame), intensity in [0, 255], ring."""
    pose = np.einsum("ij,jk->ik", scene.ego_pose(time), calibration.ego_from_sensor)
    cuboids = cuboids_at(scene, time)
    origin, turn = into_parts(cuboids, pose)
    azimuth = (np.arange(COLUMNS) + 0.5) / COLUMNS * 2 * math.pi - math.pi
    directions = np.stack(
        [
            np.cos(_ELEVATION)[:, None] * np.cos(azimuth),
            np.cos(_ELEVATION)[:, None] * np.sin(azimuth),
            np.broadcast_to(np.sin(_ELEVATION)[:, None], (RINGS, COLUMNS)),
        ]
    ).astype(np.float32)
    in_global = np.einsum("ij,jhw->ihw", pose[:3, :3].astype(np.float32), directions)
    ground = ground_range(scene.ground, pose[:3, 3], in_global, LIDAR_RANGE)
    windows = _scan_windows(corners_in_sensor(cuboids, origin, turn))
    reach, nearest, _ = cast(directions, origin, turn, cuboids.half, windows, ground)
    on_part = nearest >= 0
    # A ray that grazes a surface spreads over it, and less of it comes back.
    cosine = np.abs(in_global[2])
    reflectivity = np.full(reach.shape, _ASPHALT)
    part = nearest[on_part]
    share, axis, _ = face(cuboids, part, origin, turn, directions[:, on_part], reach[on_part])
    cosine[on_part] = np.abs(np.einsum("nj,jn->n", turn.astype(np.float32)[part, axis], directions[:, on_part]))
    reflectivity[on_part] = painted(cuboids, part, share, axis)[:, 3]
    lost = 0.03 + 0.6 * (reach / LIDAR_RANGE) ** 2 + 0.35 * (1 - cosine) ** 4
    # What a ray has met must not decide whether it is kept: returns as such would give objects away.
    returned = (reach < LIDAR_RANGE) & (rng.random(reach.shape) < (1 - lost) * (reach / _DENSE).clip(0.05, 1) ** 2)
    noisy = reach + 0.02 * rng.standard_normal(reach.shape).clip(-3, 3)
    intensity = 255 * reflectivity * np.sqrt(cosine) * rng.uniform(0.85, 1.15, reach.shape)
    ring = np.broadcast_to(np.arange(RINGS)[:, None], reach.shape)
    points = np.stack([*(noisy * directions), intensity.clip(0, 255), ring], axis=-1)
    return points[returned].astype(np.float32)


def _scan_windows(corners: Float[np.ndarray, "p 8 3"]) -> list[Window]:
    """Rings and columns that may meet each cuboid; one across the seam of the scan gets two windows."""
    middle = corners.mean(axis=1)
    around = np.arctan2(middle[:, 1], middle[:, 0])
    offset = np.arctan2(corners[..., 1], corners[..., 0]) - around[:, None]
    offset = (offset + math.pi) % (2 * math.pi) - math.pi
    spread = np.linalg.norm(corners - middle[:, None], axis=2).max(axis=1)
    distance = np.hypot(middle[:, 0], middle[:, 1])
    nearest, furthest = (distance - spread).clip(0.3), distance + spread
    low, high = corners[..., 2].min(axis=1), corners[..., 2].max(axis=1)
    bottom = np.arctan2(low, np.where(low < 0, nearest, furthest))
    top = np.arctan2(high, np.where(high > 0, nearest, furthest))
    first = np.searchsorted(_ELEVATION, bottom)
    last = np.searchsorted(_ELEVATION, top, side="right")
    per_radian = COLUMNS / (2 * math.pi)
    left = np.floor((around + offset.min(axis=1) + math.pi) * per_radian - 1).astype(int)
    right = np.ceil((around + offset.max(axis=1) + math.pi) * per_radian + 1).astype(int)
    windows = []
    for part in np.flatnonzero((first < last) & (nearest < LIDAR_RANGE)):
        rows = (int(part), int(first[part]), int(last[part]))
        for shift in (-COLUMNS, 0, COLUMNS):
            start, stop = max(0, left[part] + shift), min(COLUMNS, right[part] + shift)
            if start < stop:
                windows.append((*rows, int(start), int(stop)))
    return windows
