"""The root a study reads: the user's, or the embedded synthetic world, made in a cache folder on first use."""

import os
from pathlib import Path

import platformdirs
from rich.console import Console

from harness.console import count_progress
from harness.data.root import NuScenesRoot
from harness.data.synthetic_tables import GENERATOR, MANIFEST, synthesize
from harness.study.spec import DataSpec


def open_root(data: DataSpec, console: Console) -> NuScenesRoot:
    """The dataset of a study; raises InputError where it or a split of it does not exist."""
    root = NuScenesRoot(data.root if data.root is not None else _embedded(data, console), data.version)
    for split in dict.fromkeys((data.train_split, data.eval_split, *data.also_score)):
        root.check_split(split)
    return root


def _embedded(data: DataSpec, console: Console) -> Path:
    """The embedded dataset in the user's cache folder, made there where it is missing."""
    path = platformdirs.user_cache_path("crossbev") / f"synthetic-{data.preset}-{data.seed}-{GENERATOR}"
    if (path / MANIFEST).is_file():
        synthesize(path, data.preset, data.seed)  # only makes sure that it is this dataset
        return path
    console.print(f"making the embedded dataset in {path}", markup=False, highlight=False, soft_wrap=True)
    with count_progress(console, "scenes") as show:
        synthesize(path, data.preset, data.seed, os.cpu_count() or 1, show)
    return path
