"""Opens the roots of a study: the user's, or the embedded world in the cache folder, made on first use."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import platformdirs
from rich.console import Console

from harness.console import count_progress
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
    root = NuScenesRoot(data.root if data.root is not None else _embedded(data, console), data.version)
    for split in dict.fromkeys((data.train_split, data.eval_split, *data.also_score)):
        root.check_split(split)
    return root


def open_images(data: ImageDataSpec, console: Console) -> NuImagesRoot:
    """The dataset of an image teacher; raises InputError where it or a split of it does not exist."""
    root = NuImagesRoot(data.root if data.root is not None else _embedded_images(data, console))
    for split in (data.train_split, data.eval_split):
        root.check_split(split)
    return root


def find_images(console: Console) -> Callable[[ImageDataSpec], tuple[Path, str]]:
    """For `plan_study`: where an image teacher's dataset lies, and its identity."""

    def find(data: ImageDataSpec) -> tuple[Path, str]:
        root = open_images(data, console)
        return root.path, root.fingerprint(data.train_split, data.eval_split)

    return find


def _embedded(data: DataSpec, console: Console) -> Path:
    make = partial(synthesize, preset=data.preset, seed=data.seed)
    return _made(f"synthetic-{data.preset}-{data.seed}-{GENERATOR}", "dataset", make, console)


def _embedded_images(data: ImageDataSpec, console: Console) -> Path:
    make = partial(synthesize_images, preset=data.preset, seed=data.seed)
    return _made(f"synthetic-images-{data.preset}-{data.seed}-{IMAGE_GENERATOR}", "images", make, console)


def _made(name: str, what: str, make: Callable[..., None], console: Console) -> Path:
    """An embedded dataset in the user's cache folder, made there where it is missing."""
    path = platformdirs.user_cache_path("crossbev") / name
    if (path / MANIFEST).is_file():
        make(path)  # only makes sure that it is this dataset
        return path
    console.print(f"making the embedded {what} in {path}", markup=False, highlight=False, soft_wrap=True)
    with count_progress(console, "scenes") as show:
        make(path, workers=os.cpu_count() or 1, progress=show)
    return path
