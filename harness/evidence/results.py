"""Runs to the rows of a study, one a training, with metrics, gain and costs; and rows to the lines of its tables."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from harness.evidence.effects import KEYS, foremost, gains
from harness.evidence.line import ERRORS, HEADLINE_METRICS, MASKS, Gain, Key, Line, Mean, gain_column
from harness.evidence.runs import Run, StudyRuns
from harness.runs.folder import Result
from harness.study.jobs import DetectorJobSpec
from harness.study.papers import Paper, PublishedGain
from harness.study.plan import Row


def results_frame(runs: StudyRuns, papers: Sequence[Paper] = ()) -> pd.DataFrame:
    """One row for each row of the plan.

    Columns: KEYS (split is empty for the evaluation split), seed, job, baseline (the job of its baseline, else empty),
    missing (why there is no result, else empty), parameters, mAP and NDS in points, the five errors, mask_AP and
    mask_AP50 (of an image teacher, in points), gain_mAP and gain_NDS in points over the baseline of the same student
    and seed, published (name of a paper to what it reports for such a path and losses of such kinds), unpaired (why
    there is no gain although both have results, else empty), warning (what is doubtful about the training, else empty),
    machine (device kind, torch version and threads), and draws (mAP and NDS in points in draws of scenes and the number
    of scenes, or None).
    """
    return pd.DataFrame([_record(row, runs, papers) for row in runs.plan.rows])


def _record(row: Row, runs: StudyRuns, papers: Sequence[Paper]) -> dict[Hashable, Any]:
    run = runs[row.job]
    result = run.result
    compared = row.role in ("student", "control")
    baseline = runs[row.baseline].result if row.baseline and compared else None
    unpaired = ""
    if result is not None and baseline is not None:
        unpaired = why_unpaired(row, runs)
        baseline = None if unpaired else baseline
    record: dict[Hashable, Any] = dict(zip(KEYS, Key.of(row), strict=True)) | {
        "seed": row.seed,
        "job": row.job,
        "baseline": row.baseline if row.baseline and compared else "",
        "missing": run.missing,
        "unpaired": unpaired,
        "warning": "; ".join(f"loss {name!r}: {text}" for name, text in result.warnings.items()) if result else "",
        "parameters": result.parameters if result else float("nan"),
        "machine": _machine(result) if result else "",
    }
    for metric in (*HEADLINE_METRICS, *ERRORS):
        scale = 100 if metric in HEADLINE_METRICS else 1
        record[metric] = result.metrics.get(metric, float("nan")) * scale if result else float("nan")
    for metric in MASKS:
        record[metric] = (
            100 * result.metrics.get(metric.removeprefix("mask_"), float("nan")) if result else float("nan")
        )
    for metric in HEADLINE_METRICS:
        record[gain_column(metric)] = float("nan")
        if result is not None and baseline is not None:
            record[gain_column(metric)] = 100 * (result.metrics[metric] - baseline.metrics[metric])
    record["draws"] = _draws(run) if compared or row.role == "baseline" else None
    record["published"] = _published(row, run, papers)
    return record


def _draws(run: Run) -> tuple[dict[str, np.ndarray], int] | None:
    """mAP and NDS in points, draw by draw, and the number of scenes."""
    if run.draws is None:
        return None
    return {metric: 100 * run.draws.values[metric] for metric in HEADLINE_METRICS}, run.draws.scenes


def _published(row: Row, run: Run, papers: Sequence[Paper]) -> dict[str, PublishedGain]:
    """What papers report for such a path and losses of such kinds, whatever the study calls them."""
    spec = run.job.spec
    if not isinstance(spec, DetectorJobSpec) or not row.published_as:
        return {}
    kinds = frozenset(str(fields.get("loss", name)) for name, fields in spec.losses.items())
    found = {paper.name: paper.gain(row.published_as, kinds) for paper in papers}
    return {name: gain for name, gain in found.items() if gain is not None}


def why_unpaired(row: Row, runs: StudyRuns) -> str:
    """Why a row must not be held against its baseline; empty where it may, or where they do not say how they began."""
    return _unpaired(*(_began(id_, runs) for id_ in (row.job, str(row.baseline))))


def _began(id_: str, runs: StudyRuns) -> dict[str, str]:
    """What the training of a job's detector began with; of a detector that is scored again, what that one did."""
    result = runs[runs.plan.detector_spec(id_).model_of or id_].result
    return {} if result is None else result.began


def _unpaired(student: dict[str, str], baseline: dict[str, str]) -> str:
    """Why the two must not be subtracted; empty where they began alike, or one of them does not say how."""
    if not student or not baseline:
        return ""
    if student["weights"] != baseline["weights"]:
        return "its initial weights are not those of its baseline (another kind of processor, or broken random streams)"
    # The one may be longer than the other.
    if any(
        a != b for a, b in zip(student.get("batches", "").split(), baseline.get("batches", "").split(), strict=False)
    ):
        return "its batches are not those of its baseline"
    return ""


def _machine(result: Result) -> str:
    known = {"device": "unknown", "torch": "unknown", "threads": "?"} | result.machine
    return f"{known['device']}, torch {known['torch']}, {known['threads']} thread(s)"


COSTS = ("parameters", "latency_ms", "step_ms", "minutes", "cpu_minutes", "peak_memory_mb")


def cost_frame(runs: StudyRuns) -> pd.DataFrame:
    """What each training of the plan cost, those that differ only in seed on one row, in means over the finished ones.

    Columns: role, model, path, arm, seeds (finished), and COSTS: parameters of the detector, median milliseconds from a
    sample to its boxes (NaN where that was not measured) and of a step of the training, minutes of wall and of
    processor time for training and scoring, and the largest memory of any seed in MB.
    """
    rows = []
    for row in runs.plan.rows:
        run = runs[row.job]
        result = run.result
        if row.split or result is None or not run.job.spec.steps:
            continue
        rows.append(
            {
                "role": row.role,
                "model": row.model,
                "path": row.path,
                "arm": row.arm,
                "seeds": row.seed,
                "parameters": result.parameters,
                "latency_ms": run.latency.milliseconds if run.latency else float("nan"),
                "step_ms": 1000 * run.step_seconds,
                "minutes": result.seconds / 60,
                "cpu_minutes": float("nan") if result.cpu_seconds is None else result.cpu_seconds / 60,
                "peak_memory_mb": float(result.machine.get("peak_memory_mb", "nan")),
            }
        )
    keys = ["role", "model", "path", "arm"]
    frame = pd.DataFrame(rows, columns=[*keys, "seeds", *COSTS])
    how = {"seeds": "count", **dict.fromkeys(COSTS, "mean"), "peak_memory_mb": "max"}
    return frame.groupby(keys, sort=False).agg(how).reset_index()


def _together(texts: pd.Series) -> str:
    return "; ".join(sorted({text for text in texts if text}))


def summary(frame: pd.DataFrame) -> list[Line]:
    """The lines of the table: rows of `results_frame` that differ only in seed become one."""
    rows = frame.groupby(list(KEYS), sort=False)
    metrics = [*HEADLINE_METRICS, *ERRORS, *MASKS, *map(gain_column, HEADLINE_METRICS)]
    # A mean over fewer seeds than were asked for would pass for the whole: one NaN makes the cell NaN.
    means = rows[metrics].mean(skipna=False)
    keys = [Key._make(key) for key in means.index]
    spreads = rows[metrics].std(ddof=1, skipna=False).to_dict("records")
    firsts = rows[["parameters", "published"]].first().to_dict("list")
    texts = rows[["missing", "unpaired", "warning", "machine"]].agg(_together).to_dict("list")
    sizes, jobs = rows.size().tolist(), rows["job"].agg(tuple).tolist()
    chosen = ((key, foremost(reported)[1]) for key, reported in zip(keys, firsts["published"], strict=True))
    sure = gains(frame, {key: gain for key, gain in chosen if gain is not None})
    lines = []
    for number, (key, mean) in enumerate(zip(keys, means.to_dict("records"), strict=True)):
        known = {name: Mean(mean[name], spreads[number][name]) for name in metrics}
        nothing = {metric: Gain(known[gain_column(metric)]) for metric in HEADLINE_METRICS}
        own = {metric: replace(gain, mean=nothing[metric].mean) for metric, gain in sure.get(key, nothing).items()}
        lines.append(
            Line(
                key=key,
                metrics={name: known[name] for name in (*HEADLINE_METRICS, *ERRORS, *MASKS)},
                gains=own,
                scenes=own["NDS"].scenes,
                seeds=sizes[number],
                parameters=firsts["parameters"][number],
                published=firsts["published"][number],
                missing=texts["missing"][number],
                unpaired=texts["unpaired"][number],
                warning=texts["warning"][number],
                machine=texts["machine"][number],
                jobs=jobs[number],
            )
        )
    return lines
