"""A nuScenes root through the devkit to Samples, synthetic and real alike.

The BEV frame of a sample is the ego frame at the time of its LIDAR_TOP keyframe (x forward, y left, z up, metres). This
file is the only place that decides so: sensors and boxes are moved into it here, and `global_from_bev` leads back.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Int
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.splits import create_splits_scenes
from pyquaternion import Quaternion
from torch import Tensor

from detectors.batch import CameraViews, Sample
from detectors.geometry.boxes import CLASSES, Boxes
from harness.errors import InputError, unknown

TABLES = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)
CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")
LIDAR = "LIDAR_TOP"
_LFS = b"version https://git-lfs"

# The devkit scores a predefined split only under the version it belongs to.
_VERSION_OF_SPLIT = {
    "train": "trainval",
    "val": "trainval",
    "train_detect": "trainval",
    "train_track": "trainval",
    "mini_train": "mini",
    "mini_val": "mini",
    "test": "test",
}


@dataclass(frozen=True)
class NuScenesRoot:
    """An existing dataset root and version; the devkit opens it when it is first read."""

    path: Path
    version: str

    def __post_init__(self) -> None:
        """Raise InputError where the folder cannot be a nuScenes root of this version."""
        if not self.path.is_dir():
            raise InputError(f"dataset root {self.path} does not exist")
        if not (self.path / self.version).is_dir():
            found = sorted(p.name for p in self.path.glob("v1.0-*") if p.is_dir())
            raise InputError(f"{self.path}: {unknown('version', self.version, found)}")
        for table in TABLES:
            if not self._table(table).is_file():
                raise InputError(f"{self._table(table)} is missing; a nuScenes root has all of {', '.join(TABLES)}")

    def _table(self, name: str) -> Path:
        return self.path / self.version / f"{name}.json"

    @cached_property
    def devkit(self) -> NuScenes:
        """The devkit's own view of the root."""
        try:
            return NuScenes(version=self.version, dataroot=str(self.path), verbose=False)
        except json.JSONDecodeError:
            for table in TABLES:
                self._check_json(self._table(table))
            raise

    @staticmethod
    def _check_json(path: Path) -> None:
        try:
            json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is not valid JSON: {error}") from error

    def fingerprint(self) -> str:
        """Identity of the content: hash of the tables, the custom splits and, where there is one, the manifest."""
        digest = hashlib.sha256(self.version.encode())
        extra = [self.path / self.version / "splits.json", self.path / "manifest.json"]
        for path in [*(self._table(table) for table in TABLES), *(path for path in extra if path.is_file())]:
            with path.open("rb") as file:
                digest.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
        return digest.hexdigest()

    def splits(self) -> dict[str, list[str]]:
        """Split name to scene names: what the root's own splits.json says, and the predefined ones of its version."""
        suffix = self.version.removeprefix("v1.0-")
        known = {
            name: scenes for name, scenes in create_splits_scenes().items() if _VERSION_OF_SPLIT.get(name) == suffix
        }
        custom = self.path / self.version / "splits.json"
        if custom.is_file():
            self._check_json(custom)
            content = json.loads(custom.read_text())
            if not isinstance(content, dict) or not all(isinstance(scenes, list) for scenes in content.values()):
                raise InputError(f'{custom} must be {{"SPLIT": ["SCENE", ...], ...}}')
            known |= content
        return known

    def check_split(self, split: str) -> None:
        """Raise InputError for a split that this root and version do not have."""
        splits = self.splits()
        if split not in splits:
            raise InputError(f"{self.path / self.version}: {unknown('split', split, splits)}")

    def tokens(self, split: str) -> list[str]:
        """Sample tokens of a split, in the order of the sample table."""
        self.check_split(split)
        splits = self.splits()
        scenes = {scene["token"] for scene in self.devkit.scene if scene["name"] in set(splits[split])}
        tokens = [sample["token"] for sample in self.devkit.sample if sample["scene_token"] in scenes]
        if not tokens:
            raise InputError(f"split {split!r} has no sample in {self.path} {self.version}")
        return tokens

    def check_files(self, tokens: list[str], sensors: frozenset[str]) -> None:
        """Raise InputError naming the first sensor file of these samples that is not there."""
        for token in tokens:
            channels = self.devkit.get("sample", token)["data"]
            for channel in _channels(sensors):
                if channel not in channels:
                    raise InputError(f"{self._table('sample_data')}: sample {token} has no keyframe of {channel}")
                path = self.path / self.devkit.get("sample_data", channels[channel])["filename"]
                if not path.is_file():
                    raise InputError(f"sensor file {path} ({channel} of sample {token}) is missing")
                if path.stat().st_size == 0:
                    raise InputError(f"sensor file {path} ({channel} of sample {token}) is empty")

    def check_annotations(self, split: str, tokens: list[str]) -> None:
        """Raise InputError for a split that nothing can be learned from or scored on, such as nuScenes' test."""
        if not any(self.devkit.get("sample", token)["anns"] for token in tokens):
            raise InputError(f"split {split!r} of {self.path / self.version} has no annotation")

    def global_from_bev(self, token: str) -> np.ndarray:
        """The pose of a sample's BEV frame, 4x4."""
        lidar = self._keyframe(token, LIDAR)
        return _pose(self.devkit.get("ego_pose", lidar["ego_pose_token"]))

    def read(self, token: str, sensors: frozenset[str], image_size: tuple[int, int] | None) -> Sample:
        """One keyframe.

        Args:
            token: Of the sample table.
            sensors: Any of "camera", "lidar".
            image_size: Height and width that images are resized and cropped to; needed with "camera".
        """
        boxes, points_inside = self.annotations(token)
        return Sample(
            token=token,
            views=self._views(token, image_size) if "camera" in sensors and image_size else None,
            points=self._points(token) if "lidar" in sensors else None,
            # The evaluation ignores objects that no sensor point fell on; training does the same.
            boxes=boxes[points_inside.sum(dim=1) > 0],
        )

    def annotations(self, token: str) -> tuple[Boxes, Int[Tensor, "k 2"]]:
        """All annotated boxes of the ten detection classes in the BEV frame, and the (LiDAR, RADAR) points in each."""
        global_from_bev = self.global_from_bev(token)
        turn = Quaternion(matrix=global_from_bev).inverse
        rows, points = [], []
        for annotation_token in self.devkit.get("sample", token)["anns"]:
            annotation = self.devkit.get("sample_annotation", annotation_token)
            name = category_to_detection_name(annotation["category_name"])
            if name is None:
                continue
            center = turn.rotate(np.array(annotation["translation"]) - global_from_bev[:3, 3])
            heading = (turn * Quaternion(annotation["rotation"])).rotation_matrix[:, 0]
            width, length, height = annotation["size"]
            velocity = turn.rotate(self.devkit.box_velocity(annotation_token))
            yaw = np.arctan2(heading[1], heading[0])
            rows.append([*center, length, width, height, yaw, *velocity[:2], CLASSES.index(name)])
            points.append((annotation["num_lidar_pts"], annotation["num_radar_pts"]))
        table = torch.tensor(np.array(rows, dtype=np.float32).reshape(-1, 10))
        return (
            Boxes(
                center=table[:, 0:3],
                size=table[:, 3:6],
                yaw=table[:, 6],
                velocity=table[:, 7:9],
                label=table[:, 9].long(),
                score=torch.ones(len(table)),
            ),
            torch.tensor(points, dtype=torch.long).reshape(-1, 2),
        )

    def _views(self, token: str, image_size: tuple[int, int]) -> CameraViews:
        bev_from_global = np.linalg.inv(self.global_from_bev(token))
        images, intrinsics, extrinsics = [], [], []
        for channel in CAMERAS:
            record = self._keyframe(token, channel)
            sensor = self.devkit.get("calibrated_sensor", record["calibrated_sensor_token"])
            image, input_from_pixels = _fit(_read_image(self.path / record["filename"]), image_size)
            images.append(image)
            intrinsics.append(input_from_pixels @ np.array(sensor["camera_intrinsic"]))
            global_from_ego = _pose(self.devkit.get("ego_pose", record["ego_pose_token"]))
            extrinsics.append(bev_from_global @ global_from_ego @ _pose(sensor))
        return CameraViews(
            images=torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))),
            intrinsics=torch.tensor(np.stack(intrinsics), dtype=torch.float32),
            ego_from_camera=torch.tensor(np.stack(extrinsics), dtype=torch.float32),
        )

    def _points(self, token: str) -> Tensor:
        record = self._keyframe(token, LIDAR)
        path = self.path / record["filename"]
        content = path.read_bytes()
        if content.startswith(_LFS):
            raise InputError(f"{path} is a git-LFS pointer, not a LiDAR sweep: fetch the real file")
        if not content or len(content) % 20:
            raise InputError(f"{path} has {len(content)} bytes; a LiDAR sweep has 5 floats (20 bytes) a point")
        raw = np.frombuffer(content, dtype=np.float32).reshape(-1, 5)
        if not np.isfinite(raw[:, :4]).all():
            raise InputError(f"{path} holds a NaN or an infinity")
        sensor = _pose(self.devkit.get("calibrated_sensor", record["calibrated_sensor_token"]))
        xyz = raw[:, :3] @ sensor[:3, :3].T + sensor[:3, 3]
        age = np.zeros((len(raw), 1))
        return torch.tensor(np.concatenate([xyz, raw[:, 3:4] / 255, age], axis=1), dtype=torch.float32)

    def _keyframe(self, token: str, channel: str) -> dict:
        return self.devkit.get("sample_data", self.devkit.get("sample", token)["data"][channel])


def _channels(sensors: frozenset[str]) -> tuple[str, ...]:
    # The LiDAR's pose defines the BEV frame, but its points are read only where they are asked for.
    return (*(CAMERAS if "camera" in sensors else ()), *((LIDAR,) if "lidar" in sensors else ()))


def _pose(record: dict) -> np.ndarray:
    """target_from_source of an ego_pose (global from ego) or a calibrated_sensor (ego from sensor), 4x4."""
    matrix = np.eye(4)
    matrix[:3, :3] = Quaternion(record["rotation"]).rotation_matrix
    matrix[:3, 3] = record["translation"]
    return matrix


def _read_image(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path} cannot be read as an image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _fit(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Resize to cover `size` (height, width), then crop: sides equally, and the sky before the road.

    Returns:
        The image, and the 3x3 matrix from its pixels before to its pixels after. Pixel (0, 0) has its edge at 0.
    """
    height, width = size
    scale = max(height / image.shape[0], width / image.shape[1])
    full = (max(width, round(image.shape[1] * scale)), max(height, round(image.shape[0] * scale)))
    left, top = (full[0] - width) // 2, full[1] - height
    scaled = cv2.resize(image, full, interpolation=cv2.INTER_AREA) if full != image.shape[1::-1] else image
    matrix = np.array(
        [[full[0] / image.shape[1], 0, -left], [0, full[1] / image.shape[0], -top], [0, 0, 1]], dtype=np.float64
    )
    return scaled[top : top + height, left : left + width], matrix
