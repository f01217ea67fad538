"""Draws the objects and scenery of a synthetic scene from one seed; nothing collides at any time.

Classes have similar frequencies. Only size, shape and motion depend on the class.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from harness.world.scene import RANGE, Ground, Material, Scene, Thing, Track, rotation
from harness.world.shapes import BUILDING, CLUTTER, KINDS, Paint

MAP_METRES = 320
"""Side of the square that scenes lie in; one corner is the global origin."""
FIRST = -0.5
"""No sensor fires earlier, seconds."""

_LANES = ((-7.2, 1), (-3.6, 1), (0.0, 1), (3.6, -1), (7.2, -1), (10.8, -1))
"""Sideways offset from the ego's path (left positive, metres) and direction of travel."""
_KERBS = (-11.0, 14.5)
"""Sideways offset of the road's edges."""
_NEAR = 24.0
_COUNTS = {
    "car": (3, 5.5),
    "truck": (2, 3.5),
    "construction_vehicle": (2, 3.5),
    "bus": (1.5, 3),
    "trailer": (1.5, 3),
    "barrier": (2.5, 4.5),
    "motorcycle": (2.5, 5),
    "bicycle": (2.5, 5),
    "pedestrian": (3.5, 6),
    "traffic_cone": (2.5, 4.5),
}
"""Fewest and most instances a scene aims at around the ego's path; flattened against real frequencies."""
_CLUTTER = (
    ((0.15, 0.15, 2.5), (0.35, 0.35, 6.0)),
    ((0.6, 0.6, 0.5), (2.2, 3.0, 1.8)),
    ((0.2, 3.0, 0.6), (0.4, 9.0, 1.6)),
    ((0.8, 0.8, 1.0), (2.5, 3.0, 2.8)),
)
"""Smallest and largest width, length and height of poles, bushes, walls and boxes, metres."""


def build_scene(rng: np.random.Generator, duration: float) -> Scene:
    """Draw a scene whose first keyframe is at time 0 and whose last is at `duration` seconds."""
    ego = Track(
        x=rng.uniform(-10, 10) + MAP_METRES / 2,
        y=rng.uniform(-10, 10) + MAP_METRES / 2,
        yaw=rng.uniform(-math.pi, math.pi),
        speed=0.0 if rng.random() < 0.15 else rng.uniform(1, 10),
        curvature=rng.uniform(-0.02, 0.02),
    )
    sway = np.stack(
        [rng.uniform(0.006, 0.02, 2), rng.uniform(3, 8, 2), rng.uniform(0, 2 * math.pi, 2)],
        axis=1,
    )
    objects, scenery = _populate(rng, ego, duration)
    azimuth, altitude = rng.uniform(-math.pi, math.pi), rng.uniform(0.5, 1.3)
    flat = math.cos(altitude)
    return Scene(
        ego=ego,
        sway=sway,
        ground=_draw_ground(rng, ego.at(duration / 2)),
        objects=tuple(objects),
        scenery=tuple(scenery),
        light=np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(altitude)]),
        ambient=rng.uniform(0.35, 0.6),
        posts=_draw_posts(rng, ego),
        # As bright and as dark as paint may be: behind an object they make up part of the mean colour of its outline.
        asphalt=_greyish(_colour(rng), 0.5),
        sky=0.8 * _greyish(_colour(rng), 0.5),
    )


def _draw_ground(rng: np.random.Generator, middle: tuple[float, float, float]) -> Ground:
    """Hills and hollows whose tops and bottoms are near the middle of the ego's way.

    There the ego car leans little, while what is 20 m away stands visibly higher or lower than it.
    """
    directions, lengths = rng.uniform(0, 2 * math.pi, 3), rng.uniform(45, 90, 3)
    wave = (2 * math.pi / lengths)[:, None] * np.stack([np.cos(directions), np.sin(directions)], axis=1)
    turning_point = rng.choice([-1, 1], 3) * math.pi / 2 - np.einsum("ij,j->i", wave, np.array(middle[:2]))
    return Ground(rng.uniform(0.17, 0.42, 3), wave, turning_point + rng.uniform(-0.7, 0.7, 3))


def _populate(rng: np.random.Generator, ego: Track, duration: float) -> tuple[list[Thing], list[Thing]]:
    """Objects and scenery that touch neither each other nor the ego car, at any time that is seen."""
    times = np.linspace(FIRST, duration + 0.25, 4 + round(duration / 0.25))
    # The rear axle is 1.4 m behind the middle of the car.
    taken = [_corners(ego, (2.2, 5.4), times, forward=1.4)]
    objects: list[Thing] = []
    scenery: list[Thing] = []

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
        place(Thing("building", track, size, BUILDING, "", _paints(rng)), scenery)

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
    for _ in range(round(rng.uniform(19, 31) * stretch)):
        along, sideways = _within(rng, ego, rng.uniform(0, duration), (3.5, 1.2 * _NEAR))
        track = _lane_track(ego, along, sideways, 0.0, 1, rng.uniform(-math.pi, math.pi))
        place(Thing("clutter", track, _clutter_size(rng), CLUTTER, "", _paints(rng)), scenery)
    return objects, scenery


def _clutter_size(rng: np.random.Generator) -> tuple[float, float, float]:
    """Of a pole, a bush, a wall or a box: what a LiDAR meets and nobody annotates. Width, length, height, metres."""
    low, high = _CLUTTER[rng.integers(len(_CLUTTER))]
    width, length, height = rng.uniform(low, high)
    return float(width), float(length), float(height)


def _extend_rows(rng: np.random.Generator, objects: list[Thing], place: Callable[[Thing, list[Thing]], bool]) -> None:
    """Give some barriers, cones and parked cars one to four neighbours in line, as they stand in real streets."""
    for thing in list(objects):
        if thing.track.speed or thing.name not in ("barrier", "traffic_cone", "car") or rng.random() < 0.65:
            continue
        # Cars park bumper to bumper, barriers and cones fence off what lies behind them.
        along = thing.track.yaw + (0.0 if thing.name == "car" else math.pi / 2)
        spacing = thing.size[1 if thing.name == "car" else 0] + rng.uniform(0.6, 1.5)
        for step in range(1, rng.integers(2, 6)):
            x = thing.track.x + step * spacing * math.cos(along)
            y = thing.track.y + step * spacing * math.sin(along)
            neighbour = replace(
                thing,
                track=replace(thing.track, x=x, y=y),
                size=_size(rng, thing.name, ridden=False),
                paints=_paints(rng),
            )
            if not place(neighbour, objects):
                break


def _draw_posts(rng: np.random.Generator, ego: Track) -> Float[np.ndarray, "p 2"]:
    places = [
        _lane_track(ego, along, side + rng.normal(0, 0.3), 0.0, 1)
        for side in _KERBS
        for along in np.cumsum(rng.uniform(0.8, 4.2, 64)) - 60
    ]
    return np.array([(place.x, place.y) for place in places])


def _within(rng: np.random.Generator, ego: Track, time: float, reach: tuple[float, float]) -> tuple[float, float]:
    """Along and sideways of a place that is uniform over the area between two radii around the ego car at a time."""
    radius = math.sqrt(rng.uniform(reach[0] ** 2, reach[1] ** 2))
    bearing = rng.uniform(-math.pi, math.pi)
    return ego.speed * time + radius * math.cos(bearing), radius * math.sin(bearing)


def _draw_object(rng: np.random.Generator, name: str, ego: Track, time: float, reach: tuple[float, float]) -> Thing:
    """One object whose distance from the ego car, at a time, is uniform over the area between two radii."""
    kind = KINDS[name]
    along, sideways = _within(rng, ego, time, reach)
    attribute, ridden = "", False
    speed, direction, turn = 0.0, 1, 0.0
    match name:
        case "barrier" | "traffic_cone":
            turn = rng.choice([0.0, math.pi / 2]) + rng.normal(0, 0.15)
        case "pedestrian":
            moving = rng.random() < 0.65
            attribute = "pedestrian.moving" if moving else "pedestrian.standing"
            speed = rng.uniform(0.6, 1.8) if moving else 0.0
            turn = rng.uniform(-math.pi, math.pi)
        case _ if -9.0 < sideways < 12.6 and rng.random() < 0.85:
            offset, direction = min(_LANES, key=lambda lane: abs(lane[0] - sideways))
            # Who drives in the ego's own lane keeps about its speed, or they would meet.
            in_ego_lane = abs(offset) < 1
            speed = ego.speed * rng.uniform(0.9, 1.1) if in_ego_lane else rng.uniform(0, 10) * (rng.random() > 0.15)
            if kind.ridden and not in_ego_lane:
                speed = max(2.0, 0.7 * speed)
            ridden = bool(kind.ridden)
            sideways = offset + rng.normal(0, 0.25)
            attribute = "vehicle.moving" if speed > 0 else "vehicle.stopped"
        case _:
            turn = rng.choice([0.0, math.pi / 2, math.pi, -math.pi / 2]) + rng.normal(0, 0.12)
            attribute = "vehicle.parked"
    if kind.ridden:
        attribute = "cycle.with_rider" if ridden else "cycle.without_rider"
    track = _lane_track(ego, along, sideways, speed, direction, turn, time)
    parts = kind.ridden if ridden else kind.parts
    return Thing(name, track, _size(rng, name, ridden), parts, attribute, _paints(rng))


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
    # To the millimetre, as annotations have it.
    return round(width, 3), round(length, 3), round(height, 3)


def _paints(rng: np.random.Generator) -> dict[Paint, Material]:
    """Paints from one distribution for all classes, so that a colour says nothing about the class."""
    grey = float(rng.uniform(0.05, 0.35))
    colours: dict[Paint, tuple[float, float, float]] = {
        "body": _colour(rng),
        "accent": _colour(rng),
        "dark": (grey, grey, grey),
    }
    return {name: Material(colour, float(rng.uniform(0.05, 0.95))) for name, colour in colours.items()}


def _colour(rng: np.random.Generator) -> tuple[float, float, float]:
    hue = rng.random(3)
    saturation, value = rng.beta(1.2, 1.5), rng.uniform(0.15, 0.95)
    red, green, blue = value * (1 - saturation * (1 - hue / hue.max()))
    return float(red), float(green), float(blue)


def _greyish(colour: tuple[float, float, float], saturation: float) -> Float[np.ndarray, " 3"]:
    """A colour with a share of its saturation, as bright as before."""
    grey = np.mean(colour)
    return grey + saturation * (np.array(colour) - grey)


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
