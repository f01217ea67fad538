"""Converts the runs of a study to outcomes and costs, and outcomes to the lines of its tables."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from harness.evidence.effects import Group, foremost, gains, groups
from harness.evidence.line import CLASS_AP, ERRORS, HEADLINE_METRICS, MASKS, Gain, Key, Line, Mean, Outcome, by_key
from harness.evidence.runs import Run, StudyRuns
from harness.runs.folder import SKIPPED, Result
from harness.study.jobs import DetectorJobSpec
from harness.study.papers import Metric, Paper, PublishedGain
from harness.study.plan import Row


def outcomes(runs: StudyRuns, papers: Sequence[Paper] = ()) -> list[Outcome]:
    """Return the outcome of each row of the plan, in its order."""
    return [_outcome(row, runs, papers) for row in runs.plan.rows]


def _outcome(row: Row, runs: StudyRuns, papers: Sequence[Paper]) -> Outcome:
    run = runs[row.job]
    result = run.result
    compared = row.role in ("student", "control")
    baseline = runs[row.baseline].result if row.baseline and compared else None
    unpaired = why_unpaired(row, runs) if result and baseline else ""
    measured = result.metrics if result else {}
    # Of an image teacher AP is that of its masks.
    scales = dict.fromkeys((*HEADLINE_METRICS, *CLASS_AP, *MASKS), 100)
    metrics = {
        name: measured.get(name.removeprefix("mask_"), math.nan) * scales.get(name, 1)
        for name in (*HEADLINE_METRICS, *ERRORS, *CLASS_AP, *MASKS)
    }
    gained = dict.fromkeys(HEADLINE_METRICS, math.nan)
    if result and baseline and not unpaired:
        gained = {metric: 100 * (result.metrics[metric] - baseline.metrics[metric]) for metric in HEADLINE_METRICS}
    return Outcome(
        key=Key.of(row),
        seed=row.seed,
        job=row.job,
        baseline=row.baseline if row.baseline and compared else "",
        metrics=metrics,
        gains=gained,
        parameters=result.parameters if result else math.nan,
        published=_published(row, run, papers),
        missing=run.missing,
        unpaired=unpaired,
        warning="; ".join(_warning(*each) for each in result.warnings.items()) if result else "",
        machine=_machine(result) if result else "",
        weights=result.weights if result else {},
        draws=run.draws if compared or row.role == "baseline" else None,
    )


def _warning(name: str, text: str) -> str:
    """A warning about the training itself, or about the loss of a name."""
    return text if name == SKIPPED else f"loss {name!r}: {text}"


def _published(row: Row, run: Run, papers: Sequence[Paper]) -> dict[str, PublishedGain]:
    """Return the published gains for this path and these kinds of losses, independent of their names in the study."""
    spec = run.job.spec
    if not isinstance(spec, DetectorJobSpec) or not row.published_as:
        return {}
    kinds = frozenset(str(fields.get("loss", name)) for name, fields in spec.losses.items())
    reported = {paper.name: paper.gain(row.published_as, kinds) for paper in papers}
    return {name: gain for name, gain in reported.items() if gain is not None}


def why_unpaired(row: Row, runs: StudyRuns) -> str:
    """Return the reason why a row has no gain over its baseline; empty if it may have one."""
    student, baseline = (_began(id_, runs) for id_ in (row.job, str(row.baseline)))
    if not student or not baseline:
        return ""
    if student["weights"] != baseline["weights"]:
        return "its initial weights differ from its baseline's (another kind of processor, or broken random streams)"
    batches = zip(student.get("batches", "").split(), baseline.get("batches", "").split(), strict=False)
    # The one may be longer than the other.
    return "its batches differ from those of its baseline" if any(a != b for a, b in batches) else ""


def _began(id_: str, runs: StudyRuns) -> dict[str, str]:
    """What the training of a job's detector began with; of a detector that is scored again, what that one did."""
    result = runs[runs.plan.detector_spec(id_).model_of or id_].result
    return {} if result is None else result.began


def _machine(result: Result) -> str:
    known = {"device": "unknown", "torch": "unknown", "threads": "?"} | result.machine
    text = f"{known['device']}, torch {known['torch']}, {known['threads']} thread(s)"
    if not known["device"].startswith("cuda"):
        return text
    # What older versions of this code did not record may have been anything.
    known = {"sparse": "unknown", "tf32": "unknown", "deterministic": "unknown"} | known
    return (
        f"{text}, sparse convolution: {known['sparse']}, TF32: {known['tf32']}, deterministic: {known['deterministic']}"
    )


@dataclass(frozen=True)
class Cost:
    """Cost of the trainings of a line, averaged over the finished ones; NaN if unknown."""

    role: str
    model: str
    path: str
    arm: str
    seeds: int
    """Number of finished seeds."""
    parameters: float
    """The detector's number of parameters."""
    latency_ms: float
    """Median from a sample to its boxes."""
    step_ms: float
    """Median of a step of the training."""
    minutes: float
    """Wall-clock time of training and scoring."""
    cpu_minutes: float
    """Processor time of training and scoring."""
    peak_memory_mb: float
    """The largest memory of any seed."""


def costs(runs: StudyRuns) -> list[Cost]:
    """Return the cost of each training of the plan; trainings that differ only in the seed are averaged."""
    trained = [row for row in runs.plan.rows if not row.split and runs[row.job].job.spec.steps]
    finished = [row for row in trained if runs[row.job].result is not None]
    return [_cost(rows, runs) for rows in by_key(finished, lambda row: (row.role, row.model, row.path, row.arm))]


def _cost(rows: Sequence[Row], runs: StudyRuns) -> Cost:
    first, ours = rows[0], [runs[row.job] for row in rows]
    results = [run.result for run in ours if run.result is not None]
    return Cost(
        *(first.role, first.model, first.path, first.arm),
        seeds=len(rows),
        parameters=fmean(result.parameters for result in results),
        latency_ms=_known_mean(run.latency.milliseconds for run in ours if run.latency),
        step_ms=_known_mean(1000 * run.step_seconds for run in ours),
        minutes=fmean(result.seconds / 60 for result in results),
        cpu_minutes=_known_mean(result.cpu_seconds / 60 for result in results if result.cpu_seconds is not None),
        peak_memory_mb=max(_known(float(r.machine.get("peak_memory_mb", "nan")) for r in results), default=math.nan),
    )


def _known(values: Iterable[float | int]) -> list[float | int]:
    return [value for value in values if not math.isnan(value)]


def _known_mean(values: Iterable[float | int]) -> float:
    known = _known(values)
    return fmean(known) if known else math.nan


def summary(trained: Sequence[Outcome], compared: Sequence[Group] | None = None) -> list[Line]:
    """The lines of the table: outcomes that differ only in seed become one.

    Args:
        trained: All outcomes.
        compared: Their `groups`, where those are at hand.
    """
    lines = by_key(trained, lambda outcome: outcome.key)
    reported = {seeds[0].key: foremost(seeds[0].published)[1] for seeds in lines}
    published = {key: gain for key, gain in reported.items() if gain is not None}
    sure = gains(groups(trained) if compared is None else compared, published)
    return [_line(seeds, sure.get(seeds[0].key, {})) for seeds in lines]


def _line(seeds: Sequence[Outcome], sure: dict[Metric, Gain]) -> Line:
    """The line of outcomes that differ only in seed, with the statistics of its gains."""
    first = seeds[0]
    unsure = {metric: Gain(_mean([outcome.gains[metric] for outcome in seeds])) for metric in HEADLINE_METRICS}
    gained = {metric: replace(sure.get(metric, gain), mean=gain.mean) for metric, gain in unsure.items()}
    return Line(
        key=first.key,
        metrics={name: _mean([outcome.metrics[name] for outcome in seeds]) for name in first.metrics},
        gains=gained,
        weights={name: _mean([outcome.weights.get(name, math.nan) for outcome in seeds]) for name in first.weights},
        scenes=gained["NDS"].scenes,
        seeds=len(seeds),
        parameters=next(iter(_known(outcome.parameters for outcome in seeds)), math.nan),
        published=first.published,
        missing=_missing(seeds),
        unpaired=_together(outcome.unpaired for outcome in seeds),
        warning=_together(outcome.warning for outcome in seeds),
        machine=_together(outcome.machine for outcome in seeds),
        jobs=tuple(outcome.job for outcome in seeds),
    )


def _missing(seeds: Sequence[Outcome]) -> str:
    """Why a line has no result; how many seeds have one if the others were not run."""
    reasons = [outcome.missing for outcome in seeds if outcome.missing]
    if set(reasons) == {"not run"} and len(reasons) < len(seeds):
        return f"{len(seeds) - len(reasons)} of {len(seeds)} seeds"
    return _together(reasons)


def _mean(values: Sequence[float]) -> Mean:
    """Average over all seeds; NaN if one is missing, so that a mean never covers fewer seeds than it states."""
    return Mean(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)


def _together(texts: Iterable[str]) -> str:
    return "; ".join(sorted({text for text in texts if text}))
