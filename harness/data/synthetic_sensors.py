"""Cameras and LiDAR of the synthetic world, as pure functions of a scene and a time."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from harness.data.synthetic_rays import (
    NEAR,
    Cuboids,
    Window,
    cast,
    corners_in_sensor,
    cuboids_at,
    face,
    ground_range,
    into_parts,
)
from harness.data.synthetic_world import Scene, rotation

WIDTH, HEIGHT = 400, 225
"""Of an image, pixels."""
CAMERA_MOUNTS = {
    "CAM_FRONT": ((1.70, 0.0, 1.51), 0.0, 70.0, -0.028),
    "CAM_FRONT_RIGHT": ((1.55, -0.49, 1.50), -56.0, 70.0, -0.020),
    "CAM_BACK_RIGHT": ((1.01, -0.48, 1.56), -110.0, 70.0, -0.012),
    "CAM_BACK": ((0.03, 0.0, 1.57), 180.0, 110.0, -0.004),
    "CAM_BACK_LEFT": ((1.04, 0.48, 1.56), 110.0, 70.0, -0.044),
    "CAM_FRONT_LEFT": ((1.52, 0.49, 1.51), 55.0, 70.0, -0.036),
}
"""Position (ego frame, metres), heading and horizontal field of view (degrees), time after the LiDAR (seconds)."""
LIDAR_MOUNT = (0.94, 0.0, 1.84)
LIDAR_TURN = -math.pi / 2
"""nuScenes mounts its LiDAR so that its x axis points to the right and its y axis forward."""
RINGS, COLUMNS = 32, 600
LIDAR_RANGE = 70.0
_ASPHALT = 0.2
_ELEVATION = np.radians(np.linspace(-30.0, 10.0, RINGS))
_VIEW_RANGE = 160.0
_GROUND_STEP = 5
"""Pixels between the rays that are cast at the ground; inverse depth is all but linear in between."""

_EDGES = np.array([(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b) in (1, 2, 4)])


@dataclass(frozen=True)
class Calibration:
    """How a sensor is mounted; `intrinsic` only for cameras."""

    ego_from_sensor: Float[np.ndarray, "4 4"]
    intrinsic: Float[np.ndarray, "3 3"] | None


@dataclass(frozen=True)
class View:
    """An image, and how much of every object it shows."""

    image: UInt8[np.ndarray, "h w 3"]
    visible_px: Int[np.ndarray, " k"]
    alone_px: Int[np.ndarray, " k"]
    """Pixels an object would cover if nothing stood before it."""


def calibrate(rng: np.random.Generator) -> dict[str, Calibration]:
    """Mounts of all sensors, a little off their nominal pose, as on a real car."""
    mounts = {}
    optical = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    for channel, (position, heading, field, _) in CAMERA_MOUNTS.items():
        yaw, pitch, roll = np.radians(rng.uniform(-1, 1, 3) * (1.5, 0.7, 0.5))
        pose = np.eye(4)
        pose[:3, :3] = np.einsum("ij,jk->ik", rotation(math.radians(heading) + yaw, pitch, roll), optical)
        pose[:3, 3] = np.array(position) + rng.uniform(-0.03, 0.03, 3)
        focal = WIDTH / 2 / math.tan(math.radians(field) / 2) * rng.uniform(0.99, 1.01)
        intrinsic = np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
        mounts[channel] = Calibration(pose, intrinsic)
    pose = np.eye(4)
    pose[:3, :3] = rotation(LIDAR_TURN + rng.uniform(-0.01, 0.01))
    pose[:3, 3] = LIDAR_MOUNT
    return {**mounts, "LIDAR_TOP": Calibration(pose, None)}


def render_camera(
    scene: Scene, time: float, calibration: Calibration, rng: np.random.Generator, texture: np.ndarray
) -> View:
    """The image a camera takes at a time.

    Args:
        scene: What is there.
        time: Seconds.
        calibration: Of the camera.
        rng: Draws exposure and noise.
        texture: Square, tiled over the ground, one cell a quarter metre, around 1.
    """
    assert calibration.intrinsic is not None
    focal, center_x, center_y = calibration.intrinsic[0, 0], calibration.intrinsic[0, 2], calibration.intrinsic[1, 2]
    pose = np.einsum("ij,jk->ik", scene.ego_pose(time), calibration.ego_from_sensor)
    cuboids = cuboids_at(scene, time)
    origin, turn = into_parts(cuboids, pose)
    u = ((np.arange(WIDTH) + 0.5 - center_x) / focal).astype(np.float32)
    v = ((np.arange(HEIGHT) + 0.5 - center_y) / focal).astype(np.float32)
    directions = np.stack(
        [
            np.broadcast_to(u, (HEIGHT, WIDTH)),
            np.broadcast_to(v[:, None], (HEIGHT, WIDTH)),
            np.ones((HEIGHT, WIDTH), np.float32),
        ]
    )
    ground = _ground_depth(scene, pose, focal, center_x, center_y)
    windows = _image_windows(corners_in_sensor(cuboids, origin, turn), focal, center_x, center_y)
    depth, nearest, hits = cast(directions, origin, turn, cuboids.half, windows, ground)
    image = _sky(scene, pose, directions)
    on_ground = (nearest < 0) & np.isfinite(ground)
    image[on_ground] = _ground_colour(scene, pose, directions[:, on_ground], ground[on_ground], texture)
    on_part = nearest >= 0
    image[on_part] = _part_colour(
        scene, cuboids, nearest[on_part], origin, turn, directions[:, on_part], depth[on_part]
    )
    image *= np.float32(255 * rng.uniform(0.8, 1.2))
    image += np.float32(rng.uniform(0.8, 2.4)) * rng.standard_normal((HEIGHT, WIDTH, 1), dtype=np.float32)
    count = len(scene.objects)
    owners = np.where(on_part, cuboids.owner[nearest], count)
    return View(
        image=image.clip(0, 255).astype(np.uint8),
        visible_px=np.bincount(owners.ravel(), minlength=count)[:count],
        alone_px=_alone(cuboids.owner, windows, hits, count),
    )


def _alone(owner: np.ndarray, windows: list[Window], hits: list[np.ndarray], count: int) -> np.ndarray:
    """Pixels that the parts of every object hit together, whatever stands before them."""
    pixels = np.zeros(count, dtype=np.int64)
    masks: dict[int, list[int]] = {}
    for index, (part, *_) in enumerate(windows):
        masks.setdefault(int(owner[part]), []).append(index)
    for object_, indices in masks.items():
        if object_ >= count:
            continue
        frames = np.array([windows[i][1:] for i in indices])
        top, left = frames[:, 0].min(), frames[:, 2].min()
        union = np.zeros((frames[:, 1].max() - top, frames[:, 3].max() - left), dtype=bool)
        for i in indices:
            _, a, b, c, d = windows[i]
            union[a - top : b - top, c - left : d - left] |= hits[i]
        pixels[object_] = union.sum()
    return pixels


def _image_windows(corners: Float[np.ndarray, "p 8 3"], focal: float, center_x: float, center_y: float) -> list[Window]:
    """Pixel rectangles that hold the cuboids' projections: of all corners, and edges cut where they pass the lens."""
    start, end = corners[:, _EDGES[:, 0]], corners[:, _EDGES[:, 1]]
    crosses = (start[..., 2] < NEAR) != (end[..., 2] < NEAR)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (NEAR - start[..., 2]) / (end[..., 2] - start[..., 2])
    cut = start + np.where(crosses, share, 0)[..., None] * (end - start)
    points = np.concatenate([corners, cut], axis=1)
    seen = np.concatenate([corners[..., 2] >= NEAR, crosses], axis=1)
    z = points[..., 2].clip(NEAR)
    rectangles = []
    for axis, center, size in ((1, center_y, HEIGHT), (0, center_x, WIDTH)):
        pixel = focal * points[..., axis] / z + center
        low = np.where(seen, pixel, np.inf).min(axis=1)
        high = np.where(seen, pixel, -np.inf).max(axis=1)
        rectangles += [np.floor(low - 0.5).clip(0, size), np.ceil(high + 0.5).clip(0, size)]
    top, bottom, left, right = (edge.astype(int) for edge in rectangles)
    kept = np.flatnonzero((top < bottom) & (left < right))
    # From near to far, fewer pixels are written twice.
    kept = kept[np.argsort(corners[kept, :, 2].min(axis=1), kind="stable")]
    return [(int(p), int(top[p]), int(bottom[p]), int(left[p]), int(right[p])) for p in kept]


def _ground_depth(
    scene: Scene, pose: np.ndarray, focal: float, center_x: float, center_y: float
) -> Float[np.ndarray, "h w"]:
    """Depth of the ground in every pixel, infinite in the sky: cast on a coarse grid, inverse depth interpolated."""
    grids = []
    for size, center in ((WIDTH, center_x), (HEIGHT, center_y)):
        grids.append(((np.arange(-1, size // _GROUND_STEP + 1) + 0.5) * _GROUND_STEP - center) / focal)
    u, v = np.meshgrid(*grids)
    rays = np.einsum("ij,jhw->ihw", pose[:3, :3], np.stack([u, v, np.ones_like(u)]))
    inverse = 1 / ground_range(scene.ground, pose[:3, 3], rays, _VIEW_RANGE)
    for axis, size in ((0, HEIGHT), (1, WIDTH)):
        place = (np.arange(size) + 0.5) / _GROUND_STEP + 0.5
        index = place.astype(int)
        share = (place - index).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        inverse = inverse.take(index, axis) * (1 - share) + inverse.take(index + 1, axis) * share
    with np.errstate(divide="ignore"):
        return np.where(inverse > 1 / _VIEW_RANGE, 1 / inverse, np.inf).astype(np.float32)


def _sky(scene: Scene, pose: np.ndarray, directions: np.ndarray) -> Float[np.ndarray, "h w 3"]:
    up = np.einsum("j,jhw->hw", pose[2, :3].astype(np.float32), directions)
    return scene.sky.astype(np.float32) * (1 - 0.5 * up.clip(0, 1))[..., None]


def _ground_colour(
    scene: Scene, pose: np.ndarray, rays: Float[np.ndarray, "3 n"], depth: np.ndarray, texture: np.ndarray
) -> Float[np.ndarray, "n 3"]:
    across = np.einsum("ij,jn->in", pose[:2, :3].astype(np.float32), rays) * depth
    column, row = ((across + pose[:2, 3:].astype(np.float32)) * 4).astype(int) % len(texture)
    lit = scene.ambient + (1 - scene.ambient) * scene.light[2]
    return texture[row, column][:, None] * (scene.asphalt * lit).astype(np.float32)


def _part_colour(
    scene: Scene,
    cuboids: Cuboids,
    part: np.ndarray,
    origin: np.ndarray,
    turn: np.ndarray,
    rays: np.ndarray,
    depth: np.ndarray,
) -> Float[np.ndarray, "n 3"]:
    share, axis, side = face(cuboids, part, origin, turn, rays, depth)
    columns, column_duty, rows, row_duty, slant, low, high = cuboids.texture[part].T
    across = (np.where(axis == 0, share[:, 1], share[:, 0]) + 1) / 2
    up = (share[:, 2] + 1) / 2
    striped = (columns * across + slant * up) % 1 < column_duty
    striped &= (rows * up) % 1 < row_duty
    striped &= (up >= low) & (up <= high) & (axis < 2)
    paint = np.where(striped[:, None], cuboids.second[part], cuboids.paint[part])
    cos, sin = np.cos(cuboids.yaw), np.sin(cuboids.yaw)
    light = np.stack(
        [
            scene.light[0] * cos + scene.light[1] * sin,
            scene.light[1] * cos - scene.light[0] * sin,
            np.full_like(cos, scene.light[2]),
        ],
        axis=1,
    ).astype(np.float32)
    facing = (light[part, axis] * side).clip(0)
    # Walls see half the sky, roofs all of it; this keeps the shaded sides apart, too.
    ambient = scene.ambient * np.array([0.8, 0.65, 1.0], np.float32)[axis]
    return paint * (ambient + np.float32(1 - scene.ambient) * facing).astype(np.float32)[:, None]


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
    _, axis, _ = face(cuboids, part, origin, turn, directions[:, on_part], reach[on_part])
    cosine[on_part] = np.abs(np.einsum("nj,jn->n", turn.astype(np.float32)[part, axis], directions[:, on_part]))
    reflectivity[on_part] = cuboids.reflectivity[part]
    lost = 0.03 + 0.45 * (reach / LIDAR_RANGE) ** 2 + 0.35 * (1 - cosine) ** 4
    # Asphalt throws most of the light away from the sensor.
    lost[~on_part] = 1 - 0.18 * (1 - lost[~on_part])
    kept = (reach < LIDAR_RANGE) & (rng.random(reach.shape) > lost)
    noisy = reach + 0.02 * rng.standard_normal(reach.shape).clip(-3, 3)
    intensity = 255 * reflectivity * np.sqrt(cosine) * rng.uniform(0.85, 1.15, reach.shape)
    ring = np.broadcast_to(np.arange(RINGS)[:, None], reach.shape)
    points = np.stack([*(noisy * directions), intensity.clip(0, 255), ring], axis=-1)
    return points[kept].astype(np.float32)


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
    step = _ELEVATION[1] - _ELEVATION[0]
    first = np.floor((bottom - _ELEVATION[0]) / step).clip(0, RINGS).astype(int)
    last = (np.ceil((top - _ELEVATION[0]) / step) + 1).clip(0, RINGS).astype(int)
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


def ground_texture(rng: np.random.Generator) -> Float[np.ndarray, "y x"]:
    """Blotches of asphalt around 1, of several sizes; opposite edges fit, so that the tile repeats without a seam."""
    cells = 256
    total = np.ones((cells, cells))
    for coarse, strength in ((8, 0.06), (32, 0.05), (cells, 0.03)):
        blotches = np.pad(rng.standard_normal((coarse, coarse)), (0, 1), mode="wrap")
        place = np.arange(cells) * coarse / cells
        index = place.astype(int)
        share = place - index
        for axis in (0, 1):
            weight = share[:, None] if axis == 0 else share
            blotches = blotches.take(index, axis) * (1 - weight) + blotches.take(index + 1, axis) * weight
        total += strength * blotches
    return total.astype(np.float32)
