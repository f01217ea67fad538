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
from importlib.metadata import version
from pathlib import Path

import torch
from lightning.fabric import Fabric

from detectors.detector import Detector
from detectors.spec import Spec
from distill.loss import LossSpec
from distill.objective import DETECTION_TERMS, Objective, fingerprint, loss_spec
from distill.warm_start import inherit
from harness.data.loader import SampleSet, evaluation_batches
from harness.data.root import NuScenesRoot
from harness.errors import InputError
from harness.evaluate.detection import score
from harness.evaluate.submission import write_submission
from harness.store import Busy, Result, RunFolder
from harness.study.plan import Job, JobSpec
from harness.train.checkpoint import check_checkpoint, load_detector, save_detector
from harness.train.streams import seeded
from harness.train.trainer import Interrupted, batch_name, fit

DONE, FAILED, STOPPED, BUSY = 0, 1, 3, 4
"""Exit statuses; the reason of a failure is in the run folder."""

FIRST_BATCHES = 8
"""How many a result remembers, to tell whether two trainings saw the same."""


class JobOrder(Spec):
    """A job and everything about where and on what it runs, which does not decide its result."""

    spec: JobSpec
    label: str
    root: Path
    version: str
    teacher_spec: JobSpec | None
    teacher_weights: Path | None
    given_weights: Path | None
    device: str
    threads: int
    loader_workers: int


def run(order: JobOrder, folder: RunFolder, stop: Callable[[], bool]) -> Result:
    """Train and score, or go on where an earlier attempt stopped."""
    spec, commit = order.spec, _commit()
    root = NuScenesRoot(order.root, order.version)
    fabric = _fabric(order)

    began: dict[str, str] = {}
    warnings: dict[str, str] = {}
    if order.given_weights is not None:
        student = load_detector(order.given_weights, spec.detector)
    elif spec.schedule is None:
        student = _initial(spec)
    else:
        student, began, warnings = _train(order, root, fabric, folder, stop)
    save_detector(folder.model, student)

    since, cpu_since = time.monotonic(), time.process_time()
    samples = SampleSet(root, root.tokens(spec.data.eval_split), spec.detector.inputs)
    predictions = _predict(student, samples, fabric, order.loader_workers)
    content = write_submission(folder.path / "predictions.json", root, predictions, spec.detector.inputs.sensors)
    metrics = score(root, spec.data.eval_split, content, spec.data.detection_config, folder)
    steps = folder.steps()
    return Result(
        metrics=metrics,
        parameters=sum(p.numel() for p in student.parameters()),
        seconds=sum(line["seconds"] for line in steps) + time.monotonic() - since,
        machine=_machine(fabric, order) | {"commit": commit},
        cpu_seconds=sum(line["cpu_seconds"] for line in steps) + time.process_time() - cpu_since,
        warnings=warnings,
        began=began,
    )


def check_inputs(jobs: list[Job], root: NuScenesRoot) -> None:
    """Raise InputError, before anything is trained, for a file that one of these jobs would miss."""
    # A view of its own: a large root's tables are not kept in memory while others train.
    root = NuScenesRoot(root.path, root.version)
    for job in jobs:
        if job.checkpoint is not None:
            check_checkpoint(job.checkpoint, job.spec.detector)
    scored = {job.spec.data.eval_split for job in jobs}
    trained_on = {job.spec.data.train_split for job in jobs if job.spec.schedule is not None}
    for split in sorted(scored | trained_on):
        tokens = root.tokens(split)
        for inputs in {job.spec.detector.inputs for job in jobs}:
            root.check_files(tokens, inputs)
        root.check_annotations(split, tokens)


def _initial(spec: JobSpec) -> Detector:
    """The detector as its seed makes it: equal for all jobs of one detector and seed."""
    with seeded(spec.seed, "weights"):
        return spec.detector.build()


def _train(
    order: JobOrder, root: NuScenesRoot, fabric: Fabric, folder: RunFolder, stop: Callable[[], bool]
) -> tuple[Detector, dict[str, str], dict[str, str]]:
    """The trained detector, what it began with, and what is doubtful about its training (`Result`)."""
    spec = order.spec
    assert spec.schedule is not None
    student, teacher = _initial(spec), None
    began = {"weights": fingerprint(student)}
    if order.teacher_spec is not None and order.teacher_weights is not None:
        teacher = load_detector(order.teacher_weights, order.teacher_spec.detector)
        if spec.warm_start:
            inherit(student, teacher)
    losses = {name: loss_spec(name, fields) for name, fields in spec.losses.items()}
    with seeded(spec.seed, "training_only"):
        objective = Objective(student, teacher if losses else None, losses)

    inputs = spec.detector.inputs
    if teacher is not None and losses:
        try:
            inputs = inputs.joined(teacher.spec.inputs)
        except ValueError as error:
            raise InputError(f"teacher and student cannot share a batch: {error}") from error
    tokens = root.tokens(spec.data.train_split)
    samples = SampleSet(root, tokens, inputs, spec.schedule.augment)
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


def _fabric(order: JobOrder) -> Fabric:
    torch.set_num_threads(order.threads)
    precision = order.spec.schedule.precision if order.spec.schedule else "32-true"
    return Fabric(accelerator=order.device, devices=1, precision=precision)


def _machine(fabric: Fabric, order: JobOrder) -> dict[str, str]:
    device = torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else platform.machine()
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "device": f"{fabric.device.type} ({device})",
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
    sys.exit(main(Path(sys.argv[1])))
