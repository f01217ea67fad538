"""Run folders to one tidy frame: a row a training of the study, with its metrics and its gain over the baseline."""

from pathlib import Path

import pandas as pd

from harness.store import RunFolder
from harness.study.plan import Plan

POINTS = ("mAP", "NDS")
"""Shown in points, 100 times the fraction, as the papers do."""
ERRORS = ("mATE", "mASE", "mAOE", "mAVE", "mAAE")
GAINS = tuple(f"gain_{metric}" for metric in POINTS)


def results_frame(plan: Plan, runs: Path) -> pd.DataFrame:
    """One row for each row of the plan.

    Columns: role, model, path, arm, losses, split (empty for the evaluation split), seed, job, missing (why there is no
    result, else empty), mAP and NDS in points, the five errors, gain_mAP and gain_NDS in points over the baseline of
    the same student and seed.
    """
    found = {id_: RunFolder(runs / id_).result() for id_ in plan.jobs}
    rows = []
    for row in plan.rows:
        result = found[row.job]
        baseline = found[row.baseline] if row.baseline and row.role == "student" else None
        failure = RunFolder(runs / row.job).failure()
        record: dict[str, object] = {
            "role": row.role,
            "model": row.model,
            "path": row.path,
            "arm": row.arm,
            "losses": " + ".join(row.losses),
            "split": row.split,
            "seed": row.seed,
            "job": row.job,
            "missing": "" if result else f"failed: {failure[0].splitlines()[0]}" if failure else "not run",
        }
        for metric in (*POINTS, *ERRORS):
            scale = 100 if metric in POINTS else 1
            record[metric] = result.metrics[metric] * scale if result else float("nan")
        for metric in POINTS:
            known = result is not None and baseline is not None
            gain = 100 * (result.metrics[metric] - baseline.metrics[metric]) if known else float("nan")  # type: ignore[union-attr]
            record[f"gain_{metric}"] = gain
        rows.append(record)
    return pd.DataFrame(rows)


COSTS = ("parameters", "step_ms", "minutes", "cpu_minutes", "peak_memory_mb")


def cost_frame(plan: Plan, runs: Path) -> pd.DataFrame:
    """What each training of the plan cost, those that differ only in seed on one row, in means over the finished ones.

    Columns: role, model, path, arm, seeds (finished), and COSTS: parameters of the detector, median milliseconds of a
    step, minutes of wall and of processor time for training and scoring, and the largest memory of any seed in MB.
    """
    rows = []
    for row in plan.rows:
        folder = RunFolder(runs / row.job)
        result = folder.result()
        if row.split or result is None or plan.jobs[row.job].spec.schedule is None:
            continue
        rows.append(
            {
                "role": row.role,
                "model": row.model,
                "path": row.path,
                "arm": row.arm,
                "seeds": row.seed,
                "parameters": result.parameters,
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


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows that differ only in seed become one: mean, ``*_std`` over seeds (NaN for one), and their number."""
    keys = ["role", "model", "path", "arm", "losses", "split"]
    metrics = [*POINTS, *ERRORS, *GAINS]
    groups = frame.groupby(keys, sort=False)
    missing = groups["missing"].agg(lambda reasons: "; ".join(sorted({r for r in reasons if r})))
    # A mean over fewer seeds than were asked for would pass for the whole: one NaN makes the cell NaN.
    means = groups[metrics].mean(skipna=False)
    spread = groups[metrics].std(ddof=1, skipna=False).add_suffix("_std")
    return means.join(spread).join(groups.size().rename("seeds")).join(missing).reset_index()
