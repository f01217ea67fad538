"""What is wrong with a stored run: a damaged file, or one of another job, is told in its row and never counted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.runs.folder import Damaged, Result, RunFolder
from harness.study.jobs import JobSpec, spec_hash


@dataclass(frozen=True)
class Damage:
    """Why none of the files of a run folder must be believed."""

    short: str
    """For a cell of the table."""
    message: str
    """Names the file and says what to do."""


def other_job(folder: RunFolder, label: str) -> Damage | None:
    """The damage where job.json has the spec of another job: a folder was copied, or given another name, by hand."""
    spec = folder.job().get("spec") if folder.order.exists() else None
    # A folder that does not say what it is of does not contradict its name.
    if spec is None or (isinstance(spec, dict) and spec_hash(spec) == folder.path.name):
        return None
    named = f"run {spec_hash(spec)}" if isinstance(spec, dict) else "no job"
    return Damage(
        "is of another job",
        f"{label}: {folder.path} is not the run that its name says: by its job.json it is {named}; give it that "
        "name back or delete it, and the next harness.run of its study trains what is missing",
    )


def check_result(folder: RunFolder, spec: JobSpec, result: Result) -> None:
    """Raise Damaged where a table would lack a number, or show one that cannot be."""
    path = folder.result_file
    if missing := [name for name in spec.measures if name not in result.metrics]:
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


def check_seconds(folder: RunFolder, steps: Sequence[Mapping[str, float | int]]) -> None:
    """Raise Damaged where the log of a training that has ended does not say how long each of its steps took."""
    for number, line in enumerate(steps, start=1):
        if not 0 <= line.get("seconds", -1) < math.inf:
            raise Damaged(folder.step_log, f"line {number} does not say how many seconds its step took")


def check_draws(folder: RunFolder, values: Mapping[str, np.ndarray]) -> None:
    """Raise Damaged where the draws of scenes lack the metrics from which intervals are made."""
    if not all(name in values and len(values[name]) for name in ("mAP", "NDS")):
        raise Damaged(folder.draws, "it has no draws of mAP and NDS")
