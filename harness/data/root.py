"""A nuScenes root on disk: its version, tables, splits and files, with checks that name what is wrong."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from detectors.batch import Inputs
from harness.data.index.rows import Index, open_index
from harness.data.manifest import MANIFEST, MARKER
from harness.data.sensor_files import check_sensor_file
from harness.data.tables import (
    TABLES,
    check_table_files,
    detection_class,
    open_devkit,
    read_json,
    read_tables,
    table_path,
)
from harness.data.tune_split import cut
from harness.errors import InputError, input_error_on_os_error, unknown

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

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
_TRAINING_SPLIT = {"v1.0-trainval": "train", "v1.0-mini": "mini_train"}
_LONGEST_STEP = 1.5
"""Seconds between two annotations of an object, above which they tell no velocity."""


def versions_in(path: Path) -> list[str]:
    """Return the names of the version folders of a dataset root; raise InputError if there is none."""
    # Not there, not allowed, or no possible name.
    with input_error_on_os_error(f"dataset root {path} does not exist or cannot be read"):
        path.stat()
    if path.is_file():
        raise InputError(f"dataset root {path} is a file; expected a folder with a version folder such as v1.0-mini")
    versions = sorted(folder.name for folder in path.glob("v1.0-*") if folder.is_dir())
    if not versions and all(table_path(path, table).exists() for table in TABLES):
        raise InputError(f"{path} is a version folder; give its parent folder as the dataset root")
    if not versions:
        raise InputError(f"{path} is not a nuScenes root: it has no version folder such as v1.0-trainval or v1.0-mini")
    return versions


def check_whole(path: Path) -> None:
    """Raise InputError for an unfinished synthetic root."""
    if (path / MARKER).is_file() and not (path / MANIFEST).is_file():
        raise InputError(f"{path} is an unfinished synthetic dataset; `python -m harness.data synthesize` completes it")


def read_splits(path: Path, what: str) -> dict[str, list[str]]:
    """Split name to names of what it consists of; raises InputError where a file says anything else."""
    custom = read_json(path)
    if not isinstance(custom, dict) or not all(_are_names(names) for names in custom.values()):
        raise InputError(f'{path} must be {{"SPLIT": ["{what}", ...], ...}}')
    return custom


def share_of(scenes: Iterable[str], share: float) -> list[str]:
    """A share of some scenes, rounded up, drawn by their names: a smaller share is a part of a larger one."""
    drawn = sorted(scenes, key=lambda name: hashlib.sha256(name.encode()).digest())
    # Rounded first, for 0.07 * 100 is a little more than 7.
    return drawn[: math.ceil(round(share * len(drawn), 6))]


@dataclass(frozen=True)
class NuScenesRoot:
    """An existing dataset root and version; its tables are indexed on first use."""

    path: Path
    version: str

    def __post_init__(self) -> None:
        """Raise InputError if the folder is not a nuScenes root of this version."""
        versions = versions_in(self.path)
        # Any name is allowed, but it must be that of a folder right here: not "", nor "..".
        if self.version not in {folder.name for folder in self.path.iterdir() if folder.is_dir()}:
            raise InputError(f"{self.path}: {unknown('version', self.version, versions)}")
        check_whole(self.path)
        check_table_files(self._folder)

    @property
    def _folder(self) -> Path:
        return self.path / self.version

    @cached_property
    def index(self) -> Index:
        """The rows of the tables; raises InputError if a table is damaged."""
        return open_index(self.path, self.version, self._state(self._tables))

    @cached_property
    def devkit(self) -> "NuScenes":
        """The devkit's object, for what needs its own code: on all of nuScenes it takes minutes and gigabytes."""
        _ = self.index  # names what is wrong with a table
        return open_devkit(self.path, self.version)

    @cached_property
    def _cut(self) -> dict[str, list[str]]:
        """The tune split of real nuScenes, cut from the training scenes that are here; empty without one."""
        split = _TRAINING_SPLIT.get(self.version)
        if split is None:
            return {}
        # Not from the devkit: whether a split exists is asked long before the large tables are read.
        tables = read_tables(self._folder, ("log", "scene"))
        training = set(_predefined_splits()[split])
        logs = {log["token"]: log["logfile"] for log in tables["log"]}
        scenes = {row["name"]: logs[row["log_token"]] for row in tables["scene"] if row["name"] in training}
        return cut(scenes)

    def fingerprint(self) -> str:
        """Identity of the content: hash of the tables, the custom splits and, where there is one, the manifest."""
        digest = hashlib.sha256(self.version.encode())
        for path in self._described_by():
            with path.open("rb") as file:
                digest.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
        return digest.hexdigest()

    def state(self) -> str:
        """Path, size and time of what `fingerprint` reads: equal while no file of it was written, and told at once."""
        return self._state(self._described_by())

    def _state(self, files: list[Path]) -> str:
        digest = hashlib.sha256(f"{self.path.resolve()} {self.version}".encode())
        for path in files:
            stat = path.stat()
            digest.update(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}".encode())
        return digest.hexdigest()

    def _described_by(self) -> list[Path]:
        extra = [self._custom_splits, self.path / MANIFEST]
        return [*self._tables, *(path for path in extra if path.is_file())]

    @property
    def _tables(self) -> list[Path]:
        return [table_path(self._folder, table) for table in sorted(TABLES)]

    @property
    def _custom_splits(self) -> Path:
        return self._folder / "splits.json"

    def splits(self) -> dict[str, list[str]]:
        """Split name to scene names: what the root's own splits.json says, those of its version, and our tune split."""
        suffix = self.version.removeprefix("v1.0-")
        predefined = _predefined_splits() if suffix in _VERSION_OF_SPLIT.values() else {}
        known = {name: scenes for name, scenes in predefined.items() if _VERSION_OF_SPLIT.get(name) == suffix}
        if self._custom_splits.is_file():
            custom = read_splits(self._custom_splits, "SCENE")
            if taken := custom.keys() & _VERSION_OF_SPLIT.keys():
                # The devkit would score its own scenes under that name.
                raise InputError(f"{self._custom_splits}: {min(taken)!r} is a split of nuScenes; choose another name")
            known |= custom
        return known | self._cut

    def check_split(self, split: str) -> None:
        """Raise InputError for a split that this root and version do not have."""
        splits = self.splits()
        if split not in splits:
            raise InputError(f"{self._folder}: {unknown('split', split, splits)}")

    def tokens(self, split: str, share: float = 1.0) -> list[str]:
        """Sample tokens of a split, or of a share of its scenes, in the order of the sample table."""
        index = self.index
        names = dict(zip(index.column("scene", "token"), index.column("scene", "name"), strict=True))
        scenes = dict(zip(index.column("sample", "token"), index.column("sample", "scene_token"), strict=True))
        return self._tokens(split, share, names, scenes)

    def count(self, split: str, share: float = 1.0) -> int:
        """Count the `tokens` by three tables of thirteen: before a training no index need be built."""
        tables = read_tables(self._folder, ("log", "scene", "sample"))
        names = {row["token"]: row["name"] for row in tables["scene"]}
        scenes = {row["token"]: row["scene_token"] for row in tables["sample"]}
        return len(self._tokens(split, share, names, scenes))

    def _tokens(self, split: str, share: float, names: Mapping[str, str], scenes: Mapping[str, str]) -> list[str]:
        """The samples of a split, given the name of every scene and the scene of every sample."""
        self.check_split(split)
        wanted = self.splits()[split]
        here = {name: token for token, name in names.items() if name in set(wanted)}
        if not here:
            named = f"its {len(wanted)} scenes ({wanted[0]}, ...)" if wanted else "any scene"
            raise InputError(f"split {split!r}: {table_path(self._folder, 'scene')} has none of {named}")
        chosen = {here[name] for name in share_of(here, share)}
        tokens = [token for token, scene in scenes.items() if scene in chosen]
        if not tokens:
            raise InputError(f"split {split!r}: {table_path(self._folder, 'sample')} has no sample of its scenes")
        return tokens

    def check_files(self, tokens: list[str], inputs: Inputs) -> None:
        """Raise InputError naming the first sensor file that these samples need and that is not there or not whole.

        No file is opened but tiny ones: what else may be wrong with a file is found when it is read.
        """
        checked: set[str] = set()
        for token in tokens:
            self.sweeps(token, LIDAR, 1)  # its pose is the sample's, for detectors without LiDAR too
            for row in self.files(token, inputs):
                if row["filename"] not in checked:
                    what = f"a file of {row['channel']} for sample {token}"
                    check_sensor_file(self.path / row["filename"], row["sensor_modality"], what)
                    checked.add(row["filename"])

    def check_annotations(self, split: str, tokens: list[str]) -> None:
        """Raise InputError for a split without annotations, such as nuScenes' test."""
        if not any(self.index.value("sample", token, "anns") for token in tokens):
            raise InputError(f"split {split!r} of {self._folder} has no annotation")

    def sweeps(self, token: str, channel: str, count: int) -> list[dict]:
        """sample_data rows of a sample's keyframe of a channel and of sweeps before it, newest first, at most `count`.

        The first keyframes of a scene have fewer.
        """
        keyframes = self.index.value("sample", token, "data")
        if channel not in keyframes:
            raise InputError(self.no_keyframe(token, channel))
        rows = [self.index.get("sample_data", keyframes[channel])]
        while len(rows) < count and rows[-1]["prev"]:
            rows.append(self.index.get("sample_data", rows[-1]["prev"]))
        return rows

    def no_keyframe(self, token: str, channel: str) -> str:
        """Return the message about a sample without a keyframe of a channel."""
        return f"{table_path(self._folder, 'sample_data')}: sample {token} has no keyframe of {channel}"

    def keyframes(self, token: str, count: int) -> list[str]:
        """A sample and the ones before it, newest first; the scene's first one stands in for those before it."""
        tokens = [token]
        while len(tokens) < count:
            tokens.append(self.index.value("sample", tokens[-1], "prev") or tokens[-1])
        return tokens

    def images(self, token: str, keyframes: int) -> Iterator[dict]:
        """sample_data rows of all cameras' images, those of the newest keyframe first."""
        for keyframe in self.keyframes(token, keyframes):
            yield from (self.sweeps(keyframe, channel, 1)[0] for channel in CAMERAS)

    def annotations(self, token: str) -> Iterator[tuple[dict, str | None, Float[np.ndarray, " xyz"]]]:
        """All sample_annotation rows of a sample, each with its detection class and its velocity.

        The class is None where the category has none; the velocity, in the global frame in m/s, is NaN where unknown.
        """
        for annotation in self.index.value("sample", token, "anns"):
            row = self.index.get("sample_annotation", annotation)
            yield row, detection_class(row["category_name"]), self._velocity(row)

    def _velocity(self, annotation: Mapping[str, Any]) -> Float[np.ndarray, " xyz"]:
        """The velocity between the annotations before and after one, by the devkit's rule and to its last bit."""
        first, last = (annotation[key] or annotation["token"] for key in ("prev", "next"))
        places = (np.array(self.index.value("sample_annotation", token, "translation")) for token in (last, first))
        samples = (self.index.value("sample_annotation", token, "sample_token") for token in (last, first))
        moved = np.subtract(*places)
        seconds = np.subtract(*(1e-6 * self.index.value("sample", token, "timestamp") for token in samples))
        steps = bool(annotation["prev"]) + bool(annotation["next"])
        if not steps or seconds > _LONGEST_STEP * steps:
            return np.full(3, np.nan)
        return moved / seconds

    def files(self, token: str, inputs: Inputs) -> Iterator[dict]:
        """sample_data rows of every file that a sample's inputs are read from."""
        if inputs.image_size is not None:
            yield from self.images(token, inputs.keyframes)
        # The LiDAR's pose defines the BEV frame, but its points are read only where they are asked for.
        for channels, count in (((LIDAR,), inputs.lidar_read), (RADARS, inputs.radar_sweeps)):
            for channel in channels if count else ():
                yield from self.sweeps(token, channel, count)


def _predefined_splits() -> dict[str, list[str]]:
    """The scenes of nuScenes' own splits, by the split's name."""
    # The devkit takes seconds to import, which who asks for the split of another dataset need not wait.
    from nuscenes.utils.splits import create_splits_scenes

    return create_splits_scenes()


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
