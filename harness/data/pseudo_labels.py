"""Pseudo labels of an image teacher: COCO files of instances, checked against a root and read by image."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detectors.batch import Instances
from detectors.geometry.boxes import CLASSES
from detectors.heads.instance_mask import FoundInstances
from harness.data.masks import MAX_INSTANCES, coco_rows, paint
from harness.data.tables import detection_class, read_json
from harness.errors import InputError
from harness.runs.folder import atomic_write
from harness.study.jobs import label_files

# What COCO and Cityscapes call the classes that nuScenes has, too; their other classes are left out.
_ELSEWHERE = {
    "person": "pedestrian",
    "rider": "pedestrian",
    "motorbike": "motorcycle",
    "traffic cone": "traffic_cone",
    "construction vehicle": "construction_vehicle",
}


def class_index(name: str) -> int | None:
    """Index into CLASSES of a class as we, nuScenes or COCO call it; None of one that is none of the ten."""
    known = detection_class(name) or _ELSEWHERE.get(name.lower(), name.lower())
    return CLASSES.index(known) if known in CLASSES else None


def map_classes(names: Mapping[int, str], whose: str) -> dict[int, int]:
    """A teacher's own class numbers to indices into CLASSES; raises InputError where none of its classes maps."""
    classes = {number: index for number, name in names.items() if (index := class_index(name)) is not None}
    if not classes:
        raise InputError(
            f"{whose}: none of its classes ({', '.join(map(str, names.values()))}) is one of {', '.join(CLASSES)}"
        )
    return classes


@dataclass(frozen=True)
class LabelledImage:
    """What a teacher sees in an image, not yet decoded."""

    size: tuple[int, int]
    """Height and width of the image."""
    instances: tuple[tuple[int, float, Any], ...]
    """Index into CLASSES, score and COCO's segmentation of each instance, the surest first."""


class PseudoLabels:
    """The labels in the JSON files of a folder, by the path of an image in its root."""

    def __init__(self, folder: Path, above: float = -1.0) -> None:
        """Read those with a score above a threshold; raises InputError for what is not in COCO's format."""
        self.folder = folder
        self._above = above
        self.images: dict[str, LabelledImage] = {}
        files = label_files(folder)
        if not files:
            raise InputError(f"{folder} is not a folder with a .json file of labels in COCO's format")
        for file in files:
            self._add(file)

    def check(self, rows: Iterable[Mapping[str, Any]], known: Iterable[str]) -> None:
        """Raise InputError where the labels do not fit a root.

        Args:
            rows: sample_data rows of the images that need labels.
            known: filename of every image in the root.
        """
        if strangers := self.images.keys() - set(known):
            raise InputError(
                f"{self.folder}: {min(strangers)!r} is not in the dataset ({len(strangers)} such); file_name must "
                "be a path in its root, such as samples/CAM_FRONT/....jpg"
            )
        for row in rows:
            labelled = self.images.get(row["filename"])
            if labelled is None:
                raise InputError(f"{self.folder} has no labels of {row['filename']}, a training image")
            if labelled.size != (row["height"], row["width"]):
                raise InputError(
                    f"{self.folder}: labels of {row['filename']} have {labelled.size[1]} x {labelled.size[0]} pixels; "
                    f"the image has {row['width']} x {row['height']}"
                )

    def instances(self, filename: str) -> Instances:
        """What is seen in an image, the surest first; it owns the pixels that others claim, too."""
        image = self.images[filename]
        surest = image.instances[:MAX_INSTANCES]
        try:
            # The surest is painted last, over all others.
            owner = paint([segmentation for _, _, segmentation in surest], image.size)
        except ValueError as error:
            raise InputError(f"{self.folder}: a mask of {filename}: {error}") from error
        return Instances(
            owner=torch.from_numpy(owner),
            label=torch.tensor([label for label, _, _ in surest], dtype=torch.long),
            score=torch.tensor([score for _, score, _ in surest], dtype=torch.float32),
        )

    def _add(self, file: Path) -> None:
        content = read_json(file)
        try:
            classes = map_classes({row["id"]: str(row["name"]) for row in content["categories"]}, str(file))
            numbers = {row["id"] for row in content["categories"]}
            names = {row["id"]: row["file_name"] for row in content["images"]}
            sizes = {row["file_name"]: (int(row["height"]), int(row["width"])) for row in content["images"]}
            if len(sizes) < len(content["images"]) or len(names) < len(content["images"]):
                raise InputError(f"{file}: two rows of its images have the same id or file_name")
            instances_of: dict[str, list[tuple[int, float, Any]]] = {name: [] for name in names.values()}
            for row in content["annotations"]:
                if row["category_id"] not in numbers:
                    raise InputError(f"{file}: category_id {row['category_id']!r} is in no row of its categories")
                if row["category_id"] in classes:
                    score = float(row.get("score", 1.0))
                    if not 0 <= score <= 1:
                        raise InputError(f"{file}: score {score} of an annotation is not in [0, 1]")
                    if row["image_id"] not in names:
                        raise InputError(f"{file}: image_id {row['image_id']!r} is in no row of its images")
                    name = names[row["image_id"]]
                    if score > self._above:
                        instances_of[name].append((classes[row["category_id"]], score, row["segmentation"]))
        except InputError:
            raise  # is a ValueError, and says what is wrong
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{file} is not a file of instances in COCO's format: {error!r}") from error
        for name, instances in instances_of.items():
            if name in self.images:
                raise InputError(f"{self.folder}: {name} has labels in two files, the second one is {file.name}")
            self.images[name] = LabelledImage(sizes[name], tuple(sorted(instances, key=lambda each: -each[1])))


class LabelsWriter:
    """Collects what a teacher finds, and writes it as one file."""

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, filename: str, instances: FoundInstances) -> None:
        """Take in the instances of an image; masks have the image's own size."""
        height, width = instances.mask.shape[-2:]
        image = len(self._images) + 1
        self._images.append({"id": image, "file_name": filename, "height": height, "width": width})
        for index, row in coco_rows(image, instances.mask.numpy(), instances.label.numpy()):
            score = round(float(instances.score[index]), 4)
            self._annotations.append({"id": len(self._annotations) + 1, **row, "iscrowd": 0, "score": score})

    def write(self, file: Path) -> None:
        """Write them into a file, which is there whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)],
        }
        atomic_write(file, json.dumps(content, separators=(",", ":")).encode())
