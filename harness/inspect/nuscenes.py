"""Inspects a nuScenes root: counts its content, and finds missing and damaged sensor files."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from rich.console import Console

from detectors.geometry.boxes import CLASSES, MOVING
from harness.console import print_table
from harness.data.manifest import MANIFEST
from harness.data.root import CAMERAS, LIDAR, RADARS, NuScenesRoot
from harness.data.sensor_files import READERS, check_image_size, check_sensor_file
from harness.data.tables import TABLES, read_json
from harness.errors import InputError

IGNORED = len(CLASSES)
"""Stands for the categories that detection has no class for."""
_SHOWN = 20
"""Unusable files that are named."""
_CHUNK = 64
"""Files between two signs of progress."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Annotations:
    """One value for every annotation of some samples."""

    sample: Int[np.ndarray, " k"]
    """Index into the samples asked for."""
    label: Int[np.ndarray, " k"]
    """Index into CLASSES, or IGNORED."""
    lidar_points: Int[np.ndarray, " k"]
    radar_points: Int[np.ndarray, " k"]
    distance: Float[np.ndarray, " k"]
    """From the ego car to the middle of the box along the ground, metres."""
    speed: Float[np.ndarray, " k"]
    """m/s; NaN for objects that were annotated only once."""


@dataclass(frozen=True)
class Unusable:
    """A sensor file, or a keyframe, that is not there or not what it should be."""

    channel: str
    reason: str


def samples_by_split(root: NuScenesRoot, split: str | None) -> dict[str, list[str]]:
    """Sample tokens of one split, or of each that has any here."""
    if split is not None:
        return {split: root.tokens(split)}
    names = dict(zip(root.index.column("scene", "token"), root.index.column("scene", "name"), strict=True))
    of_scene = defaultdict(list)
    for token, scene in _scenes(root).items():
        of_scene[names[scene]].append(token)
    by_split = {
        name: [t for scene in scenes for t in of_scene.get(scene, [])] for name, scenes in root.splits().items()
    }
    return {name: tokens for name, tokens in by_split.items() if tokens}


def gather(root: NuScenesRoot, tokens: list[str]) -> Annotations:
    """The annotations of samples, from the tables alone."""
    rows = []
    for index, token in enumerate(tokens):
        ego = root.index.value("ego_pose", root.sweeps(token, LIDAR, 1)[0]["ego_pose_token"], "translation")
        for row, name, velocity in root.annotations(token):
            at = row["translation"]
            rows.append(
                (
                    index,
                    IGNORED if name is None else CLASSES.index(name),
                    row["num_lidar_pts"],
                    row["num_radar_pts"],
                    np.hypot(at[0] - ego[0], at[1] - ego[1]),
                    np.hypot(*velocity[:2]),
                )
            )
    table = np.array(rows, dtype=np.float64).reshape(-1, 6).T
    return Annotations(*table[:4].astype(np.int64), *table[4:])


def sensor_rows(root: NuScenesRoot, tokens: list[str]) -> list[dict[str, Any]]:
    """sample_data rows that belong to samples: their keyframes, and the sweeps that lead up to them."""
    return root.index.rows_of("sample_data", "sample_token", tokens)


def find_unusable(
    root: NuScenesRoot, tokens: list[str], rows: list[dict[str, Any]], fast: bool, show: Progress
) -> list[Unusable]:
    """Samples without a keyframe that they should have, and files that cannot be used.

    Args:
        root: The dataset.
        tokens: Samples.
        rows: Their sample_data rows.
        fast: Look at sizes only, instead of decoding every file.
        show: Called with the number of files done and of all files.
    """
    unusable = list(_absent_keyframes(root, tokens))
    hashes = _hashes(root.path)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding runs outside of Python's lock
        for first in range(0, len(rows), _CHUNK):
            chunk = rows[first : first + _CHUNK]
            reasons = pool.map(lambda row: _what_is_wrong(root.path, row, fast, hashes), chunk)
            unusable += [
                Unusable(row["channel"], why) for row, why in zip(chunk, reasons, strict=True) if why is not None
            ]
            show(first + len(chunk), len(rows))
    return unusable


def raise_if_unusable(unusable: list[Unusable]) -> None:
    """Raise an InputError that names the first of them, one a line."""
    if not unusable:
        return
    lines = [one.reason for one in unusable[:_SHOWN]]
    if len(unusable) > _SHOWN:
        lines.append(f"... and {len(unusable) - _SHOWN} more")
    raise InputError(
        "\n".join(
            [f"{len(unusable)} sensor files are missing or damaged:" if len(unusable) > 1 else lines.pop(0), *lines]
        )
    )


def print_contents(console: Console, root: NuScenesRoot, splits: dict[str, list[str]], tokens: list[str]) -> None:
    """Rows of the tables, sizes of the splits, and what is annotated in all of the samples."""
    console.print(f"{root.path} {root.version}", markup=False, highlight=False, soft_wrap=True)
    print_table(console, ["table", "rows"], [[name, str(root.index.count(name))] for name in TABLES])
    annotations = gather(root, tokens)
    index = {token: i for i, token in enumerate(tokens)}
    members = {name: np.isin(annotations.sample, [index[token] for token in of]) for name, of in splits.items()}
    scene = _scenes(root)
    print_table(
        console,
        ["split", "scenes", "samples", "annotations"],
        [[name, *map(str, (len({scene[t] for t in of}), len(of), members[name].sum()))] for name, of in splits.items()],
    )
    header = [f"boxes {name}" for name in splits] if splits else ["boxes"]
    masks = list(members.values()) or [np.ones(len(annotations.label), dtype=bool)]
    print_table(
        console,
        ["class", *header, "LiDAR points", "RADAR points", "without any", "median distance", "moving"],
        [_class_row(annotations, label, masks) for label in range(len(CLASSES) + 1)],
    )


def print_files(console: Console, rows: list[dict[str, Any]], unusable: list[Unusable]) -> None:
    """Keyframes, sweeps and unusable files of each channel."""
    keyframes = Counter(row["channel"] for row in rows if row["is_key_frame"])
    sweeps = Counter(row["channel"] for row in rows if not row["is_key_frame"])
    bad = Counter(one.channel for one in unusable)
    channels = [name for name in (*CAMERAS, LIDAR, *RADARS) if name in keyframes.keys() | sweeps.keys() | bad.keys()]
    print_table(
        console,
        ["sensor", "keyframes", "sweeps", "unusable"],
        [[name, str(keyframes[name]), str(sweeps[name]), str(bad[name])] for name in channels],
    )


def _scenes(root: NuScenesRoot) -> dict[str, str]:
    """The scene of every sample."""
    return dict(zip(root.index.column("sample", "token"), root.index.column("sample", "scene_token"), strict=True))


def _class_row(annotations: Annotations, label: int, masks: list[np.ndarray]) -> list[str]:
    in_class = annotations.label == label
    counts = [str((in_class & mask).sum()) for mask in masks]
    if label == IGNORED or not in_class.any():
        return ["(ignored)" if label == IGNORED else CLASSES[label], *counts, *[""] * 5]
    speed = annotations.speed[in_class]
    known = ~np.isnan(speed)
    lidar, radar = annotations.lidar_points[in_class], annotations.radar_points[in_class]
    return [
        CLASSES[label],
        *counts,
        f"{lidar.mean():.1f}",
        f"{radar.mean():.1f}",
        f"{(lidar + radar == 0).mean():.1%}",
        f"{np.median(annotations.distance[in_class]):.1f} m",
        f"{(speed[known] > MOVING).mean():.1%}" if known.any() else "unknown",
    ]


def _absent_keyframes(root: NuScenesRoot, tokens: list[str]) -> Iterator[Unusable]:
    has_radar = "radar" in root.index.column("sensor", "modality")
    wanted = (*CAMERAS, LIDAR, *(RADARS if has_radar else ()))
    for token in tokens:
        keyframes = root.index.value("sample", token, "data")
        for channel in wanted:
            if channel not in keyframes:
                yield Unusable(channel, root.no_keyframe(token, channel))


def _hashes(root: Path) -> dict[str, str]:
    """Of a dataset of ours, what the manifest says of each file."""
    path = root / MANIFEST
    manifest = read_json(path) if path.is_file() else {}
    hashes = manifest.get("sha256", {}) if isinstance(manifest, dict) else {}
    return hashes if isinstance(hashes, dict) else {}


def _what_is_wrong(root: Path, row: dict[str, Any], fast: bool, hashes: dict[str, str]) -> str | None:
    path = root / row["filename"]
    try:
        if fast:
            check_sensor_file(path, row["sensor_modality"], f"a file of {row['channel']}")
            return None
        content = READERS[row["sensor_modality"]](path)
        if row["sensor_modality"] == "camera":
            check_image_size(path, content, row)
    except InputError as error:
        return str(error)
    expected = hashes.get(row["filename"])
    if expected is not None and hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        return f"{path} is damaged: its hash differs from that in {MANIFEST}"
    return None
