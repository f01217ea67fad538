"""A small world: an ego car that drives a curve over uneven ground, among moving and standing boxes.

All of it is a pure function of time, in seconds after the scene's first keyframe; negative times are allowed.

Frames: global and ego as in nuScenes (ego: x forward, y left, z up, origin on the ground under the rear axle).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from harness.world.shapes import Paint, Part

RANGE = 60.0
"""Objects further than this from the ego car are not annotated, metres."""
MARGIN = 0.05
"""Gap between an object's parts and its annotated box on each side and on top, metres: range noise stays inside."""


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
        # The chord of an arc has half its turn.
        chord = distance * (math.sin(turn / 2) / (turn / 2) if turn else 1.0)
        return (
            self.x + chord * math.cos(self.yaw + turn / 2),
            self.y + chord * math.sin(self.yaw + turn / 2),
            self.yaw + turn,
        )

    def velocity(self, time: float) -> tuple[float, float, float]:
        """Global velocity of that point, m/s, and the turn rate, radians per second."""
        yaw = self.at(time)[2]
        return self.speed * math.cos(yaw), self.speed * math.sin(yaw), self.speed * self.curvature


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

    def level(self, x: float, y: float) -> float:
        """The height at one place, much faster than by arrays."""
        waves = zip(self.amplitude.tolist(), self.wave.tolist(), self.phase.tolist(), strict=True)
        return sum(amplitude * math.sin(along * x + across * y + phase) for amplitude, (along, across), phase in waves)

    def slope(self, x: float, y: float) -> tuple[float, float]:
        """Rise per metre along global x and y."""
        steepness = self.amplitude * np.cos(self.wave @ np.array([x, y]) + self.phase)
        rise = steepness @ self.wave
        return float(rise[0]), float(rise[1])


@dataclass(frozen=True)
class Material:
    """What a surface does with light."""

    colour: tuple[float, float, float]
    """RGB in [0, 1]."""
    reflectivity: float
    """Share of LiDAR light that comes back at a right angle."""


@dataclass(frozen=True)
class Thing:
    """An object or a building: a track, a box, the parts that fill it and how they are painted."""

    name: str
    """Detection class, or "building" or "clutter", which nobody annotates."""
    track: Track
    size: tuple[float, float, float]
    """Width, length, height, metres."""
    parts: tuple[Part, ...]
    attribute: str
    """nuScenes attribute; empty for classes that have none."""
    paints: Mapping[Paint, Material]


@dataclass(frozen=True)
class Scene:
    """All that the sensors of one scene can see, at every time."""

    ego: Track
    sway: Float[np.ndarray, "2 3"]
    """Of pitch and of roll: amplitude (radians), frequency (radians per second), phase."""
    ground: Ground
    objects: tuple[Thing, ...]
    scenery: tuple[Thing, ...]
    light: Float[np.ndarray, " 3"]
    """Unit vector towards the sun, global."""
    ambient: float
    posts: Float[np.ndarray, "p 2"]
    """Global x and y of what stands along the kerbs and is too small for all but a RADAR."""
    asphalt: Float[np.ndarray, " 3"]
    sky: Float[np.ndarray, " 3"]

    def ego_pose(self, time: float) -> Float[np.ndarray, "4 4"]:
        """global_from_ego: the path's pose, laid onto the ground and swaying on its springs."""
        x, y, yaw = self.ego.at(time)
        rise_x, rise_y = self.ground.slope(x, y)
        pitch_sway, roll_sway = self.sway[:, 0] * np.sin(self.sway[:, 1] * time + self.sway[:, 2])
        pitch = pitch_sway - math.atan(rise_x * math.cos(yaw) + rise_y * math.sin(yaw))
        roll = roll_sway + math.atan(rise_y * math.cos(yaw) - rise_x * math.sin(yaw))
        # As it is written: what is computed from the tables is then what was seen.
        return pose(rotation(yaw, pitch, roll), np.round([x, y, self.ground.level(x, y)], 5))

    def box(self, thing: Thing, time: float) -> tuple[tuple[float, float, float], float]:
        """Global centre of a thing's box, metres, to a tenth of a millimetre, and its yaw."""
        x, y, yaw = thing.track.at(time)
        z = self.ground.level(x, y) + thing.size[2] / 2
        return (round(x, 4), round(y, 4), round(z, 4)), yaw


def pose(turn: Float[np.ndarray, "3 3"], position: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "4 4"]:
    """The matrix that turns and then moves."""
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = position
    return matrix


def rotation(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> Float[np.ndarray, "3 3"]:
    """Turn about x by roll, then about y by pitch (nose down is positive), then about z by yaw; radians."""
    (cy, sy), (cp, sp), (cr, sr) = ((math.cos(angle), math.sin(angle)) for angle in (yaw, pitch, roll))
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return np.einsum("ij,jk,kl->il", about_z, about_y, about_x)
