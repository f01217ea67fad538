"""Jobs of detectors: build, train with or without a teacher, predict, score, examine."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch

from detectors.batch import Inputs
from detectors.detector import Detector
from detectors.geometry.boxes import Boxes
from distill.control_teachers import Mirrored, Oracle
from distill.loss import DetectorLossSpec, ImageLossSpec, LossSpec, Reading
from distill.objective import FrozenTeacher, Objective, Teacher, fingerprint, loss_spec
from distill.reading import readings_of
from distill.warm_start import begin_as, inherit
from harness.data.balance import class_balance
from harness.data.loader import SampleSet, evaluation_batches, sample_bytes
from harness.data.objects import Objects
from harness.data.pseudo_labels import PseudoLabels
from harness.data.root import NuScenesRoot
from harness.diagnose.machine import Machine
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
    step_seconds,
)
from harness.runs.folder import RunFolder
from harness.study.jobs import DetectorJobSpec, SegmenterJobSpec, spec_hash
from harness.study.maps_folder import check_maps
from harness.study.plan import Plan
from harness.study.schedule import ScheduleSpec
from harness.train.checkpoint import check_checkpoint, load_model, save_model
from harness.train.image_weights import fill_image_backbone
from harness.train.map_teacher import MapTeacher
from harness.train.streams import seeded
from harness.train.teacher_cache import CachedTeacher
from harness.train.trainer import Interrupted, Training, batch_name, fit

FIRST_BATCHES = 8
"""How many a result remembers, to tell whether two trainings saw the same."""
SCORED_TOGETHER = 8
"""Samples, at most."""


class DetectorKind(Kind[DetectorJobSpec]):
    """A detector, trained or given, and scored."""

    def check_given(self, spec: DetectorJobSpec, source: Path | None) -> None:
        """The weights, or the maps of a teacher as far as their first file tells."""
        if source is not None and spec.maps is None:
            check_checkpoint(source, spec.detector)

    def check(self, jobs: Sequence[tuple[DetectorJobSpec, Path | None]], root: NuScenesRoot) -> None:
        """Every file of the splits."""
        specs = [spec for spec, _ in jobs]
        scored = {spec.data.eval_split for spec in specs}
        # The whole split, of which some may take a share.
        trained_on = {spec.data.train_split for spec in specs if spec.schedule is not None}
        for split in sorted(scored | trained_on):
            tokens = root.tokens(split)
            asked = {spec.detector.inputs for spec in specs}
            asked |= {
                spec.detector.training_inputs for spec in specs if spec.schedule and spec.data.train_split == split
            }
            for inputs in asked:
                root.check_files(tokens, inputs)
            root.check_annotations(split, tokens)
        taught_by_maps = {
            (source, spec.maps, spec.data.train_split, spec.data.train_share) for spec, source in jobs if spec.maps
        }
        for folder, maps, split, share in sorted(taught_by_maps, key=str):
            assert folder is not None
            assert maps is not None
            check_maps(folder, maps.spec, root.tokens(split, share))

    def batch_bytes(self, spec: DetectorJobSpec, source: Path | None, plan: Plan, root: NuScenesRoot) -> int:
        """Of its training or its scoring."""
        samples = SampleSet(root, root.tokens(spec.data.eval_split), spec.detector.inputs)
        scoring = min(SCORED_TOGETHER, len(samples)) * sample_bytes(samples.plain(0))
        if spec.schedule is None:
            return scoring
        inputs = spec.detector.training_inputs
        if spec.teacher and spec.losses:
            inputs = _shared(inputs, plan.detector_spec(spec.teacher).detector.inputs, spec)
        samples = SampleSet(root, root.tokens(spec.data.train_split), inputs, spec.schedule.augment)
        return max(scoring, spec.schedule.loaded_together * sample_bytes(samples.drawn(0, seed=0)))

    def order(self, spec: DetectorJobSpec, source: Path | None, plan: Plan, folders: Folders) -> dict[str, Any]:
        """The teacher with its weights or maps, weights that are given or another job's, and labels of images."""
        weights = None if spec.maps else source
        return {
            "teacher_spec": plan.jobs[spec.teacher].spec if spec.teacher else None,
            "teacher_weights": folders(spec.teacher).model.resolve() if spec.teacher else None,
            "given_weights": folders(spec.model_of).model.resolve() if spec.model_of else weights,
            "source": source if spec.maps else None,
            "labels": folders(spec.labels).labels.resolve() if spec.labels else None,
            "image_backbone_spec": plan.jobs[spec.image_backbone].spec if spec.image_backbone else None,
            "image_backbone_weights": folders(spec.image_backbone).model.resolve() if spec.image_backbone else None,
        }

    def run(
        self, order: JobOrder, spec: DetectorJobSpec, machine: Machine, folder: RunFolder, stop: Callable[[], bool]
    ) -> Outcome:
        """Train, score, and leave the diagnosis for when the result is written."""
        # The devkit's evaluation takes a second to import, which who plans a study need not wait.
        from harness.diagnose.examine import examine
        from harness.evaluate.detection import score
        from harness.evaluate.submission import write_submission

        root = NuScenesRoot(order.root, order.version)
        began: dict[str, str] = {}
        warnings: dict[str, str] = {}
        weights: dict[str, float] = {}
        trained: dict[str, str] = {}
        if order.given_weights is not None:
            student = load_model(order.given_weights, spec.detector)
        elif spec.schedule is None:
            student = initial_detector(order, spec)
        else:
            student, began, warnings, weights, trained = _train(order, spec, root, machine, folder, stop)
        save_model(folder.model, student)

        scored = Timer()
        samples = SampleSet(root, root.tokens(spec.data.eval_split), spec.detector.inputs.read_for(machine.device))
        predictions = predict(student, samples, machine, order.loader_workers)
        inputs = spec.detector.inputs
        content = write_submission(folder.predictions, root, predictions, inputs.sensors, inputs.bev_frame)
        metrics = score(root, spec.data.eval_split, content, spec.data.detection_config, folder)
        diagnose = partial(examine, folder, spec, root, student, machine)
        return Outcome(metrics, count_parameters(student), scored, warnings, began, weights, trained, diagnose)

    def train_along(
        self, order: JobOrder, spec: DetectorJobSpec, machine: Machine, folder: RunFolder, stop: Callable[[], bool]
    ) -> None:
        """The training alone."""
        if order.given_weights is None and spec.schedule is not None:
            _fit(order, spec, NuScenesRoot(order.root, order.version), machine, folder, stop)

    def lockstep_key(self, spec: DetectorJobSpec) -> str | None:
        """All but losses, their ramps and warm start: student, seed, data, schedule, teacher and pseudo labels."""
        if spec.schedule is None or (spec.teacher is None and spec.maps is None):
            return None
        schedule = spec.schedule.without_distillation()
        common = {"losses": {}, "warm_start": False, "schedule": schedule}
        # What is read of labels and teacher depends on the losses.
        reads = {"least_score": _least_score(_losses(spec)) if spec.labels else None}
        if schedule.teacher_cache:
            reads["cached"] = _readings([spec]) is not None
        return spec_hash({**spec.model_copy(update=common).model_dump(mode="json"), **reads})

    def train_together(
        self,
        jobs: Sequence[tuple[JobOrder, DetectorJobSpec, RunFolder]],
        machine: Machine,
        stop: Callable[[], bool],
        dropped: Callable[[RunFolder], bool],
    ) -> None:
        """Load each batch once and ask the teacher once, for all students."""
        root = NuScenesRoot(jobs[0][0].root, jobs[0][0].version)
        begun: list[_Begun] = []
        readings = _readings([spec for _, spec, _ in jobs])
        for order, spec, _ in jobs:
            teacher = next((one.objective.teacher for one in begun if one.objective.teacher is not None), None)
            begun.append(_begin(order, spec, root, machine, readings, teacher))
        trainings = [
            Training(machine, one.objective, one.schedule, spec.seed, folder)
            for one, (_, spec, folder) in zip(begun, jobs, strict=True)
        ]
        _fill(begun[0], [one.objective.teacher for one in begun], stop, jobs[0][0].loader_workers)
        # One that asks its teacher for nothing reads less than the others.
        samples = replace(begun[0].samples, inputs=reduce(Inputs.joined, (one.samples.inputs for one in begun)))
        seed, loader_workers = jobs[0][1].seed, jobs[0][0].loader_workers
        fit(machine, trainings, samples, begun[0].schedule, seed, stop, loader_workers, dropped)

    def estimate(
        self, spec: DetectorJobSpec, plan: Plan, samples: Samples, step: StepSeconds, together: int = 1
    ) -> float:
        """Its steps, the teacher's forward passes, and the samples that are scored."""
        to_score = samples(spec.data.eval_split)
        if spec.schedule is None:
            return FORWARD_SHARE * step(spec.detector, SCORED_TOGETHER) * to_score / SCORED_TOGETHER
        one = step_seconds(step, spec.detector, spec.schedule)
        scored = FORWARD_SHARE * one * to_score / spec.schedule.global_batch
        if spec.losses and spec.teacher:
            teacher = plan.detector_spec(spec.teacher).detector
            one += FORWARD_SHARE * step_seconds(step, teacher, spec.schedule) / together
        return spec.schedule.length * one + scored


def _losses(spec: DetectorJobSpec) -> dict[str, LossSpec]:
    return {name: loss_spec(name, fields) for name, fields in spec.losses.items()}


def initial_detector(order: JobOrder, spec: DetectorJobSpec) -> Detector:
    """The detector as its seed and `init` make it: equal for all jobs of one detector and seed."""
    with seeded(spec.seed, "weights"):
        detector = spec.detector.build()
    if order.image_backbone_weights is not None:
        assert isinstance(order.image_backbone_spec, SegmenterJobSpec)
        segmenter = load_model(order.image_backbone_weights, order.image_backbone_spec.segmenter)
        begin_as(detector, segmenter)
    if order.image_weights is not None:
        fill_image_backbone(detector, order.image_weights)
    return detector


@dataclass(frozen=True)
class _Begun:
    """A training before its first step."""

    objective: Objective
    schedule: ScheduleSpec
    samples: SampleSet
    weights: str
    """Hash of the student's initial weights, without those of a warm start."""


def _begin(
    order: JobOrder,
    spec: DetectorJobSpec,
    root: NuScenesRoot,
    machine: Machine,
    readings: Sequence[Reading] | None,
    teacher: Teacher | None = None,
) -> _Begun:
    """What a training needs.

    Args:
        order: What is asked.
        spec: Its spec.
        root: Of the samples.
        machine: Where it runs.
        readings: What is read of the teacher, for its cache; None if it is looked at as a whole.
        teacher: The one that the order names, where it is at hand.
    """
    assert spec.schedule is not None
    student = initial_detector(order, spec)
    weights = fingerprint(student)
    losses = _losses(spec)
    inputs = spec.detector.training_inputs
    tokens = root.tokens(spec.data.train_split, spec.data.train_share)
    asked: Teacher | None = None
    if spec.oracle:
        asked = Oracle(spec.detector)
    if spec.maps is not None and losses:
        assert order.source is not None, "a folder of maps comes with its place"
        asked = teacher or MapTeacher(order.source, spec.maps.spec, spec.detector, spec.maps.content)
    if isinstance(order.teacher_spec, DetectorJobSpec) and order.teacher_weights is not None:
        there = teacher.detector if isinstance(teacher, FrozenTeacher) else None
        detector = there or load_model(order.teacher_weights, order.teacher_spec.detector)
        onto = spec.detector if spec.resample_teacher else None
        if spec.warm_start:
            inherit(student, detector)
        if any(isinstance(loss, DetectorLossSpec) for loss in losses.values()):
            joined = _shared(inputs, detector.spec.inputs, spec)
            cache = spec.schedule.teacher_cache
            # What is kept of a teacher is what losses read of maps that are not mirrored.
            if cache is not None and readings is not None and not spec.mirrored:
                # The student's batches have its own sensors alone.
                run = order.teacher_weights.parent
                read = _seen(inputs, detector.spec.inputs, spec).read_for(machine.device)
                samples = SampleSet(root, tokens, read, spec.schedule.augment)
                asked = teacher or CachedTeacher(detector, readings, run, samples, cache.variants, machine, onto)
            else:
                inputs = joined
                asked = teacher or (Mirrored if spec.mirrored else FrozenTeacher)(detector, onto)
    with seeded(spec.seed, "training_only"):
        objective = Objective(student, asked, losses)
    labels = None if order.labels is None else PseudoLabels(order.labels, _least_score(losses))
    balance = class_balance(root, tokens) if spec.schedule.class_balanced else None
    objects = Objects(root, tokens, inputs) if spec.schedule.augment.paste else None
    read = inputs.read_for(machine.device)
    samples = SampleSet(root, tokens, read, spec.schedule.augment, labels, balance, objects)
    return _Begun(objective, spec.schedule, samples, weights)


def _seen(student: Inputs, teacher: Inputs, spec: DetectorJobSpec) -> Inputs:
    """What the teacher of a job reads of a sample: of the student's frame where its maps are resampled to that."""
    return teacher.carried_by(student) if spec.resample_teacher else teacher


def _shared(student: Inputs, teacher: Inputs, spec: DetectorJobSpec) -> Inputs:
    """What the batches of both carry; raises InputError where they cannot share any."""
    try:
        return student.joined(_seen(student, teacher, spec))
    except ValueError as error:
        raise InputError(f"teacher and student cannot share a batch: {error}") from error


def _fill(begun: _Begun, teachers: Sequence[Teacher | None], stop: Callable[[], bool], loader_workers: int) -> None:
    """Make what a training will ask for: objects to paste, and what a teacher with a cache sees."""
    if begun.samples.objects is not None and not begun.samples.objects.make(stop, loader_workers):
        raise Interrupted("stopped while objects to paste were read")
    teacher = next((each for each in teachers if isinstance(each, CachedTeacher)), None)
    if teacher is not None:
        drawn = begun.schedule.length * begun.schedule.global_batch
        teacher.fill(math.ceil(drawn / len(begun.samples)), stop)


def _readings(specs: Sequence[DetectorJobSpec]) -> tuple[Reading, ...] | None:
    """What the losses of some jobs read of their teacher; None where one reads whole maps."""
    losses = [loss for spec in specs for loss in _losses(spec).values()]
    return readings_of(loss.reads for loss in losses if isinstance(loss, DetectorLossSpec))


def _least_score(losses: Mapping[str, LossSpec]) -> float:
    """The score from which on a label of images matters: most of what a teacher sees it is not sure of."""
    return min(loss.least_score for loss in losses.values() if isinstance(loss, ImageLossSpec))


def _train(
    order: JobOrder,
    spec: DetectorJobSpec,
    root: NuScenesRoot,
    machine: Machine,
    folder: RunFolder,
    stop: Callable[[], bool],
) -> tuple[Detector, dict[str, str], dict[str, str], dict[str, float], dict[str, str]]:
    """The trained detector, what it began with, what is doubtful, weights that set themselves, and how (`Result`)."""
    begun, training = _fit(order, spec, root, machine, folder, stop)
    losses = _losses(spec)
    _require_logged(folder, [*spec.detector.loss_weights, *losses])
    tokens = begun.samples.tokens
    batches = _batches(folder, tokens, begun.schedule.global_batch)
    began = {"weights": begun.weights, "batches": batches}
    warnings = training.warnings | _warnings(folder, losses, math.ceil(len(tokens) / begun.schedule.global_batch))
    scored = training.scored()
    assert isinstance(scored, Detector)
    return scored, began, warnings, training.set_weights(), training.facts


def _fit(
    order: JobOrder,
    spec: DetectorJobSpec,
    root: NuScenesRoot,
    machine: Machine,
    folder: RunFolder,
    stop: Callable[[], bool],
) -> tuple[_Begun, Training]:
    """A training that has come to its end."""
    begun = _begin(order, spec, root, machine, _readings([spec]))
    training = Training(machine, begun.objective, begun.schedule, spec.seed, folder)
    if training.next < begun.schedule.length:
        _fill(begun, [begun.objective.teacher], stop, order.loader_workers)
    fit(machine, [training], begun.samples, begun.schedule, spec.seed, stop, order.loader_workers)
    return begun, training


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


def _require_logged(folder: RunFolder, names: Sequence[str]) -> None:
    """Raise where the log lacks a term of the objective: a loss that nobody can look at is a loss gone wrong unseen."""
    wanted = {f"{kind}/{name}" for kind in ("raw", "weighted", "share") for name in names}
    if missing := wanted - (folder.last_step() or {}).keys():
        raise RuntimeError(f"the log of the training lacks {', '.join(sorted(missing))}")


@torch.no_grad()
def predict(detector: Detector, samples: SampleSet, machine: Machine, loader_workers: int) -> dict[str, Boxes]:
    """The boxes found in each sample, by its token; the detector is taken to the machine and into eval mode."""
    detector.to(machine.device).eval()
    predictions: dict[str, Boxes] = {}
    done, size = 0, SCORED_TOGETHER
    while done < len(samples):
        try:
            for batch in evaluation_batches(samples, size, loader_workers, begin=done):
                with machine.autocast():
                    output = detector(batch.to(machine.device))
                for token, boxes in zip(batch.tokens, detector.decode(output), strict=True):
                    predictions[token] = boxes.to("cpu")
                done += len(batch)
        except torch.OutOfMemoryError:
            # As in a training, half as many fit, or half of these.
            if size == 1:
                raise
            size //= 2
            torch.cuda.empty_cache()
    return predictions
