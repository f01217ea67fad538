"""Inspects a nuImages root: counts images and instances of each split, checks files, and draws pictures."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console

from detectors.geometry.boxes import CLASSES
from harness.console import count_progress, print_table
from harness.data.nuimages import AnnotatedImage, NuImagesRoot, read_annotated
from harness.data.sensor_files import check_sensor_file

SHOWN = 8
"""Images of a picture."""


def inspect_images(root: NuImagesRoot, version: str, split: str | None, fast: bool, console: Console) -> None:
    """Print what the splits of a version hold, and check their files; raises InputError for the first unusable one."""
    images = {name: root.images(name) for name in ([split] if split is not None else root.splits(version))}
    print_table(
        console,
        ["split", "images", "instances", "per image"],
        [
            [name, f"{len(each):,}", f"{_instances(each):,}", f"{_instances(each) / len(each):.1f}"]
            for name, each in images.items()
        ],
    )
    # A version as a whole and its splits name the same images.
    every = list({image.token: image for each in images.values() for image in each}.values())
    counts = Counter(label for image in every for label, _ in image.masks)
    print_table(console, ["class", "instances"], [[name, f"{counts[i]:,}"] for i, name in enumerate(CLASSES)])
    with count_progress(console, "images") as show:
        pixels = _check(every, fast, show)
    if not fast:
        median = [f"{np.median(pixels[label]):,.0f}" if pixels[label] else "" for label in range(len(CLASSES))]
        print_table(console, ["class", "median pixels"], list(map(list, zip(CLASSES, median, strict=True))))


def draw_images(root: NuImagesRoot, split: str, picture: Path) -> None:
    """Draw some images of a split, evenly spread over it, with their masks."""
    from harness.inspect.picture import draw_instances, save

    images = root.images(split)
    chosen = [images[round(place)] for place in np.linspace(0, len(images) - 1, min(SHOWN, len(images)))]
    save(draw_instances([read_annotated(image, image.size) for image in chosen]), picture)


def _instances(images: list[AnnotatedImage]) -> int:
    return sum(len(image.masks) for image in images)


def _check(images: list[AnnotatedImage], fast: bool, show: Callable[[int, int], None]) -> list[list[int]]:
    """Look at every file; the pixels of each instance by class, where they are decoded."""
    pixels: list[list[int]] = [[] for _ in CLASSES]
    for done, image in enumerate(images, start=1):
        if fast:
            check_sensor_file(image.path, "camera", "an annotated image")
        else:
            _, instances = read_annotated(image, image.size)
            shown = np.bincount(instances.owner.numpy().ravel(), minlength=len(image.masks) + 1)[1:]
            for label, count in zip(instances.label.tolist(), shown.tolist(), strict=True):
                pixels[label].append(count)
        show(done, len(images))
    return pixels
