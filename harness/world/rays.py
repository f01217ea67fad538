"""Casts the rays of a sensor at the synthetic world: upright cuboids and uneven ground."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from harness.world.scene import MARGIN, Ground, Material, Scene
from harness.world.shapes import Texture

NEAR = 0.15
"""Nothing is seen closer to a sensor than this, in multiples of its rays' directions."""
Window = tuple[int, int, int, int, int]
"""A cuboid, and the rays that may meet it: top, bottom, left and right in the sensor's grid of rays."""

_BITS = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)])


@dataclass(frozen=True)
class Cuboids:
    """Upright cuboids at one time, in the global frame."""

    center: Float[np.ndarray, "p 3"]
    yaw: Float[np.ndarray, " p"]
    half: Float[np.ndarray, "p 3"]
    """Half length, width and height, metres."""
    owner: Int[np.ndarray, " p"]
    """Index of the object; scenery comes after the objects."""
    paint: Float[np.ndarray, "p 4"]
    """RGB and reflectivity."""
    second: Float[np.ndarray, "p 4"]
    """Those of the texture's paint."""
    texture: Float[np.ndarray, "p 7"]
    """Fields of `Texture` as numbers: columns, their duty, rows, their duty, slant, band."""


def cuboids_at(scene: Scene, time: float) -> Cuboids:
    """The parts of all objects and scenery."""
    rows = []
    for owner, thing in enumerate((*scene.objects, *scene.scenery)):
        (x, y, z), yaw = scene.box(thing, time)
        width, length, height = thing.size
        scale = np.array([length - 2 * MARGIN, width - 2 * MARGIN, height - MARGIN])
        for part in thing.parts:
            low, high = np.array([part.x, part.y, part.z]).T * scale
            forward, left, up = (low + high) / 2
            texture = part.texture
            rows.append(
                (
                    x + forward * math.cos(yaw) - left * math.sin(yaw),
                    y + forward * math.sin(yaw) + left * math.cos(yaw),
                    z - height / 2 + up,
                    yaw,
                    *(high - low) / 2,
                    owner,
                    *_look(thing.paints[part.paint]),
                    *_look(thing.paints[texture.second]),
                    *_numbers(texture),
                )
            )
    table = np.array(rows).reshape(-1, 23)
    return Cuboids(
        center=table[:, 0:3],
        yaw=table[:, 3],
        half=table[:, 4:7],
        owner=table[:, 7].astype(np.int64),
        paint=table[:, 8:12].astype(np.float32),
        second=table[:, 12:16].astype(np.float32),
        texture=table[:, 16:23].astype(np.float32),
    )


def _look(material: Material) -> tuple[float, ...]:
    return (*material.colour, material.reflectivity)


def _numbers(texture: Texture) -> tuple[float, ...]:
    waves = (texture.columns, texture.column_duty, texture.rows, texture.row_duty, texture.slant)
    return tuple(float(number) for number in (*waves, *texture.band))


def ground_range(
    ground: Ground, origin: Float[np.ndarray, " 3"], directions: Float[np.ndarray, "3 h w"], limit: float
) -> Float[np.ndarray, "h w"]:
    """Multiples of `directions` (global) at which rays first meet the ground; infinite beyond `limit` metres."""
    rays = directions.astype(np.float32).reshape(3, -1)
    origin = origin.astype(np.float32)
    per_metre = 1 / np.hypot(rays[0], rays[1]).clip(1e-6)
    reach = np.full(rays.shape[1], np.inf, dtype=np.float32)
    # Rays that are still above the ground, how far they are and how high above it.
    open_ = np.arange(rays.shape[1])
    lower, height_lower = np.zeros_like(per_metre), _height_above(ground, origin, rays, np.zeros_like(per_metre))
    for step in np.geomspace(2.0, limit, 22, dtype=np.float32):
        upper = step * per_metre[open_]
        height_upper = _height_above(ground, origin, rays[:, open_], upper)
        met = height_upper <= 0
        reach[open_[met]] = _crossing(
            ground, origin, rays[:, open_[met]], lower[met], upper[met], height_lower[met], height_upper[met]
        )
        open_, lower, height_lower = open_[~met], upper[~met], height_upper[~met]
    return reach.reshape(directions.shape[1:])


def _crossing(
    ground: Ground,
    origin: np.ndarray,
    rays: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    height_lower: np.ndarray,
    height_upper: np.ndarray,
) -> np.ndarray:
    """Where rays pass from above the ground (`lower`) to below it (`upper`)."""
    middle = lower
    # Between the two the ground is nearly a plane: false position converges in a few steps.
    for _ in range(3):
        middle = lower + (upper - lower) * height_lower / (height_lower - height_upper)
        height = _height_above(ground, origin, rays, middle)
        below = height <= 0
        upper, height_upper = np.where(below, middle, upper), np.where(below, height, height_upper)
        lower, height_lower = np.where(below, lower, middle), np.where(below, height_lower, height)
    return middle


def _height_above(ground: Ground, origin: np.ndarray, rays: np.ndarray, reach: np.ndarray) -> np.ndarray:
    x, y, z = origin[:, None] + reach * rays
    return z - ground.height(x, y)


def cast(
    directions: Float[np.ndarray, "3 h w"],
    origin: Float[np.ndarray, "p 3"],
    turn: Float[np.ndarray, "p 3 3"],
    half: Float[np.ndarray, "p 3"],
    windows: list[Window],
    depth: Float[np.ndarray, "h w"],
) -> tuple[Float[np.ndarray, "h w"], Int[np.ndarray, "h w"], list[Bool[np.ndarray, "_ _"]]]:
    """Nearest cuboid of every ray.

    Args:
        directions: Of the rays, in the sensor's frame.
        origin: The sensor in every cuboid's own frame.
        turn: part_from_sensor.
        half: Half sizes of the cuboids.
        windows: Cuboid, top, bottom, left, right: the rays that may meet it.
        depth: What the rays meet otherwise, in multiples of `directions`.

    Returns:
        The new depth, the index of the cuboid or -1, and for every window its mask of hits.
    """
    depth = depth.copy()
    nearest = np.full(depth.shape, -1, dtype=np.int32)
    origin, turn, half = (array.astype(np.float32) for array in (origin, turn, half))
    low, high = -half - origin, half - origin
    hits = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for part, top, bottom, left, right in windows:
            inverse = 1 / np.einsum("ij,jhw->ihw", turn[part], directions[:, top:bottom, left:right])
            one, two = low[part][:, None, None] * inverse, high[part][:, None, None] * inverse
            enter = np.minimum(one, two).max(axis=0)
            leave = np.maximum(one, two).min(axis=0)
            hit = (enter <= leave) & (enter > NEAR)
            hits.append(hit)
            before = depth[top:bottom, left:right]
            nearer = hit & (enter < before)
            before[nearer] = enter[nearer]
            nearest[top:bottom, left:right][nearer] = part
    return depth, nearest, hits


def into_parts(cuboids: Cuboids, global_from_sensor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sensor's origin in every cuboid's frame, and part_from_sensor."""
    cos, sin, zero = np.cos(cuboids.yaw), np.sin(cuboids.yaw), np.zeros_like(cuboids.yaw)
    part_from_global = np.stack([cos, sin, zero, -sin, cos, zero, zero, zero, zero + 1], axis=1).reshape(-1, 3, 3)
    origin = np.einsum("pij,pj->pi", part_from_global, global_from_sensor[:3, 3] - cuboids.center)
    return origin, np.einsum("pij,jk->pik", part_from_global, global_from_sensor[:3, :3])


def corners_in_sensor(cuboids: Cuboids, origin: np.ndarray, turn: np.ndarray) -> Float[np.ndarray, "p 8 3"]:
    """Corners of the cuboids in the frame of the sensor that `into_parts` was given."""
    local = (2 * _BITS - 1) * cuboids.half[:, None, :] - origin[:, None, :]
    return np.einsum("pij,pci->pcj", turn, local)


def face(
    cuboids: Cuboids, part: np.ndarray, origin: np.ndarray, turn: np.ndarray, rays: np.ndarray, depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of hits: place on the cuboid in shares of its half sizes, axis of the face, and its side (-1, 1)."""
    local = origin.astype(np.float32)[part] + depth[:, None] * np.einsum(
        "nij,jn->ni", turn.astype(np.float32)[part], rays
    )
    share = local / cuboids.half.astype(np.float32)[part]
    axis = np.abs(share).argmax(axis=1)
    return share, axis, np.sign(np.take_along_axis(share, axis[:, None], axis=1)[:, 0])


def painted(
    cuboids: Cuboids, part: Int[np.ndarray, " n"], share: Float[np.ndarray, "n 3"], axis: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n 4"]:
    """RGB and reflectivity where rays hit, with the stripes of the texture; `share` and `axis` are those of `face`."""
    columns, column_duty, rows, row_duty, slant, low, high = cuboids.texture[part].T
    across = (np.where(axis == 0, share[:, 1], share[:, 0]) + 1) / 2
    up = (share[:, 2] + 1) / 2
    striped = (columns * across + slant * up) % 1 < column_duty
    striped &= (rows * up) % 1 < row_duty
    striped &= (up >= low) & (up <= high) & (axis < 2)
    return np.where(striped[:, None], cuboids.second[part], cuboids.paint[part])
