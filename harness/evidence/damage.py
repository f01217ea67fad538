"""Detects damaged runs: a damaged file or one of another job is reported in its row and never counted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.runs.folder import Damaged, Result, RunFolder
from harness.study.jobs import JobSpec, spec_hash


@dataclass(frozen=True)
class Damage:
    """The reason why the files of a run folder cannot be used."""

    short: str
    """Short text for a cell of the table."""
    message: str
    """Message that names the file and the remedy."""


def other_job(folder: RunFolder, label: str) -> Damage | None:
    """Return the damage if job.json has the spec of another job, because somebody copied or renamed the folder."""
    spec = folder.job().get("spec") if folder.order.exists() else None
    # A folder that does not say what it is of does not contradict its name.
    if spec is None or (isinstance(spec, dict) and spec_hash(spec) == folder.path.name):
        return None
    named = f"run {spec_hash(spec)}" if isinstance(spec, dict) else "no job"
    return Damage(
        "belongs to another job",
        f"{label}: the name of {folder.path} is wrong: its job.json describes {named}; give it that "
        "name back or delete it, and the next harness.run of its study trains what is missing",
    )


def check_result(folder: RunFolder, spec: JobSpec, result: Result) -> None:
    """Raise Damaged if a metric is missing or impossible."""
    path = folder.result_file
    if missing := [name for name in spec.measures if name not in result.metrics]:
        raise Damaged(path, f"metrics without {' and '.join(missing)}")
    for name, value in result.metrics.items():
        # An error, or the AP of an image teacher, is NaN where a split has nothing to measure it on.
        impossible = not 0 <= value <= 1 if name in ("mAP", "NDS") else math.isinf(value)
        if impossible:
            raise Damaged(path, f"metrics.{name}: {value} cannot be")
    if result.began and "weights" not in result.began:
        raise Damaged(path, "began: weights are missing")
    try:
        float(result.machine.get("peak_memory_mb", "nan"))
    except ValueError as error:
        raise Damaged(path, f"machine.peak_memory_mb: {error}") from error


def check_seconds(folder: RunFolder, steps: Sequence[Mapping[str, float | int]]) -> None:
    """Raise Damaged if the log of a finished training lacks the duration of a step."""
    for number, line in enumerate(steps, start=1):
        if not 0 <= line.get("seconds", -1) < math.inf:
            raise Damaged(folder.step_log, f"line {number} has no duration of its step")


def check_draws(folder: RunFolder, values: Mapping[str, np.ndarray]) -> None:
    """Raise Damaged if the draws of scenes lack the metrics that intervals need."""
    if not all(name in values and len(values[name]) for name in ("mAP", "NDS")):
        raise Damaged(folder.draws, "it has no draws of mAP and NDS")
