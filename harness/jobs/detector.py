"""Jobs of detectors: build, train with or without a teacher, predict, score, examine."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from detectors.detector import Detector
from distill.loss import DetectorLossSpec, ImageLossSpec, LossSpec
from distill.objective import DETECTION_TERMS, Objective, fingerprint, loss_spec
from distill.warm_start import inherit
from harness.data.loader import SampleSet, evaluation_batches
from harness.data.pseudo_labels import PseudoLabels
from harness.data.root import NuScenesRoot
from harness.errors import InputError
from harness.jobs.kind import (
    FORWARD_SHARE,
    Folders,
    JobOrder,
    Kind,
    Outcome,
    Samples,
    StepSeconds,
    Timer,
    count_parameters,
)
from harness.runs.folder import RunFolder
from harness.study.jobs import DetectorJobSpec
from harness.study.plan import Plan
from harness.train.checkpoint import check_checkpoint, load_model, save_model
from harness.train.device import machine
from harness.train.streams import seeded
from harness.train.trainer import batch_name, fit

if TYPE_CHECKING:
    from lightning.fabric import Fabric

FIRST_BATCHES = 8
"""How many a result remembers, to tell whether two trainings saw the same."""
SCORED_TOGETHER = 8
"""Samples."""


class DetectorKind(Kind[DetectorJobSpec]):
    """A detector, trained or given, and scored."""

    def check_given(self, spec: DetectorJobSpec, source: Path | None) -> None:
        """The weights."""
        if source is not None:
            check_checkpoint(source, spec.detector)

    def check(self, jobs: Sequence[tuple[DetectorJobSpec, Path | None]], root: NuScenesRoot) -> None:
        """Every file of the splits."""
        specs = [spec for spec, _ in jobs]
        scored = {spec.data.eval_split for spec in specs}
        trained_on = {spec.data.train_split for spec in specs if spec.schedule is not None}
        for split in sorted(scored | trained_on):
            tokens = root.tokens(split)
            for inputs in {spec.detector.inputs for spec in specs}:
                root.check_files(tokens, inputs)
            root.check_annotations(split, tokens)

    def order(self, spec: DetectorJobSpec, source: Path | None, plan: Plan, folders: Folders) -> dict[str, Any]:
        """The teacher with its weights, weights that are given or another job's, and labels of images."""
        return {
            "teacher_spec": plan.jobs[spec.teacher].spec if spec.teacher else None,
            "teacher_weights": folders(spec.teacher).model.resolve() if spec.teacher else None,
            "given_weights": folders(spec.model_of).model.resolve() if spec.model_of else source,
            "labels": folders(spec.labels).labels.resolve() if spec.labels else None,
        }

    def run(
        self, order: JobOrder, spec: DetectorJobSpec, fabric: "Fabric", folder: RunFolder, stop: Callable[[], bool]
    ) -> Outcome:
        """Train, score, and leave the diagnosis for when the result is written."""
        # The devkit's evaluation takes a second to import, which who plans a study need not wait.
        from harness.diagnose.examine import examine
        from harness.evaluate.detection import score
        from harness.evaluate.submission import write_submission

        root = NuScenesRoot(order.root, order.version)
        began: dict[str, str] = {}
        warnings: dict[str, str] = {}
        if order.given_weights is not None:
            student = load_model(order.given_weights, spec.detector)
        elif spec.schedule is None:
            student = _initial(spec)
        else:
            student, began, warnings = _train(order, spec, root, fabric, folder, stop)
        save_model(folder.model, student)

        scored = Timer()
        samples = SampleSet(root, root.tokens(spec.data.eval_split), spec.detector.inputs)
        predictions = _predict(student, samples, fabric, order.loader_workers)
        content = write_submission(folder.predictions, root, predictions, spec.detector.inputs.sensors)
        metrics = score(root, spec.data.eval_split, content, spec.data.detection_config, folder)
        diagnose = partial(examine, folder, spec, root, student, machine(fabric, order.threads))
        return Outcome(metrics, count_parameters(student), scored, warnings, began, diagnose)

    def estimate(self, spec: DetectorJobSpec, plan: Plan, samples: Samples, step: StepSeconds) -> float:
        """Its steps, the teacher's forward passes, and the samples that are scored."""
        batch_size = spec.schedule.batch_size if spec.schedule else SCORED_TOGETHER
        one = step(spec.detector, batch_size)
        scored = FORWARD_SHARE * one * samples(spec.data.eval_split) / batch_size
        if spec.schedule is None:
            return scored
        if spec.losses and spec.teacher:
            one += FORWARD_SHARE * step(plan.detector_spec(spec.teacher).detector, batch_size)
        return spec.schedule.length * one + scored


def _initial(spec: DetectorJobSpec) -> Detector:
    """The detector as its seed makes it: equal for all jobs of one detector and seed."""
    with seeded(spec.seed, "weights"):
        return spec.detector.build()


def _train(
    order: JobOrder,
    spec: DetectorJobSpec,
    root: NuScenesRoot,
    fabric: "Fabric",
    folder: RunFolder,
    stop: Callable[[], bool],
) -> tuple[Detector, dict[str, str], dict[str, str]]:
    """The trained detector, what it began with, and what is doubtful about its training (`Result`)."""
    assert spec.schedule is not None
    student, teacher = _initial(spec), None
    began = {"weights": fingerprint(student)}
    if isinstance(order.teacher_spec, DetectorJobSpec) and order.teacher_weights is not None:
        teacher = load_model(order.teacher_weights, order.teacher_spec.detector)
        if spec.warm_start:
            inherit(student, teacher)
    losses = {name: loss_spec(name, fields) for name, fields in spec.losses.items()}
    with seeded(spec.seed, "training_only"):
        asked = any(isinstance(loss, DetectorLossSpec) for loss in losses.values())
        objective = Objective(student, teacher if asked else None, losses)

    inputs = spec.detector.inputs
    if objective.teacher is not None and teacher is not None:
        try:
            inputs = inputs.joined(teacher.spec.inputs)
        except ValueError as error:
            raise InputError(f"teacher and student cannot share a batch: {error}") from error
    tokens = root.tokens(spec.data.train_split)
    labels = None
    if order.labels is not None:
        # Most of what a teacher sees it is not sure of; that need not be decoded.
        sure = [loss.least_score for loss in losses.values() if isinstance(loss, ImageLossSpec)]
        labels = PseudoLabels(order.labels, min(sure))
    samples = SampleSet(root, tokens, inputs, spec.schedule.augment, labels)
    fit(fabric, objective, samples, spec.schedule, spec.seed, folder, stop, order.loader_workers)
    _require_logged(folder, losses)
    began["batches"] = _batches(folder, tokens, spec.schedule.batch_size)
    return student, began, _warnings(folder, losses, math.ceil(len(tokens) / spec.schedule.batch_size))


def _warnings(folder: RunFolder, losses: Mapping[str, LossSpec], epoch: int) -> dict[str, str]:
    """What the losses say of their own values over the last epoch, of so many steps; told in the log, too."""
    last = folder.steps()[-epoch:]
    texts = {name: spec.warning([line[f"raw/{name}"] for line in last]) for name, spec in losses.items()}
    for name, text in texts.items():
        if text:
            print(f"warning: loss {name!r}: {text}")
    return {name: text for name, text in texts.items() if text}


def _batches(folder: RunFolder, tokens: list[str], batch_size: int) -> str:
    """The names of the first batches that the training saw, as its log has them; they have to be shuffled ones."""
    seen = [int(line["batch"]) for line in folder.steps()[:FIRST_BATCHES]]
    unshuffled = [batch_name(tokens[first : first + batch_size]) for first in range(0, len(tokens), batch_size)]
    # By chance, one shuffle of eight samples in forty thousand is no shuffle; of fewer it would be too many.
    full = min(len(seen), len(tokens) // batch_size)
    if full * batch_size >= 8 and seen[:full] == unshuffled[:full]:
        raise RuntimeError("the training samples are not shuffled: they have the order of their split")
    return " ".join(f"{name:08x}" for name in seen)


def _require_logged(folder: RunFolder, losses: Mapping[str, object]) -> None:
    """Raise where the log lacks a term of the objective: a loss that nobody can look at is a loss gone wrong unseen."""
    names = (*DETECTION_TERMS, *losses)
    wanted = {f"{kind}/{name}" for kind in ("raw", "weighted", "share") for name in names}
    if missing := wanted - (folder.last_step() or {}).keys():
        raise RuntimeError(f"the log of the training lacks {', '.join(sorted(missing))}")


@torch.no_grad()
def _predict(detector: Detector, samples: SampleSet, fabric: "Fabric", loader_workers: int) -> dict:
    detector.to(fabric.device).eval()
    predictions = {}
    for batch in evaluation_batches(samples, batch_size=SCORED_TOGETHER, workers=loader_workers):
        with fabric.autocast():
            output = detector(batch.to(fabric.device))
        for token, boxes in zip(batch.tokens, detector.decode(output), strict=True):
            predictions[token] = boxes.to("cpu")
    return predictions
