"""One DAG node from spec to result: build, train, evaluate, write. `python -m harness.train.job RUN_FOLDER`."""

import math
import os
import platform
import resource
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from lightning.fabric import Fabric

from detectors.detector import Detector
from detectors.spec import Spec
from distill.loss import DetectorLossSpec, ImageLossSpec, LossSpec
from distill.objective import DETECTION_TERMS, Objective, fingerprint, loss_spec
from distill.warm_start import inherit
from harness.data.loader import SampleSet, evaluation_batches
from harness.data.nuimages import NuImagesRoot
from harness.data.pseudo_labels import PseudoLabels
from harness.data.root import NuScenesRoot
from harness.diagnose.examine import examine
from harness.diagnose.machine import Machine
from harness.errors import InputError
from harness.evaluate.detection import score
from harness.evaluate.submission import write_submission
from harness.runs.folder import Busy, Result, RunFolder
from harness.study.jobs import DetectorJobSpec, Job, LabelsJobSpec, SegmenterJobSpec
from harness.train.checkpoint import check_checkpoint, load_model, save_model
from harness.train.image_teacher import (
    Labeller,
    check_labels,
    copy_labels,
    score_segmenter,
    segmenter_labeller,
    train_segmenter,
    write_labels,
)
from harness.train.pretrained import PretrainedLabeller, check_pretrained
from harness.train.streams import seeded
from harness.train.trainer import Interrupted, batch_name, fit

DONE, FAILED, STOPPED, BUSY = 0, 1, 3, 4
"""Exit statuses; the reason of a failure is in the run folder."""

FIRST_BATCHES = 8
"""How many a result remembers, to tell whether two trainings saw the same."""


class JobOrder(Spec):
    """A job and everything about where and on what it runs, which does not decide its result."""

    spec: DetectorJobSpec | SegmenterJobSpec | LabelsJobSpec
    label: str
    root: Path
    version: str
    teacher_spec: DetectorJobSpec | SegmenterJobSpec | None
    """Of the detector that teaches, or of the segmenter whose labels are wanted."""
    teacher_weights: Path | None
    given_weights: Path | None
    source: Path | None = None
    """The root of an image teacher's dataset, or a folder of labels that were made elsewhere."""
    labels: Path | None = None
    """Folder of the image teacher's labels that the student learns from."""
    device: str
    threads: int
    loader_workers: int


class Timer:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self._began, self._cpu_began = time.monotonic(), time.process_time()

    @property
    def seconds(self) -> float:
        """Of wall time."""
        return time.monotonic() - self._began

    @property
    def cpu_seconds(self) -> float:
        """Of this process, all its threads together."""
        return time.process_time() - self._cpu_began


@dataclass(frozen=True)
class Outcome:
    """What a job comes to, whatever kind it is; fields as in `Result`."""

    metrics: dict[str, float]
    parameters: int
    scored: Timer
    """From the end of the training on."""
    warnings: dict[str, str] = field(default_factory=dict)
    began: dict[str, str] = field(default_factory=dict)
    diagnose: Callable[[], None] = lambda: None
    """What is left to do that is no part of the result."""


def run(order: JobOrder, folder: RunFolder, stop: Callable[[], bool]) -> Result:
    """Train and score, or go on where an earlier attempt stopped."""
    commit = _commit()
    fabric = open_device(order.device, order.spec, order.threads)
    match order.spec:
        case DetectorJobSpec() as spec:
            outcome = _run_detector(order, spec, fabric, folder, stop)
        case SegmenterJobSpec() as spec:
            outcome = _run_segmenter(order, spec, fabric, folder, stop)
        case LabelsJobSpec() as spec:
            outcome = _run_labels(order, spec, fabric, folder, stop)
    steps = folder.steps()
    result = Result(
        metrics=outcome.metrics,
        parameters=outcome.parameters,
        seconds=sum(line["seconds"] for line in steps) + outcome.scored.seconds,
        machine=_machine(fabric, order) | {"commit": commit},
        cpu_seconds=sum(line["cpu_seconds"] for line in steps) + outcome.scored.cpu_seconds,
        warnings=outcome.warnings,
        began=outcome.began,
    )
    # After the clock has stopped: no result says that it took longer since it is looked into.
    outcome.diagnose()
    return result


def _run_detector(
    order: JobOrder, spec: DetectorJobSpec, fabric: Fabric, folder: RunFolder, stop: Callable[[], bool]
) -> Outcome:
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
    return Outcome(metrics, _parameters(student), scored, warnings, began, diagnose)


def _run_segmenter(
    order: JobOrder, spec: SegmenterJobSpec, fabric: Fabric, folder: RunFolder, stop: Callable[[], bool]
) -> Outcome:
    assert order.source is not None, "an image teacher is trained on a dataset of its own"
    root = NuImagesRoot(order.source)
    segmenter = train_segmenter(spec, root, fabric, folder, stop, order.loader_workers)
    scored = Timer()
    metrics = score_segmenter(segmenter, root, spec.data.eval_split, fabric, stop)
    return Outcome(metrics, _parameters(segmenter), scored)


def _run_labels(
    order: JobOrder, spec: LabelsJobSpec, fabric: Fabric, folder: RunFolder, stop: Callable[[], bool]
) -> Outcome:
    scored, root = Timer(), NuScenesRoot(order.root, order.version)
    if order.source is not None:
        return Outcome(copy_labels(spec, root, order.source, folder), 0, scored)
    if spec.model is not None:
        labeller: Labeller = PretrainedLabeller(spec.model, fabric.device)
    else:
        assert isinstance(order.teacher_spec, SegmenterJobSpec)
        assert order.teacher_weights is not None
        labeller = segmenter_labeller(order.teacher_weights, order.teacher_spec.segmenter, fabric)
    return Outcome(write_labels(spec, root, labeller, folder, stop), 0, scored)


def _parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def check_inputs(jobs: list[Job], root: NuScenesRoot) -> None:
    """Raise InputError, before anything is trained, for a file that one of these jobs would miss."""
    # A view of its own: a large root's tables are not kept in memory while others train.
    root = NuScenesRoot(root.path, root.version)
    detecting: list[DetectorJobSpec] = []
    for job in jobs:
        match job.spec:
            case DetectorJobSpec() as spec:
                detecting.append(spec)
                if job.source is not None:
                    check_checkpoint(job.source, spec.detector)
            case SegmenterJobSpec() as spec:
                assert job.source is not None
                for split in (spec.data.train_split, spec.data.eval_split):
                    NuImagesRoot(job.source).check_files(split)
            case LabelsJobSpec(split=split, model=model):
                if job.source is not None:
                    check_labels(root, split, job.source)
                if model is not None:
                    check_pretrained(model)
    scored = {spec.data.eval_split for spec in detecting}
    trained_on = {spec.data.train_split for spec in detecting if spec.schedule is not None}
    for split in sorted(scored | trained_on):
        tokens = root.tokens(split)
        for inputs in {spec.detector.inputs for spec in detecting}:
            root.check_files(tokens, inputs)
        root.check_annotations(split, tokens)


def _initial(spec: DetectorJobSpec) -> Detector:
    """The detector as its seed makes it: equal for all jobs of one detector and seed."""
    with seeded(spec.seed, "weights"):
        return spec.detector.build()


def _train(
    order: JobOrder,
    spec: DetectorJobSpec,
    root: NuScenesRoot,
    fabric: Fabric,
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
    found = {name: spec.warning([line[f"raw/{name}"] for line in last]) for name, spec in losses.items()}
    for name, text in found.items():
        if text:
            print(f"warning: loss {name!r}: {text}")
    return {name: text for name, text in found.items() if text}


def _batches(folder: RunFolder, tokens: list[str], batch_size: int) -> str:
    """Of the first batches that the training saw, as its log names them; they have to be shuffled ones."""
    seen = [int(line["batch"]) for line in folder.steps()[:FIRST_BATCHES]]
    unshuffled = [batch_name(tokens[first : first + batch_size]) for first in range(0, len(tokens), batch_size)]
    # By chance, one shuffle of eight samples in forty thousand is no shuffle; of fewer it would be too many.
    whole = min(len(seen), len(tokens) // batch_size)
    if whole * batch_size >= 8 and seen[:whole] == unshuffled[:whole]:
        raise RuntimeError("the training samples come in the order of their split: nothing shuffles them")
    return " ".join(f"{name:08x}" for name in seen)


def _require_logged(folder: RunFolder, losses: Mapping[str, object]) -> None:
    """Raise where the log lacks a term of the objective: a loss that nobody can look at is a loss gone wrong unseen."""
    names = (*DETECTION_TERMS, *losses)
    wanted = {f"{kind}/{name}" for kind in ("raw", "weighted", "share") for name in names}
    if missing := wanted - (folder.last_step() or {}).keys():
        raise RuntimeError(f"the log of the training lacks {', '.join(sorted(missing))}")


@torch.no_grad()
def _predict(detector: Detector, samples: SampleSet, fabric: Fabric, loader_workers: int) -> dict:
    detector.to(fabric.device).eval()
    predictions = {}
    for batch in evaluation_batches(samples, batch_size=8, workers=loader_workers):
        with fabric.autocast():
            output = detector(batch.to(fabric.device))
        for token, boxes in zip(batch.tokens, detector.decode(output), strict=True):
            predictions[token] = boxes.to("cpu")
    return predictions


def open_device(device: str, spec: DetectorJobSpec | SegmenterJobSpec | LabelsJobSpec, threads: int) -> Fabric:
    """A device, in the precision that a job is trained and scored in."""
    torch.set_num_threads(threads)
    schedule = None if isinstance(spec, LabelsJobSpec) else spec.schedule
    precision = schedule.precision if schedule else "32-true"
    return Fabric(accelerator=device, devices=1, precision=precision)


def machine(fabric: Fabric, threads: int) -> Machine:
    """The device for who only looks at detectors."""
    return Machine(fabric.device, _device_name(fabric), threads, fabric.autocast)


def _device_name(fabric: Fabric) -> str:
    kind = fabric.device.type
    return f"{kind} ({torch.cuda.get_device_name(fabric.device) if kind == 'cuda' else platform.machine()})"


def _machine(fabric: Fabric, order: JobOrder) -> dict[str, str]:
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "device": _device_name(fabric),
        "torch": torch.__version__,
        "threads": str(order.threads),
        "peak_memory_mb": str(round(peak / 2**20)),
    }


def _commit() -> str:
    """Of the code that ran, with a + where files differ from it; the version where it is no checkout of ours."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return f"version {version('crossbev')}"
    try:
        head, changes = (
            subprocess.run(["git", "-C", str(here), *command], capture_output=True, text=True, check=True).stdout
            for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--", "*.py"])
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({error})"
    return head.strip() + ("+" if changes.strip() else "")


def main(path: Path) -> int:
    """Run the job of a folder. It stops, with its state saved, when standard input is closed: the parent is gone."""
    folder = RunFolder(path)
    gone = threading.Event()

    def wait_for_parent() -> None:
        # Not sys.stdin: a thread that holds its lock would abort the interpreter's shutdown.
        while os.read(0, 1):
            pass
        gone.set()

    threading.Thread(target=wait_for_parent, daemon=True).start()
    try:
        with folder.locked():
            return _attempt(folder, gone.is_set)
    except Busy as busy:
        print(busy)
        return BUSY


def _attempt(folder: RunFolder, stop: Callable[[], bool]) -> int:
    """Run the job of a folder that this process owns, and record how it ended."""
    try:
        if folder.result() is None:
            folder.complete(run(JobOrder.model_validate(folder.job()), folder, stop))
    except Interrupted as pause:
        print(pause)
        return STOPPED
    except InputError as error:
        folder.fail(str(error), wrong_input=True)
        return FAILED
    except Exception as error:
        # The boundary of the process: whatever ended the job is recorded for the table and re-told in the log.
        traceback.print_exc()
        folder.fail(f"{type(error).__name__}: {error}", wrong_input=False)
        return FAILED
    return DONE


if __name__ == "__main__":
    status = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is written; to take torch and the others apart would cost every job seconds.
    os._exit(status)
