"""Run folders to tidy frames: a row a training of the study, with its metrics, its gain and its costs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from harness.diagnose.kept import kept_model
from harness.diagnose.latency import Latency
from harness.evaluate.intervals import Estimate, difference, read_draws
from harness.store import Result, RunFolder
from harness.study.papers import SIGNS, Paper
from harness.study.plan import Plan, Row
from harness.study.spec import WARM_START
from harness.tracking.study import Arm

POINTS = ("mAP", "NDS")
"""Shown in points, 100 times the fraction, as the papers do."""
ERRORS = ("mATE", "mASE", "mAOE", "mAVE", "mAAE")
MASKS = ("mask_AP", "mask_AP50")
"""Of an image teacher, in points."""
GAINS = tuple(f"gain_{metric}" for metric in POINTS)
KEYS = ("role", "model", "path", "arm", "losses", "split")
"""Rows that agree in these differ in the seed alone."""


def results_frame(plan: Plan, runs: Path, papers: Sequence[Paper] = ()) -> pd.DataFrame:
    """One row for each row of the plan.

    Columns: KEYS (split is empty for the evaluation split), seed, job, missing (why there is no result, else empty),
    parameters, mAP and NDS in points, the five errors, mask_AP and mask_AP50 (of an image teacher, in points), gain_mAP
    and gain_NDS in points over the baseline of the same student and seed, paper, paper_mAP and paper_NDS (the gain that
    it reports for such a path and such losses) with paper_mark, unpaired (why there is no gain although both have
    results, else empty), warning (what is doubtful about the training, else empty), machine (device kind, torch version
    and threads), and gain_draws (mAP and NDS of the gain in draws of scenes and the number of scenes, or None).
    """
    found = {id_: RunFolder(runs / id_).result() for id_ in plan.jobs}
    return pd.DataFrame([_record(row, plan, found, runs, papers) for row in plan.rows])


def _record(
    row: Row, plan: Plan, found: dict[str, Result | None], runs: Path, papers: Sequence[Paper]
) -> dict[str, object]:
    result = found[row.job]
    baseline = found[row.baseline] if row.baseline and row.role in ("student", "control") else None
    unpaired = ""
    if result is not None and baseline is not None:
        unpaired = why_unpaired(row, plan, found)
        baseline = None if unpaired else baseline
    record: dict[str, object] = {
        "role": row.role,
        "model": row.model,
        "path": row.path,
        "arm": row.arm,
        "losses": " + ".join(row.losses),
        "split": row.split,
        "seed": row.seed,
        "job": row.job,
        "missing": _missing(row, result, runs),
        "unpaired": unpaired,
        "warning": "; ".join(f"loss {name!r}: {text}" for name, text in result.warnings.items()) if result else "",
        "parameters": result.parameters if result else float("nan"),
        "machine": _machine(result) if result else "",
    }
    for metric in (*POINTS, *ERRORS):
        scale = 100 if metric in POINTS else 1
        record[metric] = result.metrics.get(metric, float("nan")) * scale if result else float("nan")
    for metric in MASKS:
        record[metric] = (
            100 * result.metrics.get(metric.removeprefix("mask_"), float("nan")) if result else float("nan")
        )
    for metric in POINTS:
        record[f"gain_{metric}"] = float("nan")
        if result is not None and baseline is not None:
            record[f"gain_{metric}"] = 100 * (result.metrics[metric] - baseline.metrics[metric])
    record["gain_draws"] = _gain_draws(row, runs) if result is not None and baseline is not None else None
    losses = frozenset(row.losses) - {WARM_START}
    gains = ((paper.name, paper.gain(row.published_as, losses)) for paper in papers)
    name, published = next(((name, gain) for name, gain in gains if gain is not None), ("", None))
    record["paper"] = name
    record["paper_mAP"] = published.mAP if published else float("nan")
    record["paper_NDS"] = published.NDS if published else float("nan")
    record["paper_mark"] = SIGNS[published.mark] if published else ""
    return record


def _gain_draws(row: Row, runs: Path) -> tuple[dict[str, np.ndarray], int] | None:
    """The gain in points, draw by draw, and the number of scenes; None where one of the two has no draws."""
    student, baseline = (read_draws(RunFolder(runs / id_).draws) for id_ in (row.job, str(row.baseline)))
    if student is None or baseline is None:
        return None
    gain = difference(student[0], baseline[0])
    return {metric: 100 * gain[metric] for metric in POINTS}, student[1]


def _missing(row: Row, result: Result | None, runs: Path) -> str:
    if result is not None:
        return ""
    failure = RunFolder(runs / row.job).failure()
    return f"failed: {failure[0].splitlines()[0]}" if failure else "not run"


def why_unpaired(row: Row, plan: Plan, found: dict[str, Result | None]) -> str:
    """Why a row must not be held against its baseline; empty where it may, or where they do not say how they began."""
    return _unpaired(*(_began(id_, plan, found) for id_ in (row.job, str(row.baseline))))


def _began(id_: str, plan: Plan, found: dict[str, Result | None]) -> dict[str, str]:
    """What the training of a job's detector began with; of a detector that is scored again, what that one did."""
    result = found[plan.detector_spec(id_).model_of or id_]
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


def cost_frame(plan: Plan, runs: Path) -> pd.DataFrame:
    """What each training of the plan cost, those that differ only in seed on one row, in means over the finished ones.

    Columns: role, model, path, arm, seeds (finished), and COSTS: parameters of the detector, median milliseconds from a
    sample to its boxes (NaN where that was not measured) and of a step of the training, minutes of wall and of
    processor time for training and scoring, and the largest memory of any seed in MB.
    """
    rows = []
    for row in plan.rows:
        folder = RunFolder(runs / row.job)
        result, latency = folder.result(), kept_model(folder.latency, Latency)
        if row.split or result is None or not plan.jobs[row.job].spec.steps:
            continue
        rows.append(
            {
                "role": row.role,
                "model": row.model,
                "path": row.path,
                "arm": row.arm,
                "seeds": row.seed,
                "parameters": result.parameters,
                "latency_ms": latency.milliseconds if latency else float("nan"),
                "step_ms": 1000 * pd.Series([line["seconds"] for line in folder.steps()]).median(),
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


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows that differ only in seed become one: mean, ``*_std`` over seeds (NaN for one), and their number.

    Gains have their 95 % interval over scenes in ``*_low`` and ``*_high``.
    """
    metrics = [*POINTS, *ERRORS, *MASKS, *GAINS]
    groups = frame.groupby(list(KEYS), sort=False)
    # A mean over fewer seeds than were asked for would pass for the whole: one NaN makes the cell NaN.
    means = groups[metrics].mean(skipna=False)
    spread = groups[metrics].std(ddof=1, skipna=False).add_suffix("_std")
    same = groups[["parameters", "paper", "paper_mAP", "paper_NDS", "paper_mark"]].first()
    said = groups[["missing", "unpaired", "warning", "machine"]].agg(_together)
    intervals = groups["gain_draws"].agg(list).map(_over_scenes)
    scenes = pd.DataFrame(intervals.tolist(), index=intervals.index)
    return means.join(spread).join(scenes).join(groups.size().rename("seeds")).join(same).join(said).reset_index()


def arms(summary: pd.DataFrame) -> list[Arm]:
    """The lines of a summary for who compares them elsewhere: metrics with ``_std`` over seeds, gains with ``_low`` and
    ``_high``, all as fractions again, and the number of seeds."""
    points = [column for column in summary.columns if column.startswith((*POINTS, *MASKS, *GAINS))]
    shown = [*points, *(error + end for error in ERRORS for end in ("", "_std")), "seeds", "parameters"]
    fractions = summary.assign(**{column: summary[column] / 100 for column in points})
    return [
        Arm(
            **{key: line[key] for key in ("role", "model", "path", "arm", "split", "missing")},
            metrics={column: float(line[column]) for column in shown},
        )
        for line in fractions.to_dict("records")
    ]


def _over_scenes(draws: list[tuple[dict[str, np.ndarray], int] | None]) -> dict[str, float]:
    """The 95 % interval over scenes of the mean gain of some seeds: a draw has the same scenes for all of them."""
    known = [pair for pair in draws if pair is not None]
    whole = len(known) == len(draws)
    found: dict[str, float] = {}
    for metric in POINTS:
        mean = np.mean([values[metric] for values, _ in known], axis=0) if whole else np.full(1, np.nan)
        interval = Estimate.of(mean, known[0][1] if whole else 0)
        found |= {f"gain_{metric}_low": interval.low, f"gain_{metric}_high": interval.high}
    return found
