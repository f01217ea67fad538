"""The RADARs of the synthetic world: few returns from good reflectors, with radial speeds, ghosts and clutter."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from harness.data.sensor_files import RADAR_FIELDS
from harness.world.mounts import Calibration
from harness.world.scene import Scene
from harness.world.shapes import BIG_REFLECTORS, KINDS

MOST_RETURNS = 125
"""A file never holds more; the furthest are left out."""
NEAR_BEAM, FAR_BEAM = (math.radians(60), 70.0), (math.radians(9), 100.0)
"""Half angle and range, metres; the far beam is that of RADAR_FRONT alone."""
RANGE_NOISE, AZIMUTH_NOISE, SPEED_NOISE = 0.17, math.radians(0.7), 0.1
"""Standard deviations: metres, radians, m/s."""

_STEP = 0.1
"""Positions are told in multiples of this, metres."""
_UNIT_RANGE = 32.0
"""Where a return of 0 dBsm is detected half of the time, metres."""
_MARGIN = 2.5
"""Decibels over which the chance of detection rises."""
_LIFT = 0.6
"""Height above the ground of most that reflects, metres."""
_HIDDEN_DB, _HIDDEN_SHARE = -6.0, 0.06
"""Of what stands behind something, a little is seen under or around it."""
_BLOCKING_M2 = 2.0
"""Things with a smaller footprint hide nothing."""
_WALL_METRES = 2.0
"""Places on each side of a building that may reflect."""
_MOVING = 0.45
"""Radial speed, m/s, above which a RADAR calls a return moving."""

# Places on a box in shares of its half length and width, and how much better or worse than the box they reflect (dB).
# A little inside the outline, as bumpers and wheels are.
_SPOTS = np.array(
    [(x, y, 2.0) for x in (-0.9, 0.9) for y in (-0.85, 0.85)]
    + [(-0.92, 0.0, 1.0), (0.92, 0.0, 1.0), (0.0, -0.85, 0.0), (0.0, 0.85, 0.0)]
    + [(x, y, -2.0) for x in (-0.45, 0.45) for y in (-0.85, 0.85)]
    + [(-0.3, 0.0, -6.0), (0.3, 0.0, -6.0)]
)
_TRUE, _GHOST, _CLUTTER = 0, 1, 2
# Codes of the states and how likely they are, for true returns, ghosts and clutter.
_INVALID = (
    ((0, 4, 8, 9, 11, 16, 1, 17), (0.86, 0.03, 0.01, 0.03, 0.03, 0.02, 0.01, 0.01)),
    ((0, 6, 12, 10, 16, 17, 3), (0.25, 0.3, 0.15, 0.1, 0.1, 0.05, 0.05)),
    ((0, 4, 1, 9, 11, 2), (0.6, 0.15, 0.1, 0.05, 0.05, 0.05)),
)
_FALSE_ALARM = (
    ((1, 2, 3), (0.85, 0.07, 0.08)),
    ((1, 3, 4, 5, 6), (0.15, 0.35, 0.25, 0.15, 0.1)),
    ((1, 2, 3, 4), (0.45, 0.2, 0.25, 0.1)),
)
_AMBIGUITY = ((3, 4, 1, 2), (0.95, 0.025, 0.015, 0.01))
_STANDING = ((1, 3, 4, 5, 7), (0.74, 0.18, 0.03, 0.03, 0.02))


@dataclass(frozen=True)
class Reflectors:
    """Places of a scene that may reflect a RADAR; on which thing each sits, and how well it reflects.

    Things are the objects, then the scenery, then one that stands for the whole scene and carries the posts.
    """

    half: Float[np.ndarray, "k 2"]
    """Half length and half width of every thing, metres."""
    blocks: Bool[np.ndarray, " k"]
    mirrors: Bool[np.ndarray, " k"]
    thing: Int[np.ndarray, " p"]
    place: Float[np.ndarray, "p 2"]
    """Forward and left of its thing's middle, metres."""
    sides: Bool[np.ndarray, "p 4"]
    """Whether it sits on the front, the back, the left and the right side; on none: it is seen from everywhere."""
    rcs: Float[np.ndarray, " p"]
    """Mean radar cross section, dBsm."""
    chance: Float[np.ndarray, " p"]
    """Of being a return of its own if its echo is strong."""


def reflectors(scene: Scene, rng: np.random.Generator) -> Reflectors:
    """The reflecting places of a scene; they stay the same over all its sweeps."""
    rows = []
    things = (*scene.objects, *scene.scenery)
    for index, thing in enumerate(things):
        width, length, _ = thing.size
        if index < len(scene.objects):
            kind = KINDS[thing.name]
            growth = 10 * math.log10(width * length / (kind.size[0] * kind.size[1]))
            rcs = kind.rcs + growth + 2.5 * rng.standard_normal() + _SPOTS[:, 2]
            chance = min(0.7, (0.25 + 0.4 * length) / 8)
            spots = _SPOTS[:, :2]
        else:
            # Long walls have more places that reflect.
            count = math.ceil(max(width, length) / _WALL_METRES)
            along = rng.uniform(-1, 1, (4, count))
            walls = np.array([[1, -1, 0, 0], [0, 0, 1, -1]])[..., None] * np.full(count, 0.995)
            spots = (walls + np.where(walls == 0, along, 0)).reshape(2, -1).T
            rcs, chance = rng.normal(6, 4, len(spots)), 0.3
        sides = np.stack([spots[:, 0] > 0.8, spots[:, 0] < -0.8, spots[:, 1] > 0.8, spots[:, 1] < -0.8], axis=1)
        place = spots * np.array([length, width]) / 2
        rows.append((np.full(len(spots), index), place, sides, rcs, np.full(len(spots), chance)))
    posts = len(scene.posts)
    rows.append(
        (
            np.full(posts, len(things)),
            scene.posts,
            np.zeros((posts, 4), dtype=bool),
            rng.normal(-3, 4, posts),
            np.full(posts, 0.4),
        )
    )
    thing_, place, sides, rcs, chance = (np.concatenate(column) for column in zip(*rows, strict=True))
    sizes = np.array([*(thing.size[:2] for thing in things), (0.0, 0.0)])
    return Reflectors(
        half=sizes[:, ::-1] / 2,
        blocks=sizes.prod(axis=1) > _BLOCKING_M2,
        mirrors=np.array([*(thing.name in BIG_REFLECTORS for thing in things), False]),
        thing=thing_,
        place=place,
        sides=sides,
        rcs=rcs,
        chance=chance,
    )


def scan_radar(
    scene: Scene, places: Reflectors, time: float, calibration: Calibration, far: bool, rng: np.random.Generator
) -> np.ndarray:
    """One sweep: a structured array of `RADAR_FIELDS` in the sensor's frame, from near to far.

    Args:
        scene: What is there.
        places: Of the same scene.
        time: Seconds.
        calibration: Of the RADAR.
        far: Whether it has the far beam as well.
        rng: Draws what is detected, noise, ghosts, clutter and states.
    """
    pose = np.einsum("ij,jk->ik", scene.ego_pose(time), calibration.ego_from_sensor)
    sensor_velocity = _sensor_velocity(scene, pose, time)
    things = (*scene.objects, *scene.scenery)
    at = np.array([*(thing.track.at(time) for thing in things), (0.0, 0.0, 0.0)])
    moving = np.array([*(thing.track.velocity(time) for thing in things), (0.0, 0.0, 0.0)])
    offset, local = _places_in_sensor(scene, places, at, pose)
    reach, azimuth = np.linalg.norm(local, axis=1), np.arctan2(local[:, 1], local[:, 0])
    in_view = np.flatnonzero(_in_beams(reach, azimuth, far) & _facing(places, at, pose[:2, 3]))
    reach, azimuth, offset, owner = reach[in_view], azimuth[in_view], offset[in_view], places.thing[in_view]
    spots = at[owner, :2] + offset
    hidden = _hidden(places, at, pose[:2, 3], spots, owner)
    rcs = places.rcs[in_view] + 3.5 * rng.standard_normal(len(in_view)).clip(-2, 2) + _HIDDEN_DB * hidden
    strength = rcs - 40 * np.log10(reach / _UNIT_RANGE)
    chance = places.chance[in_view] / (1 + np.exp(-strength / _MARGIN)) * np.where(hidden, _HIDDEN_SHARE, 1)
    seen = (rng.random(len(in_view)) < chance) & (strength > -3 * _MARGIN)
    spin = moving[owner, 2]
    velocity = moving[owner, :2] + np.stack([-spin * offset[:, 1], spin * offset[:, 0]], axis=1)
    sight = (spots - pose[:2, 3]) / reach[:, None]
    doppler = ((velocity - sensor_velocity) * sight).sum(axis=1)
    true = np.stack([reach, azimuth, doppler, rcs, np.full(len(in_view), _TRUE)], axis=1)[seen]
    ghosts = _ghosts(true, owner[seen], places.mirrors, rng)
    clutter = _clutter(pose, sensor_velocity, rng)
    returns = np.concatenate([true, ghosts, clutter])
    returns = returns[_in_beams(returns[:, 0], returns[:, 1], far)]
    return _measured(returns, pose, sensor_velocity, rng)


def _sensor_velocity(scene: Scene, pose: np.ndarray, time: float) -> Float[np.ndarray, " 2"]:
    """Global: the ego car's, and that of the lever on which its turning moves the sensor."""
    x, y, _ = scene.ego.at(time)
    along_x, along_y, spin = scene.ego.velocity(time)
    return np.array([along_x - spin * (pose[1, 3] - y), along_y + spin * (pose[0, 3] - x)])


def _places_in_sensor(
    scene: Scene, places: Reflectors, at: np.ndarray, pose: np.ndarray
) -> tuple[Float[np.ndarray, "p 2"], Float[np.ndarray, "p 3"]]:
    """Places relative to the middle of their thing (global axes), and in the sensor's frame."""
    yaw = at[places.thing, 2]
    cos, sin = np.cos(yaw), np.sin(yaw)
    forward, left = places.place.T
    offset = np.stack([forward * cos - left * sin, forward * sin + left * cos], axis=1)
    x, y = (at[places.thing, :2] + offset).T
    relative = np.stack([x, y, scene.ground.height(x, y) + _LIFT], axis=1) - pose[:3, 3]
    return offset, np.einsum("pi,ij->pj", relative, pose[:3, :3])


def _in_beams(reach: np.ndarray, azimuth: np.ndarray, far: bool) -> Bool[np.ndarray, " p"]:
    beams = (NEAR_BEAM, FAR_BEAM) if far else (NEAR_BEAM,)
    inside = [(np.abs(azimuth) < angle) & (reach < limit) for angle, limit in beams]
    return np.logical_or.reduce(inside) & (reach > 0.3)


def _into_things(at: np.ndarray, points: Float[np.ndarray, "*p 2"]) -> Float[np.ndarray, "*p k 2"]:
    """Global points in the frames of all things: forward, left."""
    x, y = np.moveaxis(points[..., None, :] - at[:, :2], -1, 0)
    cos, sin = np.cos(at[:, 2]), np.sin(at[:, 2])
    return np.stack([x * cos + y * sin, y * cos - x * sin], axis=-1)


def _facing(places: Reflectors, at: np.ndarray, sensor: Float[np.ndarray, " 2"]) -> Bool[np.ndarray, " p"]:
    """Places on a side that faces the sensor, or on none."""
    forward, left = _into_things(at, sensor).T
    length, width = places.half.T
    open_sides = np.stack([forward > length, forward < -length, left > width, left < -width], axis=1)
    return (places.sides & open_sides[places.thing]).any(axis=1) | ~places.sides.any(axis=1)


def _hidden(
    places: Reflectors, at: np.ndarray, sensor: np.ndarray, spots: Float[np.ndarray, "p 2"], owner: np.ndarray
) -> Bool[np.ndarray, " p"]:
    """Whether the footprint of another thing lies between the sensor and a place."""
    blocking = np.flatnonzero(places.blocks)
    start = _into_things(at[blocking], sensor)
    step = _into_things(at[blocking], spots) - start
    # Where the way enters and leaves each pair of sides: a footprint is crossed between the last entry and first exit.
    with np.errstate(divide="ignore", invalid="ignore"):
        one, two = (-places.half[blocking] - start) / step, (places.half[blocking] - start) / step
    enter, leave = np.minimum(one, two).max(axis=-1), np.maximum(one, two).min(axis=-1)
    crossed = (enter < leave) & (leave > 0) & (enter < 1) & (owner[:, None] != blocking)
    return crossed.any(axis=1)


def _ghosts(
    true: Float[np.ndarray, "p 5"], owner: np.ndarray, mirrors: np.ndarray, rng: np.random.Generator
) -> Float[np.ndarray, "p_more 5"]:
    """Mirror images: seen towards a wall or a large vehicle, as far as the way by it, with the Doppler of the thing."""
    on_mirror, strong = np.flatnonzero(mirrors[owner]), np.flatnonzero(true[:, 3] > 3)
    count = rng.poisson(0.12 * len(strong)) if len(on_mirror) else 0
    mirror, image = rng.choice(on_mirror, count), rng.choice(strong, count)
    mirror, image = (index[owner[mirror] != owner[image]] for index in (mirror, image))
    place = true[:, 0] * np.exp(1j * true[:, 1])
    ghosts = true[image]
    ghosts[:, 0] = true[mirror, 0] + np.abs(place[mirror] - place[image])
    ghosts[:, 1] = true[mirror, 1] + np.radians(rng.normal(0, 1, len(image)))
    ghosts[:, 3] -= rng.uniform(3, 10, len(image))
    ghosts[:, 4] = _GHOST
    return ghosts


def _clutter(pose: np.ndarray, sensor_velocity: np.ndarray, rng: np.random.Generator) -> Float[np.ndarray, "p_more 5"]:
    """Returns of the road, which stands still, and a few false ones that seem to move."""
    road, false = rng.poisson(14), rng.poisson(0.6)
    reach = np.concatenate([1.5 + rng.exponential(12, road), rng.uniform(4, 50, false)])
    azimuth = rng.uniform(-1, 1, road + false) * NEAR_BEAM[0]
    speed = np.concatenate([np.zeros(road), rng.normal(0, 5, false)])
    doppler = speed - _along(pose, sensor_velocity, azimuth)
    kind = np.repeat([_CLUTTER, _GHOST], [road, false])
    return np.stack([reach, azimuth, doppler, rng.normal(-5, 2.5, road + false), kind], axis=1)


def _along(pose: np.ndarray, velocity: Float[np.ndarray, " 2"], azimuth: np.ndarray) -> Float[np.ndarray, " p"]:
    """Part of a global velocity along lines of sight of a sensor."""
    ahead, left = velocity @ pose[:2, :2]
    return ahead * np.cos(azimuth) + left * np.sin(azimuth)


def _measured(
    returns: Float[np.ndarray, "p 5"], pose: np.ndarray, sensor_velocity: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Range, azimuth, Doppler and RCS with noise, and the states that the RADAR's own processing gives them."""
    returns = returns[np.argsort(returns[:, 0], kind="stable")][:MOST_RETURNS]
    count = len(returns)
    reach, azimuth, doppler, rcs, kind = returns.T
    reach = (reach + RANGE_NOISE * rng.standard_normal(count)).clip(0.2)
    azimuth = azimuth + AZIMUTH_NOISE * rng.standard_normal(count)
    doppler = doppler + SPEED_NOISE * rng.standard_normal(count).clip(-3, 3)
    sight = np.stack([np.cos(azimuth), np.sin(azimuth)])
    # The RADAR knows how the car moves, but a place only by its own noisy azimuth.
    speed = doppler + _along(pose, sensor_velocity, azimuth)
    file = np.zeros(count, RADAR_FIELDS)
    file["x"], file["y"] = np.round(reach * sight / _STEP) * _STEP
    file["vx"], file["vy"] = doppler * sight
    file["vx_comp"], file["vy_comp"] = speed * sight
    file["rcs"] = np.round(rcs * 2).clip(-20, 56) / 2
    file["id"] = np.arange(count)
    file["is_quality_valid"] = 1
    crossing = (np.abs(speed) < 2 * _MOVING) & (np.abs(azimuth) > math.radians(30))
    standing = _draw(rng, _STANDING, count)
    file["dyn_prop"] = np.where(np.abs(speed) < _MOVING, standing, np.where(crossing, 6, np.where(speed > 0, 0, 2)))
    file["ambig_state"] = _draw(rng, _AMBIGUITY, count)
    for field, codes in (("invalid_state", _INVALID), ("pdh0", _FALSE_ALARM)):
        file[field] = np.choose(kind.astype(int), [_draw(rng, one, count) for one in codes])
    for field, lowest in (("x_rms", 19), ("y_rms", 19), ("vx_rms", 16), ("vy_rms", 16)):
        file[field] = lowest + rng.binomial(3, 0.3, count)
    return file


def _draw(
    rng: np.random.Generator, codes: tuple[tuple[int, ...], tuple[float, ...]], count: int
) -> Int[np.ndarray, " p"]:
    return rng.choice(codes[0], count, p=codes[1])
