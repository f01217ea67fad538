"""What is wrong with stored runs: a damaged file, or one of another job, is told in its row and never counted."""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.evaluate.intervals import read_draws
from harness.runs.folder import Damaged, Result, RunFolder
from harness.study.jobs import DetectorJobSpec, JobSpec, SegmenterJobSpec, spec_hash
from harness.study.plan import Plan


@dataclass(frozen=True)
class Flaw:
    """Why a run folder must not be believed, none of its files."""

    short: str
    """For a cell of the table."""
    message: str
    """Names the file and says what to do."""


def flaws(plan: Plan, runs: Path) -> dict[str, Flaw]:
    """Of the plan's jobs, those whose run folder has a flaw; one that does not exist has none."""
    found = {id_: _flaw(runs / id_, type(job.spec), job.label, _state(runs / id_)) for id_, job in plan.jobs.items()}
    return {id_: flaw for id_, flaw in found.items() if flaw is not None}


_READ = ("job.json", "result.json", "failure.json", "metrics.jsonl", "draws.npz")


def _state(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Size and time of what is checked: equal while nobody wrote to it."""
    stats = [(path / name).stat() if (path / name).exists() else None for name in _READ]
    return tuple(stat and (stat.st_size, stat.st_mtime_ns) for stat in stats)


@cache  # several tables of one report ask
def _flaw(path: Path, kind: type[JobSpec], label: str, state: tuple) -> Flaw | None:
    folder = RunFolder(path)
    try:
        if (other := _other_job(folder, label)) is not None:
            return other
        result = folder.result()
        folder.failure()
        if result is not None:
            _check_result(path / "result.json", kind, result)
        _check_steps(folder, whole=result is not None)
        _check_draws(folder)
    except Damaged as damage:
        return Flaw(f"corrupt: {damage.path.name}", f"{label}: {damage}")
    return None


def _other_job(folder: RunFolder, label: str) -> Flaw | None:
    """Where job.json has the spec of another job: a folder was copied, or given another name, by hand."""
    spec = folder.job().get("spec") if (folder.path / "job.json").exists() else None
    # A folder that does not say what it is of does not contradict its name.
    if spec is None or (isinstance(spec, dict) and spec_hash(spec) == folder.path.name):
        return None
    named = f"run {spec_hash(spec)}" if isinstance(spec, dict) else "no job"
    return Flaw(
        "is of another job",
        f"{label}: {folder.path} is not the run that its name says: by its job.json it is {named}; give it that "
        "name back or delete it, and the next harness.run of its study trains what is missing",
    )


def _check_result(path: Path, kind: type[JobSpec], result: Result) -> None:
    """Raise Damaged where a table would lack a number, or show one that cannot be."""
    needed = {DetectorJobSpec: ("mAP", "NDS"), SegmenterJobSpec: ("AP", "AP50")}.get(kind, ())
    if missing := [name for name in needed if name not in result.metrics]:
        raise Damaged(path, f"metrics: {' and '.join(missing)} missing")
    for name, value in result.metrics.items():
        # An error, or the AP of an image teacher, is NaN where a split has nothing to measure it on.
        impossible = not 0 <= value <= 1 if name in ("mAP", "NDS") else math.isinf(value)
        if impossible:
            raise Damaged(path, f"metrics.{name}: {value} cannot be")
    if result.began and "weights" not in result.began:
        raise Damaged(path, "began: weights missing")
    try:
        float(result.machine.get("peak_memory_mb", "nan"))
    except ValueError as error:
        raise Damaged(path, f"machine.peak_memory_mb: {error}") from error


def _check_steps(folder: RunFolder, whole: bool) -> None:
    """Raise Damaged where the log of a training is none; `whole`: of one that has ended."""
    for number, line in enumerate(folder.steps(), start=1):
        if whole and not 0 <= line.get("seconds", -1) < math.inf:
            raise Damaged(folder.path / "metrics.jsonl", f"line {number} does not say how many seconds its step took")


def _check_draws(folder: RunFolder) -> None:
    drawn = read_draws(folder.draws)
    if drawn is not None and not all(name in drawn[0] and len(drawn[0][name]) for name in ("mAP", "NDS")):
        raise Damaged(folder.draws, "it has no draws of mAP and NDS")
