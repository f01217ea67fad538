"""Reads each run of a study once, for tables, figures and the page."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Float

from harness.diagnose.alignment import Alignment
from harness.diagnose.history import History, summarize
from harness.diagnose.latency import Latency
from harness.evaluate.intervals import Analysis, kept_analysis, read_draws
from harness.evidence.damage import Damage, check_draws, check_result, check_seconds, other_job
from harness.runs.folder import Damaged, Result, RunFolder
from harness.runs.small_files import kept_model
from harness.study.jobs import Job
from harness.study.plan import Plan

State = Literal["done", "running", "failed", "not run"]
Content = TypeVar("Content")


@dataclass(frozen=True)
class Draws:
    """A detector's metrics in draws of the scenes of its split, in points; the first draw is the split itself."""

    values: dict[str, Float[np.ndarray, " draws"]]
    """mAP and NDS."""
    scenes: int


@dataclass(frozen=True)
class Run:
    """A job and what its run folder said when it was opened; a folder with a damaged file says nothing else."""

    job: Job
    folder: RunFolder
    result: Result | None = None
    """The result; None while the job is not finished."""
    damage: Damage | None = None
    failure: str = ""
    """Reason why the last attempt ended without a result; empty if it did not."""
    finished_at: float = float("nan")
    """Seconds since 1970; NaN while the job is not finished."""
    draws: Draws | None = None
    step_seconds: float = float("nan")
    """Median duration of a step of the training; NaN of a job without steps and of one that is not finished."""
    history: History | None = None
    """Log of the training, averaged over parts; None for a job without steps or an unfinished one."""
    latency: Latency | None = None
    """The latency; None if it was not measured."""
    unreadable: list[Damaged] = field(default_factory=list)
    """Files of the diagnostics that were asked for so far, and say nothing; no number of a table needs them."""

    @property
    def id(self) -> str:
        """The id of the job, which is the name of its folder, too."""
        return self.job.id

    @property
    def missing(self) -> str:
        """Reason for a missing result, for a cell of a table; empty if there is a result."""
        if self.damage is not None:
            return self.damage.short
        if self.result is not None:
            return ""
        return f"failed: {self.failure.splitlines()[0]}" if self.state == "failed" else self.state

    @property
    def reason(self) -> str:
        """Reason of the failure; empty if it did not fail."""
        if self.state != "failed":
            return ""
        return self.damage.message if self.damage else self.failure

    @cached_property
    def state(self) -> State:
        """State of the job. It is running if a process owns its folder."""
        if self.result is not None:
            return "done"
        if self.folder.in_use():
            return "running"
        return "failed" if self.damage is not None or self.failure else "not run"

    @cached_property
    def analysis(self) -> Analysis | None:
        """Cost of the errors of a finished detector in each draw, from a large file that is read on first use."""
        path = self.folder.analysis
        return _noted(path, kept_analysis(path), self.unreadable) if self.result is not None else None

    @cached_property
    def alignments(self) -> dict[str, Alignment]:
        """Similarity to the detectors of other jobs, by their ids."""
        files = {path.stem.partition("-")[2]: path for path in self.folder.path.glob("alignment-*.json")}
        read = {id_: _noted(path, kept_model(path, Alignment), self.unreadable) for id_, path in files.items()}
        return {id_: alignment for id_, alignment in read.items() if alignment is not None}


def _noted(path: Path, content: Content | None, unreadable: list[Damaged]) -> Content | None:
    """Read a file of the diagnostics, and record it if it is unreadable."""
    if content is None and path.is_file():
        unreadable.append(Damaged(path, "it cannot be read, or another version wrote it"))
    return content


def open_run(job: Job, folder: RunFolder) -> Run:
    """Read a run folder. If it does not exist, the job was not run."""
    try:
        if (damage := other_job(folder, job.label)) is not None:
            return Run(job, folder, damage=damage)
        return _read(job, folder)
    except Damaged as damaged:
        return Run(job, folder, damage=Damage(f"corrupt: {damaged.path.name}", f"{job.label}: {damaged}"))


def _read(job: Job, folder: RunFolder) -> Run:
    """What a folder of the right job holds; raises Damaged."""
    result, failure = folder.result(), folder.failure()
    if result is not None:
        check_result(folder, job.spec, result)
    steps = folder.steps()
    if result is not None:
        check_seconds(folder, steps)
    drawn = read_draws(folder.draws)
    if drawn is not None:
        check_draws(folder, drawn[0])
    reason = failure[0] if failure else ""
    if result is None:
        return Run(job, folder, failure=reason)
    unreadable: list[Damaged] = []
    return Run(
        job,
        folder,
        result,
        failure=reason,
        finished_at=folder.finished_at(),
        draws=Draws({name: 100 * drawn[0][name] for name in ("mAP", "NDS")}, drawn[1]) if drawn else None,
        step_seconds=float(np.median([line["seconds"] for line in steps])) if steps else float("nan"),
        history=summarize(steps),
        latency=_noted(folder.latency, kept_model(folder.latency, Latency), unreadable),
        unreadable=unreadable,
    )


@dataclass(frozen=True)
class StudyRuns(Mapping[str, Run]):
    """The runs of a plan by the ids of its jobs, in its order, as they were when they were opened."""

    plan: Plan
    folder: Path
    """Folder of the run folders."""
    by_job: Mapping[str, Run]

    @classmethod
    def open(cls, plan: Plan, folder: Path) -> "StudyRuns":
        """Read the run folder of every job of a plan, once."""
        return cls(plan, folder, {id_: open_run(job, RunFolder(folder / id_)) for id_, job in plan.jobs.items()})

    @property
    def damaged(self) -> dict[str, Damage]:
        """Damage of each unusable run, by the id of its job."""
        return {id_: run.damage for id_, run in self.items() if run.damage is not None}

    @property
    def unreadable(self) -> list[str]:
        """Messages about the files of the diagnostics that were unreadable so far."""
        return [f"{run.job.label}: {damaged}" for run in self.values() for damaged in run.unreadable]

    @property
    def results(self) -> dict[str, Result]:
        """Results of the finished jobs with intact runs, by job id."""
        return {id_: run.result for id_, run in self.items() if run.result is not None}

    def __getitem__(self, id_: str) -> Run:
        return self.by_job[id_]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_job)

    def __len__(self) -> int:
        return len(self.by_job)
