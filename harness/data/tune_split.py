"""A tune split for real nuScenes, cut from its training scenes: what is chosen on it is reported on others.

nuScenes has no such split, and the user's root is not ours to write into: the cut is kept in the cache folder, laid out
as the devkit looks for custom splits.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from harness.store import atomic_write

TRAIN, TUNE = "crossbev_train", "crossbev_tune"
_SHARE = 0.1


def cut(log_of_scene: Mapping[str, str]) -> dict[str, list[str]]:
    """Training scenes cut in two by whole logs, so that no drive is on both sides; at least a tenth is for tuning.

    The order of the logs is that of their names' hashes: no choice of ours, and the same on every machine.

    Args:
        log_of_scene: Name of every training scene to the name of the drive it was taken from.

    Returns:
        Split name to scene names; nothing where there is but one log.
    """
    logs = sorted(set(log_of_scene.values()), key=lambda log: hashlib.sha256(log.encode()).hexdigest())
    chosen: set[str] = set()
    tune: list[str] = []
    for log in logs[:-1]:
        if len(tune) >= _SHARE * len(log_of_scene):
            break
        chosen.add(log)
        tune = [scene for scene, of in log_of_scene.items() if of in chosen]
    if not tune:
        return {}
    return {TRAIN: sorted(set(log_of_scene) - set(tune)), TUNE: sorted(tune)}


def kept_cut(version: str, log_of_scene: Mapping[str, str], cache: Path | None = None) -> Path | None:
    """A folder in which ``VERSION/splits.json`` holds the cut of these scenes, made where it is missing.

    Args:
        version: Of the dataset.
        log_of_scene: As for `cut`.
        cache: Instead of the user's cache folder.

    Returns:
        The folder; None where nothing can be cut.
    """
    splits = cut(log_of_scene)
    if not splits:
        return None
    key = hashlib.sha256(json.dumps(sorted(log_of_scene.items())).encode()).hexdigest()[:16]
    folder = (cache or platformdirs.user_cache_path("crossbev") / "splits") / key
    file = folder / version / "splits.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, json.dumps(splits, indent=1).encode())
    return folder
