"""Reads a nuImages root, synthetic or real: single images with instance masks, for image teachers."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from detectors.batch import ImageBatch, Instances, stack_instances
from detectors.geometry.boxes import CLASSES
from harness.data.augment import augment_image
from harness.data.kept import Kept
from harness.data.manifest import MANIFEST
from harness.data.masks import MAX_INSTANCES, from_nuimages, paint
from harness.data.root import check_whole, read_splits, versions_in
from harness.data.sensor_files import check_image_size, check_sensor_file, read_image
from harness.data.tables import NUMBER, TEXT, Columns, Reference, Rule, detection_class, read_tables, table_path
from harness.errors import InputError, unknown
from harness.study.schedule import AugmentSpec

_COLUMNS: Columns = {
    "category": {"name": TEXT},
    "log": {"logfile": TEXT},
    "sample": {"log_token": Reference("log"), "key_camera_token": Reference("sample_data")},
    "sample_data": {"filename": TEXT, "width": NUMBER, "height": NUMBER},
    "object_ann": {
        "sample_data_token": Reference("sample_data"),
        "category_token": Reference("category"),
        "mask": Rule(lambda values: {type(value) for value in values} <= {dict, type(None)}, "not an object or null"),
    },
}


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and what is annotated in it, not yet decoded."""

    token: str
    """Of its sample_data row."""
    path: Path
    size: tuple[int, int]
    """Height and width."""
    masks: tuple[tuple[int, dict[str, Any]], ...]
    """Index into CLASSES and nuImages' run lengths, of those objects that are of the ten classes."""


@dataclass(frozen=True)
class NuImagesRoot:
    """An existing nuImages root.

    A split of it is a whole version, such as v1.0-train, or one that the version's splits.json gives as names of logs:
    v1.0-synthetic-images/val.
    """

    path: Path

    def __post_init__(self) -> None:
        """Raise InputError for a synthetic root that is not whole."""
        check_whole(self.path)

    def splits(self, version: str) -> list[str]:
        """A version as a split, and those of its splits.json."""
        return [version, *(f"{version}/{name}" for name in self._splits(version))]

    def check_split(self, split: str) -> None:
        """Raise InputError for a split that is not there."""
        version, _, name = split.partition("/")
        if version not in (versions := versions_in(self.path)):
            raise InputError(f"{self.path}: {unknown('version', version, versions)}")
        if name and name not in (splits := self._splits(version)):
            raise InputError(f"{self.path / version}: {unknown('split', name, splits)}")

    def fingerprint(self, *splits: str) -> str:
        """Identity of the content of these splits' versions: hash of the tables, which name every image."""
        digest = hashlib.sha256()
        for version in sorted({split.partition("/")[0] for split in splits}):
            for path in sorted((self.path / version).glob("[!.]*.json")):
                digest.update(f"{version}/{path.name}:{hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
        if (manifest := self.path / MANIFEST).is_file():
            digest.update(hashlib.sha256(manifest.read_bytes()).hexdigest().encode())
        return digest.hexdigest()

    def images(self, split: str) -> list[AnnotatedImage]:
        """The annotated images of a split, in the order of the sample table; raises InputError where there is none."""
        self.check_split(split)
        version, _, name = split.partition("/")
        folder = self.path / version
        tables = read_tables(folder, _COLUMNS, _COLUMNS)
        names = {row["token"]: row["logfile"] for row in tables["log"]}
        labels = {row["token"]: detection_class(row["name"]) for row in tables["category"]}
        if not any(labels.values()):
            known = ", ".join(sorted(row["name"] for row in tables["category"]))
            raise InputError(
                f"{table_path(folder, 'category')}: none of its categories {known} is one of the ten detection classes"
            )
        wanted = set(self._splits(version)[name]) if name else set(names.values())
        shown: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for row in tables["object_ann"]:
            label = labels[row["category_token"]]
            if label is not None and row["mask"] is not None:
                shown.setdefault(row["sample_data_token"], []).append((CLASSES.index(label), row["mask"]))
        files = {row["token"]: row for row in tables["sample_data"]}
        images = []
        for sample in tables["sample"]:
            if names[sample["log_token"]] in wanted:
                row = files[sample["key_camera_token"]]
                masks = tuple(shown.get(row["token"], ())[:MAX_INSTANCES])
                images.append(
                    AnnotatedImage(row["token"], self.path / row["filename"], (row["height"], row["width"]), masks)
                )
        if not any(image.masks for image in images):
            raise InputError(f"split {split!r} of {self.path} has no annotated image")
        return images

    def check_files(self, split: str) -> None:
        """Raise InputError naming the first image of a split that is not there."""
        for image in self.images(split):
            check_sensor_file(image.path, "camera", f"an image of split {split!r}")

    def _splits(self, version: str) -> dict[str, list[str]]:
        path = self.path / version / "splits.json"
        return read_splits(path, "LOG") if path.is_file() else {}


@dataclass(eq=False)
class ImageSet:
    """The annotated images of a split as a segmenter of some input size sees them."""

    images: list[AnnotatedImage]
    size: tuple[int, int]
    augmentation: AugmentSpec | None = None

    def __post_init__(self) -> None:
        """Begin with nothing in memory."""
        self.tokens = [image.token for image in self.images]
        self.cache = Kept(self._decoded, annotated_bytes, len(self.images))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def drawn_batch(self, indices: list[int], seeds: list[int]) -> ImageBatch:
        """Images as a training sees them: varied by the draws of these seeds."""
        if self.augmentation is None:
            raise RuntimeError("images of a set without augmentation cannot be drawn")
        drawn = []
        for index, seed in zip(indices, seeds, strict=True):
            generator = torch.Generator().manual_seed(seed)
            drawn.append(augment_image(*self.cache[index], self.augmentation, self.size, generator))
        return self._batch(indices, drawn)

    def plain_batches(self, batch_size: int) -> Iterator[ImageBatch]:
        """Every image once, in order, as it is."""
        if self.augmentation is not None:
            raise RuntimeError("images of a set with augmentation cannot be had as they are")
        for first in range(0, len(self), batch_size):
            indices = list(range(first, min(first + batch_size, len(self))))
            yield self._batch(indices, [self.cache[index] for index in indices])

    def _batch(self, indices: list[int], each: list[tuple[torch.Tensor, Instances]]) -> ImageBatch:
        instances = stack_instances([instances for _, instances in each])
        assert instances is not None
        return ImageBatch(tuple(self.tokens[index] for index in indices), torch.stack([i for i, _ in each]), instances)

    def _decoded(self, index: int) -> tuple[torch.Tensor, Instances]:
        zoom = 1.0 if self.augmentation is None else self.augmentation.image.zoom[1]
        return read_annotated(self.images[index], (round(self.size[0] * zoom), round(self.size[1] * zoom)))


def annotated_bytes(pair: tuple[torch.Tensor, Instances]) -> int:
    """The size of an image with its instances."""
    image, instances = pair
    return image.nbytes + instances.owner.nbytes


def read_annotated(image: AnnotatedImage, size: tuple[int, int]) -> tuple[UInt8[torch.Tensor, "3 h w"], Instances]:
    """An image and its instances, resized as a whole to a height and width; raises InputError for what is damaged."""
    pixels = read_image(image.path)
    check_image_size(image.path, pixels, {"height": image.size[0], "width": image.size[1]})
    try:
        # What is small stands before what is large where annotations overlap.
        owner = paint([from_nuimages(mask) for _, mask in image.masks], image.size, small_first=True)
    except ValueError as error:
        raise InputError(f"object_ann.json: a mask of {image.path}: {error}") from error
    labels = torch.tensor([label for label, _ in image.masks], dtype=torch.long)
    return resize_whole(pixels, size), Instances(
        torch.from_numpy(resize_owner(owner, size)), labels, torch.ones(len(labels))
    )


def resize_whole(pixels: UInt8[np.ndarray, "h_in w_in 3"], size: tuple[int, int]) -> UInt8[torch.Tensor, "3 h w"]:
    """An image resized to a height and width, whatever happens to its aspect."""
    scaled = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))


def resize_owner(owner: UInt8[np.ndarray, "h_in w_in"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """A map of who owns each pixel, resized: every pixel takes its owner from the nearest one."""
    return cv2.resize(owner, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
