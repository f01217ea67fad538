"""Kind: the interface of a kind of job, which checks, orders, runs and estimates it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from detectors.detector import DetectorSpec
from detectors.segmenter import SegmenterSpec
from detectors.spec import Spec
from harness.data.root import NuScenesRoot
from harness.diagnose.machine import Machine
from harness.runs.folder import RunFolder
from harness.study.jobs import AnyJobSpec, JobSpec
from harness.study.plan import Plan
from harness.study.schedule import ScheduleSpec

FORWARD_SHARE = 1 / 3
"""The share of the forward pass in a training step; the backward pass takes about twice the forward one."""

DONE, FAILED, STOPPED, BUSY, UNEXAMINED = 0, 1, 3, 4, 5
"""Exit statuses of a worker; its run folder has the reason of a failure. UNEXAMINED: done, but its diagnosis failed."""

Folders = Callable[[str], RunFolder]
"""The run folder of a job id."""
Samples = Callable[[str], int]
"""The number of samples of a split."""
StepSeconds = Callable[[DetectorSpec | SegmenterSpec, int], float]
"""Seconds of a training step of a model with so many samples in a batch."""
AJobSpec = TypeVar("AJobSpec", bound=JobSpec)


class JobOrder(Spec):
    """A job and everything about where and on what it runs, which does not decide its result."""

    spec: AnyJobSpec
    label: str
    root: Path
    version: str
    teacher_spec: AnyJobSpec | None = None
    """The spec of the detector that teaches, or of the segmenter whose labels are wanted."""
    teacher_weights: Path | None = None
    given_weights: Path | None = None
    source: Path | None = None
    """The root of an image teacher's dataset, or a folder of labels or of maps that were made elsewhere."""
    labels: Path | None = None
    """Folder of the image teacher's labels that the student learns from."""
    image_backbone_spec: AnyJobSpec | None = None
    """The spec of the image teacher whose backbone the detector's begins as."""
    image_backbone_weights: Path | None = None
    image_weights: Path | None = None
    """The file that the detector's image backbone begins with."""
    device: str
    threads: int
    loader_workers: int
    gpus: int = 1
    """Processes that train it together, each on a GPU of its own."""
    deterministic: bool = False
    """Whether only operations are used that give the same bits each time."""


class Timer:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self._began, self._cpu_began = time.monotonic(), time.process_time()

    @property
    def seconds(self) -> float:
        """Seconds of wall time."""
        return time.monotonic() - self._began

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds of this process, all its threads together."""
        return time.process_time() - self._cpu_began


@dataclass(frozen=True)
class Outcome:
    """What a job comes to, whatever kind it is; fields as in `Result`."""

    metrics: dict[str, float]
    parameters: int
    scored: Timer
    """The time from the end of the training on."""
    warnings: dict[str, str] = field(default_factory=dict)
    began: dict[str, str] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    trained: dict[str, str] = field(default_factory=dict)
    """How the training was computed; part of `Result.machine`."""
    diagnose: Callable[[], None] = lambda: None
    """The work after the result, such as diagnostics."""


class Kind(ABC, Generic[AJobSpec]):
    """One kind of job. Its spec, which decides the result and the id, is in `harness.study.jobs`."""

    @abstractmethod
    def check(self, jobs: Sequence[tuple[AJobSpec, Path | None]], root: NuScenesRoot) -> None:
        """Raise InputError, before anything is trained, for what one of these jobs would miss.

        Args:
            jobs: Specs, each with `Job.source`.
            root: The dataset of the detectors.
        """

    def check_given(self, spec: AJobSpec, source: Path | None) -> None:
        """Raise InputError for what is given to a job and cannot be used; of a dry run, too, so nothing of minutes."""
        return

    def batch_bytes(self, spec: AJobSpec, source: Path | None, plan: Plan, root: NuScenesRoot) -> int:
        """The size of the largest batch that a loading process makes for a job, by its first sample; 0 if it has none.

        Args:
            spec: The job.
            source: As `Job.source`.
            plan: The plan that it is of.
            root: The dataset of the detectors.
        """
        return 0

    @abstractmethod
    def order(self, spec: AJobSpec, source: Path | None, plan: Plan, folders: Folders) -> dict[str, Any]:
        """Fields of the job's order: what other jobs have made, and what is given."""

    @abstractmethod
    def run(
        self, order: JobOrder, spec: AJobSpec, machine: Machine, folder: RunFolder, stop: Callable[[], bool]
    ) -> Outcome:
        """Run the job, or resume where an earlier attempt stopped.

        Raises:
            Interrupted: `stop` returned True; the state is saved.
            InputError: The user's input is wrong.
        """

    def train_along(
        self, order: JobOrder, spec: AJobSpec, machine: Machine, folder: RunFolder, stop: Callable[[], bool]
    ) -> None:
        """Take part in the training of `run` in another process of the job, which logs, saves and scores."""
        return

    def lockstep_key(self, spec: AJobSpec) -> str | None:
        """Return a hash that jobs share which `train_together` can train; None for a job that trains by itself."""
        return None

    def train_together(
        self,
        jobs: Sequence[tuple[JobOrder, AJobSpec, RunFolder]],
        machine: Machine,
        stop: Callable[[], bool],
        dropped: Callable[[RunFolder], bool],
    ) -> None:
        """Train jobs of one `lockstep_key` side by side, as far as each of them goes, and save their states.

        `run` goes on from there with each by itself. A training that fails here is left to it, which reports the cause.
        One of which `dropped` returns True ends early, with its state saved.

        Raises:
            Interrupted: `stop` returned True; the states are saved.
        """
        raise NotImplementedError

    @abstractmethod
    def estimate(self, spec: AJobSpec, plan: Plan, samples: Samples, step: StepSeconds, together: int = 1) -> float:
        """Estimate the seconds of the job from those of steps.

        Args:
            spec: The job.
            plan: The plan that it is of.
            samples: Counts samples.
            step: Times steps.
            together: Jobs that share a process with it, itself included; what they share is divided among them.
        """


TRIED_TOGETHER = 4
"""Samples that are timed at once where it is the GPU's memory that decides how many will be."""


def step_seconds(step: StepSeconds, model: DetectorSpec | SegmenterSpec, schedule: ScheduleSpec) -> float:
    """Estimate the seconds of a step of one process, which computes its batch in parts or at once."""
    batch = schedule.global_batch
    at_once = min(batch, TRIED_TOGETHER) if schedule.micro_batch == "auto" else schedule.micro_batch or batch
    return step(model, at_once) * batch / at_once


def count_parameters(model: torch.nn.Module) -> int:
    """The number of a model's parameters, trained ones and others."""
    return sum(p.numel() for p in model.parameters())
