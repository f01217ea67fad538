"""Jobs of image teachers: train and score a segmenter, and write down what a teacher sees in the detection images."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import UInt8
from lightning.fabric import Fabric

from detectors.heads.instance_mask import FoundInstances
from detectors.segmenter import Segmenter, SegmenterSpec
from harness.data.nuimages import ImageSet, NuImagesRoot, resize_whole
from harness.data.pseudo_labels import LabelsWriter, PseudoLabels
from harness.data.root import NuScenesRoot
from harness.data.sensor_files import check_image_size, read_image
from harness.errors import InputError
from harness.evaluate.mask_ap import Found, Truth, mask_ap
from harness.runs.folder import RunFolder, atomic_write
from harness.study.jobs import LabelsJobSpec, SegmenterJobSpec, labels_hash
from harness.train.checkpoint import load_model, save_model
from harness.train.segmentation import SegmentationObjective
from harness.train.streams import seeded
from harness.train.trainer import Interrupted, fit

BATCH = 8
"""Images that are looked at together where nothing is learned."""
IMAGES_A_FILE = 1200
"""Of labels: what an interruption may cost."""
TOLD_EVERY_SECONDS = 20.0

Labeller = Callable[[Sequence[UInt8[Any, "_ _ 3"]]], list[FoundInstances]]
"""RGB images to what is seen in each, masks in its own pixels."""


def train_segmenter(
    spec: SegmenterJobSpec,
    root: NuImagesRoot,
    fabric: Fabric,
    folder: RunFolder,
    stop: Callable[[], bool],
    loader_workers: int,
) -> Segmenter:
    """The image teacher of a job, trained, or trained on where an earlier attempt stopped."""
    with seeded(spec.seed, "weights"):
        segmenter = spec.segmenter.build()
    images = ImageSet(root.images(spec.data.train_split), spec.segmenter.image_size, spec.schedule.augment)
    fit(fabric, SegmentationObjective(segmenter), images, spec.schedule, spec.seed, folder, stop, loader_workers)
    save_model(folder.model, segmenter)
    return segmenter


@torch.no_grad()
def score_segmenter(
    segmenter: Segmenter, root: NuImagesRoot, split: str, fabric: Fabric, stop: Callable[[], bool]
) -> dict[str, float]:
    """Mask AP on a split, in pixels of the segmenter's input."""
    segmenter.to(fabric.device).eval()
    images = ImageSet(root.images(split), segmenter.spec.image_size)
    images.kept.limit = 0  # each is seen once

    def pairs() -> Iterator[tuple[Truth, Found]]:
        for batch in images.plain_batches(BATCH):
            with fabric.autocast():
                maps = segmenter(batch.images.to(fabric.device))
            each = zip(batch.instances.owner, batch.instances.label, segmenter.decode(maps), strict=True)
            for owner, label, seen in each:
                number = (label >= 0).nonzero()[:, 0]
                masks = owner == rearrange(number + 1, "k -> k 1 1")
                found = (seen.mask.cpu().numpy(), seen.label.cpu().numpy(), seen.score.cpu().numpy())
                yield (masks.numpy(), label[number].numpy()), found
            if stop():
                raise Interrupted(f"stopped while scoring on {split}")

    return mask_ap(pairs())


def write_labels(
    spec: LabelsJobSpec, root: NuScenesRoot, labeller: Labeller, folder: RunFolder, stop: Callable[[], bool]
) -> dict[str, float]:
    """What a labeller sees in every image of the split, written into the folder; counts of images and instances.

    Raises:
        Interrupted: `stop` said so; whole files of labels are kept for the next attempt.
    """
    rows, told = list(label_rows(root, spec.split)), time.monotonic()
    for start in range(0, len(rows), IMAGES_A_FILE):
        file = folder.labels / f"labels-{start:06d}.json"
        if file.is_file():  # by an earlier attempt
            continue
        writer, of_file = LabelsWriter(), rows[start : start + IMAGES_A_FILE]
        for first in range(0, len(of_file), BATCH):
            chosen = of_file[first : first + BATCH]
            for row, found in zip(chosen, labeller([_image(root, row) for row in chosen]), strict=True):
                writer.add(row["filename"], found)
            done = start + first + len(chosen)
            if first + len(chosen) == len(of_file):
                writer.write(file)
            if stop() and done < len(rows):
                raise Interrupted(f"stopped after {done} of {len(rows)} images")
            if time.monotonic() - told > TOLD_EVERY_SECONDS:
                told = time.monotonic()
                print(f"{done} of {len(rows)} images labelled", flush=True)
    return _counts(PseudoLabels(folder.labels))


def copy_labels(spec: LabelsJobSpec, root: NuScenesRoot, given: Path, folder: RunFolder) -> dict[str, float]:
    """Labels that were made elsewhere, checked against the root, taken over as they are."""
    if folder.labels.exists():  # of an earlier attempt
        shutil.rmtree(folder.labels)
    folder.labels.mkdir(parents=True)
    for file in sorted(given.glob("*.json")):
        atomic_write(folder.labels / file.name, file.read_bytes())
    # What was copied, not what lies there by now.
    if labels_hash(folder.labels) != spec.given:
        raise InputError(f"the labels in {given} are no longer those that the study was planned with; call it again")
    return _counts(check_labels(root, spec.split, folder.labels))


def _counts(labels: PseudoLabels) -> dict[str, float]:
    instances = sum(len(image.found) for image in labels.images.values())
    return {"images": float(len(labels.images)), "instances": float(instances)}


def check_labels(root: NuScenesRoot, split: str, given: Path) -> PseudoLabels:
    """The labels in a folder; raises InputError where they do not fit the images of a split."""
    labels = PseudoLabels(given)
    labels.check(label_rows(root, split), (row["filename"] for row in root.devkit.sample_data))
    return labels


def label_rows(root: NuScenesRoot, split: str) -> Iterator[Mapping[str, Any]]:
    """sample_data rows of every image of a split."""
    for token in root.tokens(split):
        yield from root.images(token, keyframes=1)


def segmenter_labeller(weights: Path, spec: SegmenterSpec, fabric: Fabric) -> Labeller:
    """A segmenter of ours that looks at whole images."""
    segmenter = load_model(weights, spec).to(fabric.device).eval()

    @torch.no_grad()
    def look(images: Sequence[UInt8[Any, "_ _ 3"]]) -> list[FoundInstances]:
        batch = torch.stack([resize_whole(image, spec.image_size) for image in images])
        with fabric.autocast():
            maps = segmenter(batch.to(fabric.device))
        return [_resized(found, image.shape[:2]) for found, image in zip(segmenter.decode(maps), images, strict=True)]

    return look


def _resized(found: FoundInstances, size: tuple[int, int]) -> FoundInstances:
    masks = F.interpolate(found.mask[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0] > 0.5
    return replace(found, mask=masks.cpu(), label=found.label.cpu(), score=found.score.cpu())


def _image(root: NuScenesRoot, row: Mapping[str, Any]) -> UInt8[Any, "h w 3"]:
    path = root.path / row["filename"]
    image = read_image(path)
    check_image_size(path, image, row)
    return image
