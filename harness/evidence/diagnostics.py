"""Diagnostics beside the gain: what runs have kept of their trainings, errors, maps and speed, as tidy frames."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from distill.objective import DETECTION_TERMS
from harness.diagnose.history import PLACES, UNKNOWN, History
from harness.evaluate.intervals import CLASSES, COSTS, Analysis, Estimate
from harness.evidence.results import why_unpaired
from harness.evidence.runs import StudyRuns
from harness.study.plan import Plan, Row

KEYS = ("role", "model", "path", "arm")
"""Of a line of the table; rows that agree in these differ in the seed alone."""
GROUPS = (COSTS, CLASSES, "distance")
"""Of `harness.evaluate.intervals`: what kinds of errors cost, AP by class, AP by distance."""
TERMS = ("seed", "term", "bin", "step", "share", *(f"{place}_cosine" for place in PLACES))
PROGRESS = ("bin", "step", "seeds", "baseline", "student", "gain", "gain_std")
ALIGNMENT = ("seed", "level", "region", "baseline", "student", "cells", "samples")
_ABOUT = ("annotations", "scenes")
BREAKDOWN = ("split", "seeds", "group", "name", "baseline", "student", "difference", "low", "high", *_ABOUT)


def terms_frame(runs: StudyRuns) -> pd.DataFrame:
    """How much of the loss each term is over a training, and whether it pulls where the detection loss does.

    Columns: KEYS, seed, term, bin (from 0), step (the middle of the bin), share (mean of the weighted term over the
    whole loss), map_cosine and weight_cosine (mean cosine of its gradient to the detection loss's, on the low-level
    map and on the layer that makes it; NaN where the term has none, as the detection terms themselves). A row for each
    finished training of a detector, term and bin.
    """
    records = []
    for row in runs.plan.rows:
        history = _history(row, runs)
        if history is None:
            continue
        for term in history.terms:
            columns = [history.means.get(name) for name in (f"share/{term}", *(f"{p}_cosine/{term}" for p in PLACES))]
            for bin_, step in enumerate(_middles(history)):
                values = (np.nan if column is None else float(column[bin_]) for column in columns)
                records.append((*_key(row), row.seed, term, bin_, step, *values))
    return pd.DataFrame(records, columns=[*KEYS, *TERMS])


def progress_frame(runs: StudyRuns) -> pd.DataFrame:
    """By how much distilled students are ahead of their baselines, over the training: in what both have, its loss.

    That is the detection loss (heatmaps and boxes, weighted as the detector's head says), of the same batches at the
    same steps. Columns: KEYS, bin, step (the middle of the bin), seeds, baseline and student (mean loss), gain (the
    baseline's less the student's, mean over the seeds) and gain_std (over the seeds; NaN of one). A row for each arm
    and bin; an arm without all its seeds, or one whose batches are not its baseline's, has none.
    """
    records: list[tuple] = []
    for rows in _arms(runs.plan, ("student",)):
        pairs = [_losses(row, runs) for row in rows]
        known = [pair for pair in pairs if pair is not None]
        if len(known) < len(pairs) or len({steps.tobytes() for steps, _, _ in known}) > 1:
            continue
        steps, baseline, student = (np.array([pair[part] for pair in known]) for part in range(3))
        gain = baseline - student
        spread = gain.std(axis=0, ddof=1) if len(gain) > 1 else np.full(gain.shape[1], np.nan)
        columns = (steps[0], baseline.mean(axis=0), student.mean(axis=0), gain.mean(axis=0), spread)
        for bin_, (step, *values) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            records.append((*_key(rows[0]), bin_, step, len(rows), *values))
    return pd.DataFrame(records, columns=[*KEYS, *PROGRESS])


def alignment_frame(runs: StudyRuns) -> pd.DataFrame:
    """How like its teacher's a student's BEV maps are, and how like them its baseline's are.

    Columns: KEYS, seed, level (low or high), region (foreground or background), baseline and student (linear CKA with
    the teacher, in [0, 1]; NaN where it is not known), cells and samples (that were compared). A row for each student
    that has a detector for a teacher and was examined, level and region.
    """
    records = []
    for row in runs.plan.rows:
        teacher = runs.plan.detector_spec(row.job).teacher if row.role == "student" and not row.split else None
        if teacher is None or runs[row.job].result is None:
            continue
        alignment = runs[row.job].alignments.get(teacher)
        before = runs[row.baseline].alignments.get(teacher) if row.baseline else None
        if alignment is None:
            continue
        for level, regions in alignment.cka.items():
            for region, value in regions.items():
                reference = before.cka[level][region] if before else None
                values = (np.nan if each is None else each for each in (reference, value))
                records.append(
                    (*_key(row), row.seed, level, region, *values, alignment.cells[region], alignment.samples)
                )
    return pd.DataFrame(records, columns=[*KEYS, *ALIGNMENT])


def breakdown_frame(runs: StudyRuns) -> pd.DataFrame:
    """What errors cost, AP by class and AP by distance, of arms and of their baselines, and the paired difference.

    Columns: KEYS, split (empty for the evaluation split), seeds, group (of GROUPS), name (a kind of error, a class, a
    band), baseline, student and difference (points; means over the seeds), low and high (the difference's 95 % interval
    over scenes, seeds averaged draw by draw; NaN with too few scenes), annotations and scenes (that have any; of errors
    NaN and all). A row for each student's and control's arm and number; an arm of which a seed is not examined, or did
    not begin as its baseline did, has none.
    """
    records: list[tuple] = []
    for rows in _arms(runs.plan, ("student", "control"), splits=True):
        pairs = [_analyses(row, runs) for row in rows]
        known = [pair for pair in pairs if pair is not None]
        if len(known) < len(pairs):
            continue
        first = known[0][0]
        if len({len(drawn) for pair in known for each in pair for drawn in each.groups[COSTS].values()}) > 1:
            continue  # other draws, of another version: nothing can be paired
        for group in GROUPS:
            for name in first.groups[group]:
                numbers = [[each.groups[group][name] for each in pair] for pair in known]
                student, baseline = 100 * np.mean(numbers, axis=0)
                count = first.counts.get(group, {}).get(name)
                scenes = count.scenes if count else first.scenes
                gap = Estimate.of(student - baseline, scenes)
                values = (float(baseline[0]), float(student[0]), gap.value, gap.low, gap.high)
                about = (count.annotations if count else np.nan, scenes)
                records.append((*_key(rows[0]), rows[0].split, len(rows), group, name, *values, *about))
    return pd.DataFrame(records, columns=[*KEYS, *BREAKDOWN])


def _key(row: Row) -> tuple[str, ...]:
    return row.role, row.model, row.path, row.arm


def _arms(plan: Plan, roles: Sequence[str], splits: bool = False) -> Iterator[list[Row]]:
    """Rows that differ in the seed alone, together."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in plan.rows:
        if row.role in roles and (splits or not row.split):
            groups.setdefault((*_key(row), row.split), []).append(row)
    yield from groups.values()


def _history(row: Row, runs: StudyRuns) -> History | None:
    """The history of a row's finished training of a detector."""
    if row.split or row.role == "image teacher" or not runs.plan.detector_spec(row.job).steps:
        return None
    return runs[row.job].history


def _middles(history: History) -> np.ndarray:
    return (history.ends[:-1] + history.ends[1:] - 1) / 2


def _losses(row: Row, runs: StudyRuns) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Middles of bins, the baseline's and the student's detection loss there; None where they cannot be compared."""
    both = [runs[id_].history for id_ in (row.baseline, row.job) if id_]
    histories = [each for each in both if each is not None]
    if len(histories) < 2:
        return None
    baseline, student = histories
    if not np.array_equal(baseline.ends, student.ends):
        return None
    if any(f"raw/{name}" not in each.means for each in histories for name in DETECTION_TERMS):
        return None
    named = (baseline.batches != UNKNOWN) & (student.batches != UNKNOWN)
    if (baseline.batches != student.batches)[named].any():
        return None
    head = runs.plan.detector_spec(row.job).detector.head
    weights = dict(zip(DETECTION_TERMS, (head.heatmap_weight, head.box_weight), strict=True))
    # Not the weighted terms: a student that learns from its teacher's boxes instead has its own at weight 0.
    losses = [np.sum([w * each.means[f"raw/{name}"] for name, w in weights.items()], axis=0) for each in histories]
    return _middles(student), losses[0], losses[1]


def _analyses(row: Row, runs: StudyRuns) -> tuple[Analysis, Analysis] | None:
    """The analyses of a row and of its baseline; None where they are not known or must not be subtracted."""
    if row.baseline is None or why_unpaired(row, runs):
        return None
    student, baseline = runs[row.job].analysis, runs[row.baseline].analysis
    return None if student is None or baseline is None else (student, baseline)
