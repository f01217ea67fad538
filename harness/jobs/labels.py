"""Jobs of labels: an image teacher labels the images of the detection data, or given labels are copied."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import UInt8

from detectors.cost import CAMERAS
from detectors.heads.instance_mask import FoundInstances
from detectors.segmenter import SegmenterSpec
from harness.data.nuimages import resize_whole
from harness.data.pseudo_labels import LabelsWriter, PseudoLabels
from harness.data.root import NuScenesRoot
from harness.data.sensor_files import check_image_size, read_image
from harness.diagnose.machine import Machine
from harness.errors import InputError
from harness.jobs.kind import FORWARD_SHARE, Folders, JobOrder, Kind, Outcome, Samples, StepSeconds, Timer
from harness.runs.folder import RunFolder, atomic_write
from harness.study.jobs import LabelsJobSpec, SegmenterJobSpec, label_files, labels_hash
from harness.study.plan import Plan
from harness.train.checkpoint import load_model
from harness.train.pretrained import PretrainedLabeller, check_pretrained
from harness.train.trainer import Interrupted

LABELLED_TOGETHER = 8
"""Images."""
IMAGES_A_FILE = 1200
"""Images whose labels an interruption may cost."""
LINE_EVERY_SECONDS = 20.0

Labeller = Callable[[Sequence[UInt8[Any, "_ _ 3"]]], list[FoundInstances]]
"""RGB images to what is seen in each, masks in its own pixels."""


class LabelsKind(Kind[LabelsJobSpec]):
    """What an image teacher sees in every image of a split of the detection data."""

    def check(self, jobs: Sequence[tuple[LabelsJobSpec, Path | None]], root: NuScenesRoot) -> None:
        """Labels that were made elsewhere fit the images; a model of transformers is at hand."""
        for spec, source in jobs:
            if source is not None:
                check_labels(root, spec.split, source)
            if spec.model is not None:
                check_pretrained(spec.model)

    def order(self, spec: LabelsJobSpec, source: Path | None, plan: Plan, folders: Folders) -> dict[str, Any]:
        """The segmenter with its weights, or a folder of labels."""
        if spec.segmenter is None:
            return {"source": source}
        weights = folders(spec.segmenter).model.resolve()
        return {"teacher_spec": plan.jobs[spec.segmenter].spec, "teacher_weights": weights, "source": source}

    def run(
        self, order: JobOrder, spec: LabelsJobSpec, machine: Machine, folder: RunFolder, stop: Callable[[], bool]
    ) -> Outcome:
        """Take labels over, or let a teacher look at every image."""
        scored, root = Timer(), NuScenesRoot(order.root, order.version)
        if order.source is not None:
            return Outcome(copy_labels(spec, root, order.source, folder), 0, scored)
        if spec.model is not None:
            labeller: Labeller = PretrainedLabeller(spec.model, machine.device)
        else:
            assert isinstance(order.teacher_spec, SegmenterJobSpec)
            assert order.teacher_weights is not None
            labeller = segmenter_labeller(order.teacher_weights, order.teacher_spec.segmenter, machine)
        return Outcome(write_labels(spec, root, labeller, folder, stop), 0, scored)

    def estimate(
        self, spec: LabelsJobSpec, plan: Plan, samples: Samples, step: StepSeconds, together: int = 1
    ) -> float:
        """A forward pass an image; nothing is known of a model that is not here, and files are copied at once."""
        if spec.segmenter is None:
            return 0.0
        segmenter = plan.jobs[spec.segmenter].spec
        assert isinstance(segmenter, SegmenterJobSpec)
        images = CAMERAS * samples(spec.split)
        return FORWARD_SHARE * step(segmenter.segmenter, LABELLED_TOGETHER) * images / LABELLED_TOGETHER


def write_labels(
    spec: LabelsJobSpec, root: NuScenesRoot, labeller: Labeller, folder: RunFolder, stop: Callable[[], bool]
) -> dict[str, float]:
    """What a labeller sees in every image of the split, written into the folder; counts of images and instances.

    Raises:
        Interrupted: `stop` said so; whole files of labels are kept for the next attempt.
    """
    rows, last_line = list(label_rows(root, spec.split)), time.monotonic()
    for start in range(0, len(rows), IMAGES_A_FILE):
        file = folder.labels / f"labels-{start:06d}.json"
        if file.is_file():  # by an earlier attempt
            continue
        writer, of_file = LabelsWriter(), rows[start : start + IMAGES_A_FILE]
        for first in range(0, len(of_file), LABELLED_TOGETHER):
            chosen = of_file[first : first + LABELLED_TOGETHER]
            for row, instances in zip(chosen, labeller([_image(root, row) for row in chosen]), strict=True):
                writer.add(row["filename"], instances)
            done = start + first + len(chosen)
            if first + len(chosen) == len(of_file):
                writer.write(file)
            if stop() and done < len(rows):
                raise Interrupted(f"stopped after {done} of {len(rows)} images")
            if time.monotonic() - last_line > LINE_EVERY_SECONDS:
                last_line = time.monotonic()
                print(f"{done} of {len(rows)} images labelled", flush=True)
    return _counts(PseudoLabels(folder.labels))


def copy_labels(spec: LabelsJobSpec, root: NuScenesRoot, given: Path, folder: RunFolder) -> dict[str, float]:
    """Labels that were made elsewhere, checked against the root, taken over as they are."""
    if folder.labels.exists():  # of an earlier attempt
        shutil.rmtree(folder.labels)
    folder.labels.mkdir(parents=True)
    for file in label_files(given):
        atomic_write(folder.labels / file.name, file.read_bytes())
    # What was copied, not what lies there by now.
    if labels_hash(folder.labels) != spec.given:
        raise InputError(f"the labels in {given} changed after the study was planned; repeat the command")
    return _counts(check_labels(root, spec.split, folder.labels))


def _counts(labels: PseudoLabels) -> dict[str, float]:
    instances = sum(len(image.instances) for image in labels.images.values())
    return {"images": float(len(labels.images)), "instances": float(instances)}


def check_labels(root: NuScenesRoot, split: str, given: Path) -> PseudoLabels:
    """The labels in a folder; raises InputError where they do not fit the images of a split."""
    labels = PseudoLabels(given)
    labels.check(label_rows(root, split), root.index.column("sample_data", "filename"))
    return labels


def label_rows(root: NuScenesRoot, split: str) -> Iterator[Mapping[str, Any]]:
    """sample_data rows of every image of a split."""
    for token in root.tokens(split):
        yield from root.images(token, keyframes=1)


def segmenter_labeller(weights: Path, spec: SegmenterSpec, machine: Machine) -> Labeller:
    """A segmenter of ours that looks at whole images."""
    segmenter = load_model(weights, spec).to(machine.device).eval()

    @torch.no_grad()
    def look(images: Sequence[UInt8[Any, "_ _ 3"]]) -> list[FoundInstances]:
        batch = torch.stack([resize_whole(image, spec.image_size) for image in images])
        with machine.autocast():
            maps = segmenter(batch.to(machine.device))
        return [_resized(seen, image.shape[:2]) for seen, image in zip(segmenter.decode(maps), images, strict=True)]

    return look


def _resized(instances: FoundInstances, size: tuple[int, int]) -> FoundInstances:
    masks = F.interpolate(instances.mask[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0] > 0.5
    return replace(instances, mask=masks.cpu(), label=instances.label.cpu(), score=instances.score.cpu())


def _image(root: NuScenesRoot, row: Mapping[str, Any]) -> UInt8[Any, "h w 3"]:
    path = root.path / row["filename"]
    image = read_image(path)
    check_image_size(path, image, row)
    return image
