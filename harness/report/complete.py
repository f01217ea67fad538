"""Complete: whatever a study's finished runs lack for the diagnostics, from stored weights and predictions."""

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
from harness.diagnose.machine import Machine
from harness.errors import InputError
from harness.evidence.runs import StudyRuns
from harness.runs.folder import Busy, RunFolder
from harness.study.jobs import DetectorJobSpec
from harness.train.checkpoint import load_model
from harness.train.device import machine, open_device


@dataclass
class Completion:
    """What was done, and why something was not, by the job's label and id."""

    done: int = 0
    there: int = 0
    """Was kept before."""
    busy: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """For people."""
        lines = [f"examined: {self.done} new, {self.there} there before"]
        lines += [f"{name}: in use by another process; call again when it is done" for name in self.busy]
        lines += [f"{name}: not examined: {reason}" for name, reason in self.failed.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Task:
    name: str
    folder: RunFolder
    inputs: str
    """What is alike in tasks that can share their samples."""
    is_done: Callable[[], bool]
    do: Callable[[], None]


def complete(runs: StudyRuns, root: NuScenesRoot, device: str, threads: int, console: Console) -> Completion:
    """Examine the finished detectors of a plan, and compare students and their baselines with the students' teachers.

    Each thing is kept in its run folder as soon as it is known, so that an interrupted call costs what it was at.

    Args:
        runs: Of the plan, as they are before.
        root: The dataset that the plan was made for.
        device: A Fabric accelerator; on it latencies are measured.
        threads: Of this process.
        console: Is shown the progress.
    """
    looked = _Looks(runs, root, device, threads)
    completion = Completion()
    # Samples that are decoded serve the next task, too.
    tasks = sorted(looked.tasks(), key=lambda task: task.inputs)
    with count_progress(console, "results") as show:
        for number, task in enumerate(tasks, start=1):
            try:
                _attempt(task, completion)
            except Busy:
                completion.busy.append(task.name)
            except OSError as error:
                completion.failed[task.name] = f"{error.filename or task.folder.path}: {error.strerror or error}"
            except InputError as error:
                completion.failed[task.name] = str(error)
            show(number, len(tasks))
    return completion


def _attempt(task: _Task, completion: Completion) -> None:
    if task.is_done():
        completion.there += 1
        return
    with task.folder.locked():
        # Another process may have been at it.
        if not task.is_done():
            task.do()
    completion.done += 1


class _Looks:
    """The tasks of a plan, and what several of them need."""

    def __init__(self, runs: StudyRuns, root: NuScenesRoot, device: str, threads: int) -> None:
        self._plan, self._runs, self._root = runs.plan, runs, root
        self._device, self._threads = device, threads
        # One set may keep a gigabyte of decoded samples.
        self._samples = lru_cache(maxsize=1)(self._make_samples)

    def tasks(self) -> list[_Task]:
        """Of every finished detector, and every finished pair once."""
        specs = {id_: job.spec for id_, job in self._plan.jobs.items() if isinstance(job.spec, DetectorJobSpec)}
        # A run that must not be believed is not worth a look; the report says what is wrong with it.
        finished = {id_: spec for id_, spec in specs.items() if self._runs[id_].result is not None}
        pairs: dict[tuple[str, str], str] = {}
        for row in self._plan.rows:
            teacher = specs[row.job].teacher if row.role == "student" and not row.split else None
            for id_ in (row.baseline, row.job):
                if teacher in finished and id_ in finished:
                    pairs[teacher, id_] = f"{self._name(id_)} with {self._name(teacher)}"
        alone = [
            _Task(
                self._name(id_),
                self._folder(id_),
                _named(spec.data.eval_split, spec.detector.inputs, latency.SAMPLES),
                partial(is_examined, self._folder(id_)),
                partial(self._examine, id_),
            )
            for id_, spec in finished.items()
        ]
        return alone + [
            _Task(
                name,
                self._folder(id_),
                " ".join(
                    _named(specs[each].data.eval_split, specs[each].detector.inputs, 0) for each in (teacher, id_)
                ),
                partial(is_pair_examined, self._folder(id_), self._folder(teacher)),
                partial(self._compare, teacher, id_),
            )
            for (teacher, id_), name in pairs.items()
        ]

    def _examine(self, id_: str) -> None:
        spec = self._plan.detector_spec(id_)
        samples = self._samples(spec.data.eval_split, spec.detector.inputs, latency.SAMPLES)
        examine(self._folder(id_), spec, self._root, self._load(id_), self._machine(spec), samples)

    def _compare(self, teacher: str, id_: str) -> None:
        spec, other = self._plan.detector_spec(id_), self._plan.detector_spec(teacher)
        try:
            inputs = spec.detector.inputs.joined(other.detector.inputs)
        except ValueError as error:
            raise InputError(f"they cannot share a batch: {error}") from error
        samples = self._samples(spec.data.eval_split, inputs, alignment.SAMPLES)
        folders = self._folder(id_), self._folder(teacher)
        examine_pair(folders[0], self._load(id_), folders[1], self._load(teacher), samples, self._machine(spec))

    def _make_samples(self, split: str, inputs: Inputs, count: int) -> SampleSet:
        return some_samples(self._root, split, inputs, count)

    def _machine(self, spec: DetectorJobSpec) -> Machine:
        return machine(open_device(self._device, spec.precision, self._threads), self._threads)

    def _load(self, id_: str) -> Detector:
        return load_model(self._folder(id_).model, self._plan.detector_spec(id_).detector)

    def _folder(self, id_: str) -> RunFolder:
        return self._runs[id_].folder

    def _name(self, id_: str) -> str:
        return f"{self._plan.jobs[id_].label} [{id_}]"


def _named(split: str, inputs: Inputs, count: int) -> str:
    return f"{split} {sorted(inputs.sensors)} {hash(inputs)} {count}"
