"""Collects the diagnostics of arms in tables: trainings, errors and BEV maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.diagnose.history import UNKNOWN, History
from harness.evaluate.intervals import CLASSES, COSTS, Analysis, Estimate
from harness.evidence.line import by_key
from harness.evidence.results import why_unpaired
from harness.evidence.runs import StudyRuns
from harness.study.plan import Plan, Row

if TYPE_CHECKING:
    import pandas as pd

Arms = Mapping[tuple[str, str], Sequence[Row]]
"""Rows that differ in the seed alone, by path and arm."""
GROUPS = (COSTS, CLASSES, "distance")
"""The groups of an analysis that are shown: AP lost to kinds of errors, AP by class, AP by distance."""
TERMS = ("path", "arm", "seed", "term", "step", "share", "cosine")
PROGRESS = ("path", "arm", "step", "gain", "gain_std")
ALIGNMENT = ("path", "arm", "seed", "level", "region", "baseline", "student")
BREAKDOWN = ("path", "arm", "group", "name", "baseline", "student", "difference", "low", "high")


@dataclass(frozen=True)
class Records:
    """A table; a data frame only where it is drawn, as pandas takes half a second to import."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def column(self, name: str) -> list[Any]:
        """The values of a column."""
        at = self.columns.index(name)
        return [row[at] for row in self.rows]

    def only(self, name: str, value: str) -> "Records":
        """The rows with this value in a column."""
        return Records(
            self.columns, [row for row, here in zip(self.rows, self.column(name), strict=True) if here == value]
        )

    @property
    def frame(self) -> "pd.DataFrame":
        """The same as a data frame."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=self.columns)


def student_arms(plan: Plan) -> dict[tuple[str, str], list[Row]]:
    """The arms of all students, on the evaluation split."""
    students = [row for row in plan.rows if row.role == "student" and not row.split]
    return {(rows[0].path, rows[0].arm): rows for rows in by_key(students, lambda row: (row.path, row.arm))}


def terms_records(runs: StudyRuns, arms: Arms) -> Records:
    """How much of the loss each term is over a training, and whether it pulls where the detection loss does.

    Columns: TERMS; step is the middle of a part of the training, share the mean of the weighted term over the whole
    loss, cosine the mean cosine of its gradient to the detection loss's on the weights of the layer that makes the
    low-level map (NaN where the term has none, as the detection terms themselves). A row for each finished training,
    term and part.
    """
    records = []
    for arm, rows in arms.items():
        for row in rows:
            history = runs[row.job].history
            if history is None:
                continue
            for term in history.terms:
                share = history.means[f"share/{term}"]
                cosine = history.means.get(f"weight_cosine/{term}", np.full(len(share), np.nan))
                records += [
                    (*arm, row.seed, term, *each) for each in zip(_middles(history), share, cosine, strict=True)
                ]
    return Records(TERMS, records)


def progress_records(runs: StudyRuns, arms: Arms) -> Records:
    """By how much distilled students are ahead of their baselines, over the training: in what both have, its loss.

    That is the detection loss (heatmaps and boxes, weighted as the detector's head says), of the same batches at the
    same steps. Columns: PROGRESS; step is the middle of a part of the training, gain the baseline's loss less the
    student's (mean over the seeds), gain_std its standard deviation over the seeds (NaN of one). A row for each arm and
    part; an arm without all its seeds, or one whose batches are not its baseline's, has none.
    """
    records = []
    for arm, rows in arms.items():
        pairs = [_gain(row, runs) for row in rows]
        known = [pair for pair in pairs if pair is not None]
        if len(known) < len(pairs) or len({steps.tobytes() for steps, _ in known}) > 1:
            continue
        gain = np.array([each for _, each in known])
        spread = gain.std(axis=0, ddof=1) if len(gain) > 1 else np.full(gain.shape[1], np.nan)
        records += [(*arm, *each) for each in zip(known[0][0], gain.mean(axis=0), spread, strict=True)]
    return Records(PROGRESS, records)


def alignment_records(runs: StudyRuns, arms: Arms) -> Records:
    """How like its teacher's a student's BEV maps are, and how like them its baseline's are.

    Columns: ALIGNMENT; level is low or high, region foreground or background, baseline and student are linear CKA with
    the teacher, in [0, 1]; NaN where it is not known. A row for each student that has a detector for a teacher and was
    examined, level and region.
    """
    records = []
    for arm, rows in arms.items():
        for row in rows:
            teacher = str(runs.plan.detector_spec(row.job).teacher)
            alignment, before = (runs[id_].alignments.get(teacher) for id_ in (row.job, str(row.baseline)))
            if runs[row.job].result is None or alignment is None:
                continue
            for level, regions in alignment.cka.items():
                for region, value in regions.items():
                    untaught = before.cka[level][region] if before else None
                    records.append((*arm, row.seed, level, region, _known(untaught), _known(value)))
    return Records(ALIGNMENT, records)


def breakdown_records(runs: StudyRuns, arms: Arms) -> Records:
    """What errors cost, AP by class and AP by distance, of arms and of their baselines, and the paired difference.

    Columns: BREAKDOWN; group is of GROUPS, name a kind of error, a class or a band; baseline, student and difference
    are points, means over the seeds; low and high the difference's 95 % interval over scenes, seeds averaged draw by
    draw (NaN with too few scenes). An arm of which a seed is not examined, or did not begin as its baseline did, has
    no row.
    """
    records = []
    for arm, rows in arms.items():
        pairs = [_analyses(row, runs) for row in rows]
        known = [pair for pair in pairs if pair is not None]
        # Other draws, of another version, cannot be paired.
        draws = {len(drawn) for pair in known for each in pair for drawn in each.groups[COSTS].values()}
        if len(known) < len(pairs) or len(draws) > 1:
            continue
        first = known[0][0]
        for group in GROUPS:
            for name in first.groups[group]:
                student, baseline = (
                    100 * np.mean([pair[part].groups[group][name] for pair in known], axis=0) for part in (0, 1)
                )
                count = first.counts.get(group, {}).get(name)
                gap = Estimate.of(student - baseline, count.scenes if count else first.scenes)
                records.append((*arm, group, name, baseline[0], student[0], gap.value, gap.low, gap.high))
    return Records(BREAKDOWN, records)


def unexamined(runs: StudyRuns) -> dict[str, tuple[list[str], int]]:
    """The jobs that lack a file of the diagnostics, as their labels, and how many could have it; by its content.

    Only finished jobs count, and of the maps' similarity only students whose teacher is a detector on the same grid.
    """
    rows = [row for row in runs.plan.rows if row.role == "student" and not row.split and runs[row.job].result]
    compared = dict.fromkeys(id_ for row in rows for id_ in (str(row.baseline), row.job) if runs[id_].result)
    taught = {row.job: runs.plan.detector_spec(row.job).compared_with for row in rows}
    pairs = [(id_, teacher) for id_, teacher in taught.items() if teacher and runs[teacher].result]
    alone = [runs[id_].job.label for id_ in compared if not runs[id_].folder.analysis.is_file()]
    beside = [runs[id_].job.label for id_, teacher in pairs if not runs[id_].folder.alignment(teacher).is_file()]
    return {
        "AP by kind of error, class and distance": (alone, len(compared)),
        "similarity of BEV maps to the teacher's, which no training measures": (beside, len(pairs)),
    }


def _known(value: float | None) -> float:
    return float("nan") if value is None else value


def _middles(history: History) -> np.ndarray:
    return (history.ends[:-1] + history.ends[1:] - 1) / 2


def _gain(row: Row, runs: StudyRuns) -> tuple[np.ndarray, np.ndarray] | None:
    """Middles of parts, and how far a student is ahead there; None where the two cannot be compared."""
    baseline, student = (runs[str(id_)].history for id_ in (row.baseline, row.job))
    if baseline is None or student is None or not np.array_equal(baseline.ends, student.ends):
        return None
    weights = runs.plan.detector_spec(row.job).detector.loss_weights
    if any(f"raw/{name}" not in each.means for each in (baseline, student) for name in weights):
        return None
    named = (baseline.batches != UNKNOWN) & (student.batches != UNKNOWN)
    if (baseline.batches != student.batches)[named].any():
        return None
    # Not the weighted terms: a student that learns from its teacher's boxes instead has its own at weight 0.
    losses = [
        np.sum([weight * each.means[f"raw/{name}"] for name, weight in weights.items()], axis=0)
        for each in (baseline, student)
    ]
    return _middles(student), losses[0] - losses[1]


def _analyses(row: Row, runs: StudyRuns) -> tuple[Analysis, Analysis] | None:
    """The analyses of a row and of its baseline; None where they are not known or must not be subtracted."""
    student, baseline = runs[row.job].analysis, runs[str(row.baseline)].analysis
    return None if why_unpaired(row, runs) or student is None or baseline is None else (student, baseline)
