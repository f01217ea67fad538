"""A small seeded world: an ego car that drives a curve over uneven ground, among moving and standing boxes.

Frames: global and ego as in nuScenes (ego: x forward, y left, z up, origin on the ground under the rear axle).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from harness.data.synthetic_shapes import BUILDING, KINDS, Part

RANGE = 60.0
"""Objects further than this from the ego car are not annotated, metres."""
MARGIN = 0.03
"""Gap between an object's parts and its annotated box on each side and on top, metres: range noise stays inside."""

_LANES = ((-7.2, 1), (-3.6, 1), (0.0, 1), (3.6, -1), (7.2, -1), (10.8, -1))
"""Sideways offset from the ego's path (left positive, metres) and direction of travel."""
_NEAR = 29.0
_COUNTS = {
    "car": (3.5, 6.5),
    "truck": (2, 3.5),
    "construction_vehicle": (2, 3.5),
    "bus": (1.5, 3),
    "trailer": (1.5, 3),
    "barrier": (4, 7),
    "motorcycle": (3, 5.5),
    "bicycle": (3, 5.5),
    "pedestrian": (4, 7),
    "traffic_cone": (4, 6.5),
}
"""Fewest and most instances a scene aims at around the ego's path; flattened against real frequencies."""


@dataclass(frozen=True)
class Track:
    """Motion at constant speed along a circle (or a line): where a box's ground point is at a time."""

    x: float
    y: float
    yaw: float
    speed: float
    curvature: float
    """Turn per metre, radians, left positive."""

    def at(self, time: float) -> tuple[float, float, float]:
        """Global x, y and yaw after `time` seconds; negative times are allowed."""
        distance = self.speed * time
        turn = self.curvature * distance
        # The chord of an arc has half its turn; np.sinc spares the division by a vanishing curvature.
        chord = distance * float(np.sinc(turn / 2 / np.pi))
        return (
            self.x + chord * math.cos(self.yaw + turn / 2),
            self.y + chord * math.sin(self.yaw + turn / 2),
            self.yaw + turn,
        )


@dataclass(frozen=True)
class Ground:
    """Uneven ground: the sum of a few long sine waves, so that an image row does not give the depth away."""

    amplitude: Float[np.ndarray, " waves"]
    wave: Float[np.ndarray, "waves 2"]
    """Radians per metre along global x and y."""
    phase: Float[np.ndarray, " waves"]

    def height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Global z of the ground, metres."""
        total = np.zeros_like(x)
        for amplitude, (wave_x, wave_y), phase in zip(self.amplitude, self.wave, self.phase, strict=True):
            total += amplitude.astype(total.dtype) * np.sin(
                wave_x.astype(total.dtype) * x + (wave_y.astype(total.dtype) * y + phase.astype(total.dtype))
            )
        return total

    def slope(self, x: float, y: float) -> tuple[float, float]:
        """Rise per metre along global x and y."""
        steepness = self.amplitude * np.cos(self.wave @ np.array([x, y]) + self.phase)
        rise = steepness @ self.wave
        return float(rise[0]), float(rise[1])


@dataclass(frozen=True)
class Thing:
    """An object or a building: a track, a box, the parts that fill it and how they are painted."""

    name: str
    """Detection class, or "building"."""
    track: Track
    size: tuple[float, float, float]
    """Width, length, height, metres."""
    parts: tuple[Part, ...]
    attribute: str
    """nuScenes attribute; empty for classes that have none."""
    paints: dict[str, tuple[float, float, float]]
    """RGB in [0, 1] of every paint."""
    reflectivity: float
    """Share of LiDAR light that comes back at a right angle."""


@dataclass(frozen=True)
class Scene:
    """All that the sensors of one scene can see, at every time."""

    ego: Track
    sway: Float[np.ndarray, "2 3"]
    """Of pitch and of roll: amplitude (radians), frequency (radians per second), phase."""
    ground: Ground
    objects: tuple[Thing, ...]
    buildings: tuple[Thing, ...]
    light: Float[np.ndarray, " 3"]
    """Unit vector towards the sun, global."""
    ambient: float
    asphalt: Float[np.ndarray, " 3"]
    sky: Float[np.ndarray, " 3"]

    def ego_pose(self, time: float) -> Float[np.ndarray, "4 4"]:
        """global_from_ego: the path's pose, laid onto the ground and swaying on its springs."""
        x, y, yaw = self.ego.at(time)
        rise_x, rise_y = self.ground.slope(x, y)
        pitch_sway, roll_sway = self.sway[:, 0] * np.sin(self.sway[:, 1] * time + self.sway[:, 2])
        pitch = pitch_sway - math.atan(rise_x * math.cos(yaw) + rise_y * math.sin(yaw))
        roll = roll_sway + math.atan(rise_y * math.cos(yaw) - rise_x * math.sin(yaw))
        pose = np.eye(4)
        pose[:3, :3] = rotation(yaw, pitch, roll)
        pose[:3, 3] = x, y, float(self.ground.height(np.array(x), np.array(y)))
        return pose

    def box(self, thing: Thing, time: float) -> tuple[tuple[float, float, float], float]:
        """Global centre of a thing's box, metres, and its yaw."""
        x, y, yaw = thing.track.at(time)
        return (x, y, float(self.ground.height(np.array(x), np.array(y))) + thing.size[2] / 2), yaw


def rotation(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> Float[np.ndarray, "3 3"]:
    """Turn about x by roll, then about y by pitch (nose down is positive), then about z by yaw; radians."""
    (cy, sy), (cp, sp), (cr, sr) = ((math.cos(angle), math.sin(angle)) for angle in (yaw, pitch, roll))
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return np.einsum("ij,jk,kl->il", about_z, about_y, about_x)


def build_scene(rng: np.random.Generator, duration: float) -> Scene:
    """Draw a scene whose first keyframe is at time 0 and whose last is at `duration` seconds."""
    ego = Track(
        x=rng.uniform(90, 110),
        y=rng.uniform(90, 110),
        yaw=rng.uniform(-math.pi, math.pi),
        speed=0.0 if rng.random() < 0.15 else rng.uniform(1, 10),
        curvature=rng.uniform(-0.02, 0.02),
    )
    directions, lengths = rng.uniform(0, 2 * math.pi, 3), rng.uniform(45, 90, 3)
    ground = Ground(
        amplitude=rng.uniform(0.06, 0.2, 3),
        wave=(2 * math.pi / lengths)[:, None] * np.stack([np.cos(directions), np.sin(directions)], axis=1),
        phase=rng.uniform(0, 2 * math.pi, 3),
    )
    sway = np.stack(
        [rng.uniform(0.003, 0.012, 2), rng.uniform(3, 8, 2), rng.uniform(0, 2 * math.pi, 2)],
        axis=1,
    )
    objects, buildings = _populate(rng, ego, duration)
    azimuth, altitude = rng.uniform(-math.pi, math.pi), rng.uniform(0.5, 1.3)
    flat = math.cos(altitude)
    return Scene(
        ego=ego,
        sway=sway,
        ground=ground,
        objects=tuple(objects),
        buildings=tuple(buildings),
        light=np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(altitude)]),
        ambient=rng.uniform(0.35, 0.6),
        asphalt=rng.uniform(0.25, 0.5) * rng.uniform(0.92, 1.08, 3),
        sky=np.array([0.62, 0.7, 0.8]) * rng.uniform(0.75, 1.2) * rng.uniform(0.95, 1.05, 3),
    )


def _populate(rng: np.random.Generator, ego: Track, duration: float) -> tuple[list[Thing], list[Thing]]:
    """Objects and buildings that touch neither each other nor the ego car, at any time that is seen."""
    times = np.linspace(-0.25, duration + 0.25, 2 + round(duration / 0.25))
    # The rear axle is 1.4 m behind the middle of the car.
    taken = [_corners(ego, (2.2, 5.4), times, forward=1.4)]
    objects: list[Thing] = []
    buildings: list[Thing] = []

    def place(thing: Thing, into: list[Thing]) -> bool:
        corners = _corners(thing.track, (thing.size[0] + 0.4, thing.size[1] + 0.4), times)
        if any_overlap(corners, np.stack(taken)):
            return False
        taken.append(corners)
        into.append(thing)
        return True

    for _ in range(rng.integers(4, 8)):
        side = rng.choice([-1, 1])
        size = (rng.uniform(6, 14), rng.uniform(8, 20), rng.uniform(5, 15))
        along = rng.uniform(-40, 40) + ego.speed * duration / 2
        track = _lane_track(ego, along, side * rng.uniform(20, 40), 0.0, 1)
        place(Thing("building", track, size, BUILDING, "", _paints(rng), rng.uniform(0.1, 0.9)), buildings)

    # A longer way needs more objects for the same number around every keyframe.
    stretch = 1 + ego.speed * duration / 60
    wanted = [name for name, (low, high) in _COUNTS.items() for _ in range(round(rng.uniform(low, high) * stretch))]
    # Large ones first, while there is room for them; then some far ones of every class.
    wanted.sort(key=lambda name: -KINDS[name].size[0] * KINDS[name].size[1])
    for name in wanted:
        # A long wall right beside the car would fill whole images.
        nearest = max(3.0, 0.7 * KINDS[name].size[1])
        for _ in range(12):
            if place(_draw_object(rng, name, ego, rng.uniform(0, duration), (nearest, _NEAR)), objects):
                break
    for name in KINDS:
        if rng.random() < 0.8:
            place(_draw_object(rng, name, ego, rng.uniform(0, duration), (_NEAR, RANGE - 5)), objects)
    _extend_rows(rng, objects, place)
    return objects, buildings


def _extend_rows(rng: np.random.Generator, objects: list[Thing], place: Callable[[Thing, list[Thing]], bool]) -> None:
    """Give some barriers, cones and parked cars neighbours of the same kind, as they stand in real streets."""
    for thing in list(objects):
        if thing.track.speed or thing.name not in ("barrier", "traffic_cone", "car") or rng.random() < 0.75:
            continue
        spacing = max(thing.size[0], thing.size[1] if thing.name == "car" else 0.0) + rng.uniform(0.6, 1.5)
        start = thing.track
        along = start.yaw + (math.pi / 2 if thing.name != "car" else 0.0)
        x, y = start.x + spacing * math.cos(along), start.y + spacing * math.sin(along)
        track = Track(x, y, start.yaw, speed=0.0, curvature=0.0)
        size = _size(rng, thing.name, ridden=False)
        place(Thing(thing.name, track, size, thing.parts, thing.attribute, _paints(rng), _shine(rng)), objects)


def _draw_object(rng: np.random.Generator, name: str, ego: Track, time: float, reach: tuple[float, float]) -> Thing:
    """One object whose distance from the ego car, at a time, is uniform over the area between two radii."""
    kind = KINDS[name]
    radius = math.sqrt(rng.uniform(reach[0] ** 2, reach[1] ** 2))
    bearing = rng.uniform(-math.pi, math.pi)
    along, sideways = ego.speed * time + radius * math.cos(bearing), radius * math.sin(bearing)
    ridden = False
    match name:
        case "barrier" | "traffic_cone":
            attribute = ""
            turn = rng.choice([0.0, math.pi / 2]) + rng.normal(0, 0.15)
            track = _lane_track(ego, along, sideways, 0.0, 1, turn, time)
        case "pedestrian":
            moving = rng.random() < 0.65
            attribute = "pedestrian.moving" if moving else "pedestrian.standing"
            speed = rng.uniform(0.6, 1.8) if moving else 0.0
            track = _lane_track(ego, along, sideways, speed, 1, rng.uniform(-math.pi, math.pi), time)
        case _:
            traffic = -9.0 < sideways < 12.6 and rng.random() < 0.85
            if traffic:
                offset, direction = min(_LANES, key=lambda lane: abs(lane[0] - sideways))
                # Who drives in the ego's own lane keeps about its speed, or they would meet.
                own = abs(offset) < 1
                speed = ego.speed * rng.uniform(0.9, 1.1) if own else rng.uniform(0, 10) * (rng.random() > 0.15)
                if kind.ridden:
                    speed = max(2.0, 0.7 * speed) if not own else speed
                ridden = bool(kind.ridden)
                track = _lane_track(ego, along, offset + rng.normal(0, 0.25), speed, direction, 0.0, time)
                attribute = "vehicle.moving" if speed > 0 else "vehicle.stopped"
            else:
                turn = rng.choice([0.0, math.pi / 2, math.pi, -math.pi / 2]) + rng.normal(0, 0.12)
                track = _lane_track(ego, along, sideways, 0.0, 1, turn, time)
                attribute = "vehicle.parked"
            if kind.ridden:
                attribute = "cycle.with_rider" if ridden else "cycle.without_rider"
    parts = kind.ridden if ridden else kind.parts
    return Thing(name, track, _size(rng, name, ridden), parts, attribute, _paints(rng), _shine(rng))


def _lane_track(
    ego: Track, along: float, sideways: float, speed: float, direction: int, turn: float = 0.0, time: float = 0.0
) -> Track:
    """A track that, at a time, is at a place of the ego's curved lane coordinates (along, left).

    Args:
        ego: Its path is the curve.
        along: Metres along the path from where the ego is at time 0.
        sideways: Metres to the left of it.
        speed: m/s.
        direction: 1 with the ego, -1 against it.
        turn: Added to the lane's heading, radians; a turned track is straight.
        time: Seconds.
    """
    x, y, heading = Track(ego.x, ego.y, ego.yaw, 1.0, ego.curvature).at(along)
    x, y = x - sideways * math.sin(heading), y + sideways * math.cos(heading)
    curvature = 0.0 if turn else direction * ego.curvature / (1 - ego.curvature * sideways)
    yaw = heading + turn + (math.pi if direction < 0 else 0.0)
    start_x, start_y, start_yaw = Track(x, y, yaw, speed, curvature).at(-time)
    return Track(start_x, start_y, start_yaw, speed, curvature)


def _size(rng: np.random.Generator, name: str, ridden: bool) -> tuple[float, float, float]:
    """Width, length and height, metres: one common factor and a smaller one for each dimension."""
    kind = KINDS[name]
    factors = np.exp(kind.spread * (0.8 * rng.standard_normal() + 0.6 * rng.standard_normal(3)).clip(-2.5, 2.5))
    width, length, height = (float(mean * factor) for mean, factor in zip(kind.size, factors, strict=True))
    if kind.ridden:
        height *= 1.28 if ridden else 0.85
    return width, length, height


def _paints(rng: np.random.Generator) -> dict[str, tuple[float, float, float]]:
    """Paints from one distribution for all classes, so that a colour says nothing about the class."""
    paints = {}
    for name in ("body", "accent"):
        hue = rng.random(3)
        saturation, value = rng.beta(1.2, 1.5), rng.uniform(0.15, 0.95)
        red, green, blue = value * (1 - saturation * (1 - hue / hue.max()))
        paints[name] = (float(red), float(green), float(blue))
    grey = float(rng.uniform(0.04, 0.2))
    return {**paints, "dark": (grey, grey, grey)}


def _shine(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.1, 0.9))


def _corners(
    track: Track, footprint: tuple[float, float], times: np.ndarray, forward: float = 0.0
) -> Float[np.ndarray, "t 4 2"]:
    """Corners of a footprint (width, length; metres) at every time; its middle lies `forward` of the track's point."""
    width, length = footprint
    local = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * np.array([length, width]) / 2 + np.array([forward, 0])
    corners = np.empty((len(times), 4, 2))
    for row, time in enumerate(times):
        x, y, yaw = track.at(float(time))
        corners[row] = np.einsum("ij,kj->ki", rotation(yaw)[:2, :2], local) + np.array([x, y])
    return corners


def any_overlap(corners: Float[np.ndarray, "t 4 2"], others: Float[np.ndarray, "k t 4 2"]) -> bool:
    """Whether a rectangle meets any of the others at the same time: no side of either separates the two."""
    separated: Bool[np.ndarray, "k t"] = np.zeros(others.shape[:2], dtype=bool)
    for rectangle in (corners[None], others):
        for side in (0, 1):
            axis = rectangle[..., side + 1, :] - rectangle[..., side, :]
            ours = (corners[None] * axis[..., None, :]).sum(-1)
            theirs = (others * axis[..., None, :]).sum(-1)
            separated |= (ours.max(-1) < theirs.min(-1)) | (theirs.max(-1) < ours.min(-1))
    return not separated.all()
