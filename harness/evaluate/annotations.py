"""Annotations of a split as columns, stored in the cache folder so that the tables are read only once."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import platformdirs

from harness.data.root import LIDAR, NuScenesRoot
from harness.errors import InputError
from harness.evaluate.columns import Annotations, Split, columns
from harness.runs.small_files import keep_arrays, kept_arrays

FORMAT = 1
"""Of the kept columns: another one makes them anew."""


def annotations(root: NuScenesRoot, split: str) -> tuple[Split, Annotations]:
    """A split's samples and annotations, those that no sensor hit left out, as the devkit does."""
    root.check_split(split)
    place = hashlib.sha256(f"{root.path.resolve()}\n{root.version}\n{split}".encode()).hexdigest()[:24]
    path = platformdirs.user_cache_path("crossbev") / "annotations" / f"{place}.npz"
    known = hashlib.sha256(f"{root.state()}\n{root.splits()[split]}".encode()).hexdigest()
    split_and_truth = _cached(path, known)
    if split_and_truth is None:
        tokens = root.tokens(split)
        root.check_annotations(split, tokens)
        split_and_truth = from_tables(root, tokens)
        _store(path, known, *split_and_truth)
    return split_and_truth


def from_tables(root: NuScenesRoot, tokens: Sequence[str]) -> tuple[Split, Annotations]:
    """What the tables say of these samples."""
    index = root.index
    attributes = dict(zip(index.column("attribute", "token"), index.column("attribute", "name"), strict=True))
    scenes: dict[str, int] = {}
    numbers, ego, sample_of, boxes = [], [], [], []
    facts: list[tuple[int, int]] = []
    rack_sample: list[int] = []
    racks: list[list[float]] = []
    for number, token in enumerate(tokens):
        numbers.append(scenes.setdefault(index.value("sample", token, "scene_token"), len(scenes)))
        keyframe = root.sweeps(token, LIDAR, 1)[0]
        ego.append(index.value("ego_pose", keyframe["ego_pose_token"], "translation"))
        for annotation, name, velocity in root.annotations(token):
            if annotation["category_name"] == "static_object.bicycle_rack":
                rack_sample.append(number)
                racks.append([*annotation["translation"], *annotation["size"], *annotation["rotation"]])
            if name is None or annotation["num_lidar_pts"] + annotation["num_radar_pts"] == 0:
                continue
            if len(annotation["attribute_tokens"]) > 1:
                raise InputError(f"annotation {annotation['token']} has more than one attribute")
            sample_of.append(number)
            facts.append((annotation["num_lidar_pts"], int(annotation["visibility_token"] or 0)))
            boxes.append(
                {
                    **{key: annotation[key] for key in ("translation", "size", "rotation")},
                    "velocity": velocity[:2].tolist(),
                    "sample_token": token,
                    "detection_name": name,
                    "detection_score": -1.0,
                    "attribute_name": next((attributes[key] for key in annotation["attribute_tokens"]), ""),
                }
            )
    split = Split(
        tokens=tuple(tokens),
        scene=np.array(numbers, dtype=np.int64),
        ego=np.array(ego, dtype=np.float64).reshape(-1, 3),
        rack_sample=np.array(rack_sample, dtype=np.int64),
        rack=np.array(racks, dtype=np.float64).reshape(-1, 10),
    )
    box_columns = columns(sample_of, boxes, tokens)
    return split, Annotations.of(box_columns, *np.array(facts, dtype=np.int64).reshape(-1, 2).T)


def _cached(path: Path, known: str) -> tuple[Split, Annotations] | None:
    """What an earlier call left, unless it is of other tables or was damaged since."""
    stored = kept_arrays(path, FORMAT)
    if stored is None or stored[0] != {"known": known}:
        return None
    parts = {
        kind: {field.name: stored[1][f"{kind.__name__}.{field.name}"] for field in fields(kind)}
        for kind in (Split, Annotations)
    }
    tokens = tuple(parts[Split].pop("tokens").tolist())
    return Split(tokens=tokens, **parts[Split]), Annotations(**parts[Annotations])


def _store(path: Path, known: str, split: Split, truth: Annotations) -> None:
    arrays = {
        f"{type(part).__name__}.{name}": np.asarray(array)
        for part in (split, truth)
        for name, array in asdict(part).items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        keep_arrays(path, FORMAT, {"known": known}, **arrays)
    except OSError as error:
        # A score does not depend on it.
        logging.getLogger(__name__).warning("the annotations cannot be stored in %s: %s", path, error.strerror)
