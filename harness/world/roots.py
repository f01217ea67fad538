"""Opens the roots of a study: the user's, or the embedded world in the cache folder, made on first use."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import platformdirs
from rich.console import Console

from harness.console import count_progress, say
from harness.data.manifest import MANIFEST
from harness.data.nuimages import NuImagesRoot
from harness.data.root import NuScenesRoot
from harness.study.roles import ImageDataSpec
from harness.study.spec import DataSpec
from harness.world.nuimages import GENERATOR as IMAGE_GENERATOR
from harness.world.nuimages import synthesize_images
from harness.world.nuscenes import GENERATOR, synthesize


def open_root(data: DataSpec, console: Console) -> NuScenesRoot:
    """The dataset of a study; raises InputError where it or a split of it does not exist."""
    path = data.root or _embedded("synthetic", GENERATOR, "dataset", synthesize, data, console)
    root = NuScenesRoot(path, data.version)
    for split in dict.fromkeys((data.train_split, data.eval_split, *data.also_score)):
        root.check_split(split)
    return root


def open_images(data: ImageDataSpec, console: Console) -> NuImagesRoot:
    """The dataset of an image teacher; raises InputError where it or a split of it does not exist."""
    path = data.root or _embedded("synthetic-images", IMAGE_GENERATOR, "images", synthesize_images, data, console)
    root = NuImagesRoot(path)
    for split in (data.train_split, data.eval_split):
        root.check_split(split)
    return root


def find_images(console: Console) -> Callable[[ImageDataSpec], tuple[Path, str]]:
    """For `plan_study`: where an image teacher's dataset lies, and its identity."""

    def find(data: ImageDataSpec) -> tuple[Path, str]:
        root = open_images(data, console)
        return root.path, root.fingerprint(data.train_split, data.eval_split)

    return find


def _embedded(
    name: str, generator: int, what: str, make: Callable[..., None], data: DataSpec | ImageDataSpec, console: Console
) -> Path:
    """An embedded dataset in the user's cache folder, made there where it is missing."""
    path = platformdirs.user_cache_path("crossbev") / f"{name}-{data.preset}-{data.seed}-{generator}"
    if (path / MANIFEST).is_file():
        make(path, data.preset, data.seed)  # only makes sure that it is this dataset
        return path
    console.print(f"making the embedded {what} in {path}", markup=False, highlight=False, soft_wrap=True)
    waiting = partial(say, console, f"another process is making it already; waiting until {MANIFEST} is there")
    with count_progress(console, "scenes") as show:
        make(path, data.preset, data.seed, workers=os.cpu_count() or 1, progress=show, waiting=waiting)
    return path
