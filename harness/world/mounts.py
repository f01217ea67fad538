"""Mounts of the synthetic car's sensors, as on nuScenes' cars, and their firing times."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from harness.world.scene import pose, rotation

WIDTH, HEIGHT = 352, 198
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
LIDAR = "LIDAR_TOP"
LIDAR_MOUNT = (0.94, 0.0, 1.84)
LIDAR_TURN = -math.pi / 2
"""nuScenes mounts its LiDAR so that its x axis points to the right and its y axis forward."""
RADAR_MOUNTS = {
    "RADAR_FRONT": ((3.41, 0.0, 0.50), 0.0, 0.014),
    "RADAR_FRONT_LEFT": ((2.42, 0.80, 0.78), 90.0, -0.023),
    "RADAR_FRONT_RIGHT": ((2.42, -0.80, 0.78), -90.0, 0.031),
    "RADAR_BACK_LEFT": ((-0.56, 0.62, 0.53), 175.0, -0.037),
    "RADAR_BACK_RIGHT": ((-0.56, -0.62, 0.53), -175.0, 0.022),
}
"""Position (ego frame, metres), heading (degrees), time after the LiDAR (seconds)."""
CHANNELS = {
    **dict.fromkeys(CAMERA_MOUNTS, "camera"),
    LIDAR: "lidar",
    **dict.fromkeys(RADAR_MOUNTS, "radar"),
}
"""Modality of every channel."""
INTERVAL = 0.5
"""Seconds between keyframes."""
_JITTER = 0.003
"""Standard deviation of a RADAR's firing time, seconds; clipped at twice that."""


@dataclass(frozen=True)
class Calibration:
    """How a sensor is mounted; `intrinsic` only for cameras."""

    ego_from_sensor: Float[np.ndarray, "4 4"]
    intrinsic: Float[np.ndarray, "3 3"] | None


@dataclass(frozen=True)
class Sweeps:
    """How many sweeps lie between two keyframes; as many lie before the first one, so that each has a past."""

    lidar: int
    radar: int

    def between(self, channel: str) -> int:
        """Of a channel; cameras have none."""
        return {"camera": 0, "lidar": self.lidar, "radar": self.radar}[CHANNELS[channel]]


@dataclass(frozen=True)
class Shot:
    """A sensor fires once."""

    channel: str
    number: int
    """In the order of time among the shots of its channel; 0 is the first keyframe's, sweeps before it are negative."""
    time: float
    """Seconds after the first keyframe of the scene."""
    frame: int
    """The keyframe that is nearest in time; of two that are equally near, the later one."""
    is_keyframe: bool


def shots(rng: np.random.Generator, channel: str, frames: int, sweeps: Sweeps) -> list[Shot]:
    """All shots of one sensor in a scene, in the order of time.

    Args:
        rng: Draws the jitter of RADARs.
        channel: A key of `CHANNELS`.
        frames: How many keyframes the scene has.
        sweeps: Between them.
    """
    between = sweeps.between(channel)
    lags = {name: lag for name, (*_, lag) in (CAMERA_MOUNTS | RADAR_MOUNTS).items()}
    steps = range(-between, (between + 1) * (frames - 1) + 1)
    jitter = (_JITTER * rng.standard_normal(len(steps))).clip(-2 * _JITTER, 2 * _JITTER)
    if CHANNELS[channel] != "radar":
        jitter *= 0
    all_shots = []
    for step, late in zip(steps, jitter, strict=True):
        time = step / (between + 1) * INTERVAL + lags.get(channel, 0.0) + float(late)
        frame = min(max(math.floor(time / INTERVAL + 0.5), 0), frames - 1)
        all_shots.append(Shot(channel, step, time, frame, step % (between + 1) == 0))
    return all_shots


def calibrate(rng: np.random.Generator) -> dict[str, Calibration]:
    """Mounts of all sensors, a little off their nominal pose, as on a real car."""
    mounts = {}
    optical = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    for channel, (position, heading, field, _) in CAMERA_MOUNTS.items():
        yaw, pitch, roll = np.radians(rng.uniform(-1, 1, 3) * (1.5, 0.7, 0.5))
        turn = np.einsum("ij,jk->ik", rotation(math.radians(heading) + yaw, pitch, roll), optical)
        focal = WIDTH / 2 / math.tan(math.radians(field) / 2) * rng.uniform(0.99, 1.01)
        intrinsic = np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
        mounts[channel] = Calibration(pose(turn, np.array(position) + rng.uniform(-0.03, 0.03, 3)), intrinsic)
    turn = rotation(LIDAR_TURN + rng.uniform(-0.01, 0.01))
    mounts[LIDAR] = Calibration(pose(turn, np.array(LIDAR_MOUNT)), None)
    for channel, (position, heading, _) in RADAR_MOUNTS.items():
        # RADARs are mounted level: what they measure has no height.
        turn = rotation(math.radians(heading + rng.uniform(-1, 1)))
        mounts[channel] = Calibration(pose(turn, np.array(position) + rng.uniform(-0.02, 0.02, 3)), None)
    return mounts
