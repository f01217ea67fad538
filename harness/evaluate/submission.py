"""Converts boxes to a nuScenes result file: global frame, width before length, attributes from class and speed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pyquaternion import Quaternion

from detectors.geometry.boxes import CLASSES, MOVING, Boxes
from detectors.geometry.grid import BevFrame
from harness.data.nuscenes import global_from_bev
from harness.data.root import NuScenesRoot
from harness.runs.folder import atomic_write

_ATTRIBUTES = {  # (moving, standing)
    "car": ("vehicle.moving", "vehicle.parked"),
    "truck": ("vehicle.moving", "vehicle.parked"),
    "bus": ("vehicle.moving", "vehicle.stopped"),
    "trailer": ("vehicle.moving", "vehicle.parked"),
    "construction_vehicle": ("vehicle.moving", "vehicle.parked"),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
    "motorcycle": ("cycle.with_rider", "cycle.without_rider"),
    "bicycle": ("cycle.with_rider", "cycle.without_rider"),
    "traffic_cone": ("", ""),
    "barrier": ("", ""),
}


def write_submission(
    path: Path,
    root: NuScenesRoot,
    predictions: Mapping[str, Boxes],
    sensors: frozenset[str],
    frame: BevFrame = "ego",
) -> dict[str, Any]:
    """Write the predictions (sample token to boxes in its BEV frame) as a nuScenes result file; its content."""
    content = {
        "meta": {
            "use_camera": "camera" in sensors,
            "use_lidar": "lidar" in sensors,
            "use_radar": "radar" in sensors,
            "use_map": False,
            "use_external": False,
        },
        "results": {
            token: _entries(token, global_from_bev(root, token, frame), boxes) for token, boxes in predictions.items()
        },
    }
    atomic_write(path, json.dumps(content).encode())
    return content


def _entries(token: str, pose: np.ndarray, boxes: Boxes) -> list[dict]:
    turn = Quaternion(matrix=pose)
    entries = []
    for center, size, yaw, velocity, label, score in zip(
        boxes.center.double().numpy(),
        boxes.size.tolist(),
        boxes.yaw.tolist(),
        boxes.velocity.double().numpy(),
        boxes.label.tolist(),
        boxes.score.tolist(),
        strict=True,
    ):
        name = CLASSES[label]
        length, width, height = size
        entries.append(
            {
                "sample_token": token,
                "translation": (turn.rotate(center) + pose[:3, 3]).tolist(),
                "size": [width, length, height],
                "rotation": (turn * Quaternion(axis=[0, 0, 1], angle=yaw)).elements.tolist(),
                "velocity": turn.rotate(np.array([*velocity, 0.0]))[:2].tolist(),
                "detection_name": name,
                "detection_score": score,
                "attribute_name": _ATTRIBUTES[name][0 if np.hypot(*velocity) > MOVING else 1],
            }
        )
    return entries
