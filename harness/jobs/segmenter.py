"""Jobs of image teachers that are trained here: a segmenter on its own images, scored by mask AP."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange

from detectors.segmenter import Segmenter
from harness.data.nuimages import ImageSet, NuImagesRoot, annotated_bytes
from harness.data.root import NuScenesRoot
from harness.diagnose.machine import Machine
from harness.evaluate.mask_ap import Found, Truth, mask_ap
from harness.jobs.kind import (
    Folders,
    JobOrder,
    Kind,
    Outcome,
    Samples,
    StepSeconds,
    Timer,
    count_parameters,
    step_seconds,
)
from harness.runs.folder import RunFolder
from harness.study.jobs import SegmenterJobSpec
from harness.study.plan import Plan
from harness.train.checkpoint import save_model
from harness.train.segmentation import SegmentationObjective
from harness.train.streams import seeded
from harness.train.trainer import Interrupted, Training, fit

SCORED_TOGETHER = 8
"""Images."""


class SegmenterKind(Kind[SegmenterJobSpec]):
    """An image teacher, trained and scored."""

    def check(self, jobs: Sequence[tuple[SegmenterJobSpec, Path | None]], root: NuScenesRoot) -> None:
        """Every image of its splits."""
        for spec, source in jobs:
            for split in (spec.data.train_split, spec.data.eval_split):
                _images(source).check_files(split)

    def batch_bytes(self, spec: SegmenterJobSpec, source: Path | None, plan: Plan, root: NuScenesRoot) -> int:
        """Of its training."""
        images = ImageSet(
            _images(source).images(spec.data.train_split), spec.segmenter.image_size, spec.schedule.augment
        )
        return spec.schedule.loaded_together * annotated_bytes(images.cache[0])

    def order(self, spec: SegmenterJobSpec, source: Path | None, plan: Plan, folders: Folders) -> dict[str, Any]:
        """Where its images lie."""
        return {"source": source}

    def run(
        self, order: JobOrder, spec: SegmenterJobSpec, machine: Machine, folder: RunFolder, stop: Callable[[], bool]
    ) -> Outcome:
        """Train and score."""
        root = _images(order.source)
        training = _fit(spec, root, machine, folder, stop, order.loader_workers)
        segmenter = _trained(training, folder)
        scored = Timer()
        metrics = score_segmenter(segmenter, root, spec.data.eval_split, machine, stop)
        parameters = count_parameters(segmenter)
        return Outcome(metrics, parameters, scored, warnings=training.warnings, trained=training.facts)

    def train_along(
        self, order: JobOrder, spec: SegmenterJobSpec, machine: Machine, folder: RunFolder, stop: Callable[[], bool]
    ) -> None:
        """The training alone."""
        _fit(spec, _images(order.source), machine, folder, stop, order.loader_workers)

    def estimate(
        self, spec: SegmenterJobSpec, plan: Plan, samples: Samples, step: StepSeconds, together: int = 1
    ) -> float:
        """Its steps; scoring takes little beside them."""
        return spec.schedule.length * step_seconds(step, spec.segmenter, spec.schedule)


def _images(source: Path | None) -> NuImagesRoot:
    assert source is not None, "an image teacher is trained on a dataset of its own"
    return NuImagesRoot(source)


def _fit(
    spec: SegmenterJobSpec,
    root: NuImagesRoot,
    machine: Machine,
    folder: RunFolder,
    stop: Callable[[], bool],
    loader_workers: int,
) -> Training:
    """A training that has come to its end."""
    with seeded(spec.seed, "weights"):
        segmenter = spec.segmenter.build()
    images = ImageSet(root.images(spec.data.train_split), spec.segmenter.image_size, spec.schedule.augment)
    training = Training(machine, SegmentationObjective(segmenter), spec.schedule, spec.seed, folder)
    fit(machine, [training], images, spec.schedule, spec.seed, stop, loader_workers)
    return training


def _trained(training: Training, folder: RunFolder) -> Segmenter:
    """The segmenter that a training comes to, saved."""
    scored = training.scored()
    assert isinstance(scored, Segmenter)
    save_model(folder.model, scored)
    return scored


@torch.no_grad()
def score_segmenter(
    segmenter: Segmenter, root: NuImagesRoot, split: str, machine: Machine, stop: Callable[[], bool]
) -> dict[str, float]:
    """Mask AP on a split, in pixels of the segmenter's input."""
    segmenter.to(machine.device).eval()
    images = ImageSet(root.images(split), segmenter.spec.image_size)
    images.cache.limit = 0  # each is seen once

    def pairs() -> Iterator[tuple[Truth, Found]]:
        for batch in images.plain_batches(SCORED_TOGETHER):
            with machine.autocast():
                maps = segmenter(batch.images.to(machine.device))
            each = zip(batch.instances.owner, batch.instances.label, segmenter.decode(maps), strict=True)
            for owner, label, seen in each:
                number = (label >= 0).nonzero()[:, 0]
                masks = owner == rearrange(number + 1, "k -> k 1 1")
                detected = (seen.mask.cpu().numpy(), seen.label.cpu().numpy(), seen.score.cpu().numpy())
                yield (masks.numpy(), label[number].numpy()), detected
            if stop():
                raise Interrupted(f"stopped while scoring on {split}")

    return mask_ap(pairs())
