"""The root a study reads: the user's, or the embedded synthetic world, made in a cache folder on first use."""

import os

from rich.console import Console

from harness.data.nuscenes import NuScenesRoot
from harness.data.synthetic_tables import embedded_root
from harness.study.spec import DataSpec


def open_root(data: DataSpec, console: Console) -> NuScenesRoot:
    """The dataset of a study; raises InputError where it or a split of it does not exist."""
    path = data.root if data.root is not None else embedded_root(data.preset, data.seed, os.cpu_count() or 1)
    root = NuScenesRoot(path, data.version)
    for split in dict.fromkeys((data.train_split, data.eval_split)):
        root.check_split(split)
    return root
