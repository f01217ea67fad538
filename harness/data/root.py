"""A nuScenes root on disk: its version, tables, splits and files, checked so that what is wrong with it is named."""

import hashlib
import json
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nuscenes.nuscenes import NuScenes
from nuscenes.utils.splits import create_splits_scenes

from detectors.batch import Inputs
from harness.data.sensor_files import check_file
from harness.data.tune_split import TRAIN, TUNE, kept_cut
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
RADARS = ("RADAR_FRONT_LEFT", "RADAR_FRONT", "RADAR_FRONT_RIGHT", "RADAR_BACK_RIGHT", "RADAR_BACK_LEFT")

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
        if self._cut is not None:
            known |= json.loads((self._cut / self.version / "splits.json").read_text())
        return known

    @cached_property
    def _cut(self) -> Path | None:
        """Folder with the tune split of real nuScenes, cut from the training scenes that are here; None without one."""
        named = {version: split for split, version in _VERSION_OF_SPLIT.items() if split in ("train", "mini_train")}
        split = named.get(self.version.removeprefix("v1.0-"))
        if split is None:
            return None
        training = set(create_splits_scenes()[split])
        logs = {log["token"]: log["logfile"] for log in self._rows("log")}
        scenes = {s["name"]: logs[s["log_token"]] for s in self._rows("scene") if s["name"] in training}
        return kept_cut(self.version, scenes)

    def _rows(self, table: str) -> list[dict]:
        """A small table, without opening all of them."""
        self._check_json(self._table(table))
        return json.loads(self._table(table).read_text())

    def devkit_for(self, split: str) -> NuScenes:
        """The devkit's view in which it finds this split, to score on."""
        if split not in (TRAIN, TUNE):
            return self.devkit
        view = copy(self.devkit)
        # All that the devkit reads below it while scoring is splits.json.
        view.dataroot = str(self._cut)
        return view

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

    def check_files(self, tokens: list[str], inputs: Inputs) -> None:
        """Raise InputError naming the first sensor file that these samples need and that is not there."""
        for token in tokens:
            for row in self.files(token, inputs):
                check_file(self.path / row["filename"], f"a file of {row['channel']} for sample {token}")

    def check_annotations(self, split: str, tokens: list[str]) -> None:
        """Raise InputError for a split that nothing can be learned from or scored on, such as nuScenes' test."""
        if not any(self.devkit.get("sample", token)["anns"] for token in tokens):
            raise InputError(f"split {split!r} of {self.path / self.version} has no annotation")

    def sweeps(self, token: str, channel: str, count: int) -> list[dict]:
        """sample_data rows of a sample's keyframe of a channel and of sweeps before it, newest first, at most `count`.

        The first keyframes of a scene have fewer.
        """
        keyframes = self.devkit.get("sample", token)["data"]
        if channel not in keyframes:
            raise InputError(f"{self._table('sample_data')}: sample {token} has no keyframe of {channel}")
        rows = [self.devkit.get("sample_data", keyframes[channel])]
        while len(rows) < count and rows[-1]["prev"]:
            rows.append(self.devkit.get("sample_data", rows[-1]["prev"]))
        return rows

    def keyframes(self, token: str, count: int) -> list[str]:
        """A sample and the ones before it, newest first; the scene's first one stands in for those before it."""
        tokens = [token]
        while len(tokens) < count:
            tokens.append(self.devkit.get("sample", tokens[-1])["prev"] or tokens[-1])
        return tokens

    def files(self, token: str, inputs: Inputs) -> Iterator[dict]:
        """sample_data rows of every file that a sample's inputs are read from."""
        if inputs.image_size is not None:
            for keyframe in self.keyframes(token, inputs.keyframes):
                yield from (self.sweeps(keyframe, channel, 1)[0] for channel in CAMERAS)
        # The LiDAR's pose defines the BEV frame, but its points are read only where they are asked for.
        for channels, count in (((LIDAR,), inputs.lidar_sweeps), (RADARS, inputs.radar_sweeps)):
            for channel in channels if count else ():
                yield from self.sweeps(token, channel, count)
