"""Cameras of the synthetic world, as pure functions of a scene and a time."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from harness.world.mounts import HEIGHT, WIDTH, Calibration
from harness.world.rays import (
    NEAR,
    Cuboids,
    Window,
    cast,
    corners_in_sensor,
    cuboids_at,
    face,
    ground_range,
    into_parts,
    painted,
)
from harness.world.scene import Scene

_VIEW_RANGE = 160.0
_GROUND_STEP = 5
"""Pixels between the rays that are cast at the ground; inverse depth is all but linear in between."""

_EDGES = np.array([(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b) in (1, 2, 4)])


@dataclass(frozen=True)
class View:
    """An image, and how much of every object it shows."""

    image: UInt8[np.ndarray, "h w 3"]
    visible_px: Int[np.ndarray, " k"]
    alone_px: Int[np.ndarray, " k"]
    """Pixels an object would cover if nothing stood before it."""
    owner: Int[np.ndarray, "h w"]
    """Index of the object that a pixel shows; the number of objects where it shows none."""


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
    image += np.float32(rng.uniform(0.6, 1.8)) * rng.standard_normal((HEIGHT, WIDTH, 1), dtype=np.float32)
    count = len(scene.objects)
    owners = np.where(on_part, cuboids.owner[nearest], count).clip(max=count)
    return View(
        owner=owners,
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
    visible = np.flatnonzero((top < bottom) & (left < right))
    # From near to far, fewer pixels are written twice.
    visible = visible[np.argsort(corners[visible, :, 2].min(axis=1), kind="stable")]
    return [(int(p), int(top[p]), int(bottom[p]), int(left[p]), int(right[p])) for p in visible]


def _ground_depth(
    scene: Scene, pose: np.ndarray, focal: float, center_x: float, center_y: float
) -> Float[np.ndarray, "h w"]:
    """Depth of the ground in every pixel, infinite in the sky: cast on a coarse grid, inverse depth interpolated."""
    grids = []
    for size, center in ((WIDTH, center_x), (HEIGHT, center_y)):
        grids.append(((np.arange(-1, -(-size // _GROUND_STEP) + 1) + 0.5) * _GROUND_STEP - center) / focal)
    u, v = np.meshgrid(*grids)
    rays = np.einsum("ij,jhw->ihw", pose[:3, :3], np.stack([u, v, np.ones_like(u)]))
    inverse = 1 / ground_range(scene.ground, pose[:3, 3], rays, _VIEW_RANGE)
    for axis, size in ((0, HEIGHT), (1, WIDTH)):
        inverse = _between(inverse, (np.arange(size) + 0.5) / _GROUND_STEP + 0.5, axis)
    with np.errstate(divide="ignore"):
        return np.where(inverse > 1 / _VIEW_RANGE, 1 / inverse, np.inf).astype(np.float32)


def _between(grid: Float[np.ndarray, "y x"], place: Float[np.ndarray, " n"], axis: int) -> np.ndarray:
    """The values of a grid at places along one of its axes, interpolated linearly."""
    index = place.astype(int)
    share = (place - index).astype(grid.dtype)
    share = share[:, None] if axis == 0 else share
    return grid.take(index, axis) * (1 - share) + grid.take(index + 1, axis) * share


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
    paint = painted(cuboids, part, share, axis)[:, :3]
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


def ground_texture(rng: np.random.Generator) -> Float[np.ndarray, "y x"]:
    """Blotches of asphalt around 1, of several sizes; opposite edges fit, so that the tile repeats without a seam."""
    cells = 256
    total = np.ones((cells, cells))
    for coarse, strength in ((8, 0.06), (32, 0.05), (cells, 0.03)):
        blotches = np.pad(rng.standard_normal((coarse, coarse)), (0, 1), mode="wrap")
        for axis in (0, 1):
            blotches = _between(blotches, np.arange(cells) * coarse / cells, axis)
        total += strength * blotches
    return total.astype(np.float32)
