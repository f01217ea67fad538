"""Cuts a split for tuning from the training scenes of real nuScenes, so that reported scenes stay unused.

nuScenes has no such split, and the user's root must not be changed. The same cut is therefore computed on each call.
"""

import hashlib
from collections.abc import Mapping

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
