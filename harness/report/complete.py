"""Computes missing diagnostics of a study's finished runs from stored weights and predictions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial

from rich.console import Console

from detectors.batch import Inputs
from detectors.detector import Detector
from harness.console import count_progress
from harness.data.loader import SampleSet
from harness.data.root import NuScenesRoot
from harness.diagnose import alignment, latency
from harness.diagnose.examine import examine, examine_pair, is_examined, is_pair_examined, some_samples
from harness.diagnose.machine import Machine, open_machine
from harness.errors import InputError
from harness.evidence.runs import StudyRuns
from harness.runs.folder import Busy, RunFolder
from harness.study.jobs import DetectorJobSpec
from harness.train.checkpoint import load_model


@dataclass
class Completion:
    """Counts what was computed, and gives the reason for each failure by the job's label and id."""

    done: int = 0
    there: int = 0
    """Number of files that were already stored."""
    busy: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """A readable summary, one line for each problem."""
        lines = [f"examined: {self.done} new, {self.there} already stored"]
        lines += [f"{name}: in use by another process; repeat the command when it has finished" for name in self.busy]
        lines += [f"{name}: not examined: {reason}" for name, reason in self.failed.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Task:
    name: str
    folder: RunFolder
    needs: tuple[str, Inputs, int]
    """Split, inputs and number of its samples."""
    is_done: Callable[[], bool]
    do: Callable[[SampleSet], None]


def complete(runs: StudyRuns, root: NuScenesRoot, device: str, threads: int, console: Console) -> Completion:
    """Examine the finished detectors of a plan, and compare students and their baselines with the students' teachers.

    Each file is stored in its run folder at once, so an interrupted call loses only the current one.

    Args:
        runs: The runs of the plan, read before the call.
        root: The dataset that the plan was made for.
        device: The device (auto, cpu, cuda or mps) on which latencies are measured.
        threads: Threads of this process.
        console: Shows the progress.
    """
    completion = Completion()
    # One set may keep a gigabyte of decoded samples, which serve the next task, too, where that needs the same.
    samples = lru_cache(maxsize=1)(partial(some_samples, root))
    tasks = sorted(_tasks(runs, root, device, threads, completion), key=lambda task: repr(task.needs))
    with count_progress(console, "results") as show:
        for number, task in enumerate(tasks, start=1):
            try:
                if task.is_done():
                    completion.there += 1
                else:
                    with task.folder.locked():
                        # Another process may have been at it.
                        if not task.is_done():
                            task.do(samples(*task.needs))
                    completion.done += 1
            except Busy:
                completion.busy.append(task.name)
            except OSError as error:
                completion.failed[task.name] = f"{error.filename or task.folder.path}: {error.strerror or error}"
            except InputError as error:
                completion.failed[task.name] = str(error)
            show(number, len(tasks))
    return completion


def _tasks(runs: StudyRuns, root: NuScenesRoot, device: str, threads: int, completion: Completion) -> list[_Task]:
    """Return a task for every finished detector and pair; record pairs that cannot be compared as failed."""
    # Damaged runs are skipped; the report names their damage.
    finished = {id_: run for id_, run in runs.items() if run.result and isinstance(run.job.spec, DetectorJobSpec)}
    specs = {id_: runs.plan.detector_spec(id_) for id_ in finished}
    names = {id_: f"{run.job.label} [{id_}]" for id_, run in finished.items()}

    def load(id_: str) -> Detector:
        return load_model(finished[id_].folder.model, specs[id_].detector)

    def on(id_: str) -> Machine:
        return open_machine(device, specs[id_].precision, threads)

    def alone(id_: str) -> _Task:
        folder, spec = finished[id_].folder, specs[id_]
        needs = (spec.data.eval_split, spec.detector.inputs, latency.SAMPLES)

        def do(samples: SampleSet) -> None:
            examine(folder, spec, root, load(id_), on(id_), samples)

        return _Task(names[id_], folder, needs, partial(is_examined, folder), do)

    def together(id_: str, teacher: str, inputs: Inputs) -> _Task:
        folders = finished[id_].folder, finished[teacher].folder
        needs = (specs[id_].data.eval_split, inputs, alignment.SAMPLES)

        def do(samples: SampleSet) -> None:
            examine_pair(folders[0], load(id_), folders[1], load(teacher), samples, on(id_))

        return _Task(f"{names[id_]} with {names[teacher]}", folders[0], needs, partial(is_pair_examined, *folders), do)

    tasks = [alone(id_) for id_ in finished]
    students = [row for row in runs.plan.rows if row.role == "student" and not row.split]
    pairs = [
        (id_, runs.plan.detector_spec(row.job).compared_with) for row in students for id_ in (row.baseline, row.job)
    ]
    for id_, teacher in dict.fromkeys(pairs):
        if id_ in finished and teacher in finished:
            try:
                inputs = specs[id_].detector.inputs.joined(specs[teacher].detector.inputs)
            except ValueError as error:
                completion.failed[f"{names[id_]} with {names[teacher]}"] = f"they cannot share a batch: {error}"
            else:
                tasks.append(together(id_, teacher, inputs))
    return tasks
