"""What the page of a study says, and in which order: summary, what is sure, why, what it cost, how it was made."""

import math
from collections.abc import Sequence
from pathlib import Path

from harness.evaluate.intervals import CLASSES, COSTS
from harness.evidence.diagnostics import alignment_frame, breakdown_frame, progress_frame, student_arms, terms_frame
from harness.evidence.effects import Ascribed
from harness.evidence.line import HEADLINE_METRICS, Line
from harness.evidence.runs import StudyRuns
from harness.opened import Opened
from harness.report.figures import forest, interaction
from harness.report.figures_diagnostics import (
    alignment_figure,
    breakdown_figure,
    cosines_figure,
    progress_figure,
    terms_figure,
)
from harness.report.html import Page, Section
from harness.report.pictures import Pictures
from harness.report.plan_graph import nodes, plan_graph
from harness.report.render import Table
from harness.report.samples import FILE as PICTURES
from harness.report.samples import samples, trio
from harness.report.tables import interval_text
from harness.runs.folder import atomic_write
from harness.study.spec import StudySpec


def document(
    opened: Opened,
    runs: StudyRuns,
    lines: Sequence[Line],
    ascribed: Sequence[Ascribed],
    tables: dict[str, Table],
    out: Path,
    command: str,
) -> Page:
    """The page, its figures written as files, too.

    Args:
        opened: What it is about.
        runs: Of its plan.
        lines: Summary of the results.
        ascribed: What the gains are due to.
        tables: By name.
        out: Folder of the report.
        command: That makes all of it again.
    """
    pictures = Pictures(out / "figures")
    published = [table for name, table in tables.items() if name.startswith("published")]
    gains = [line for line in lines if not line.key.split and not math.isnan(line.gains["NDS"].mean.value)]
    sections = [Section("Results", [tables["results"]])]
    if gains:
        pictures.add(
            "forest",
            "Gains over the baseline, with 95 % intervals",
            f"{len(gains)} arms in mAP and NDS; the numbers are those of the table above",
            forest,
            gains,
            notes=["Filled: the interval excludes 0. Hollow diamond: what a paper reports on nuScenes."],
        )
        certain = [tables["verdicts"]] if "verdicts" in tables else []
        sections.append(Section("What is sure", certain, pictures.taken()))
    if "attribution" in tables:
        mains = [each for each in ascribed if each.metric == "NDS" and each.part.kind == "main effect"]
        for path in dict.fromkeys(each.path for each in mains):
            means = _means_by_set(lines, opened.study, path)
            factors = [each.part.what[0] for each in mains if each.path == path]
            pictures.add(
                f"interaction-{len(pictures)}",
                f"{path}: what one loss does with and without another",
                f"NDS of {len(means)} sets of losses; the numbers are in the table above",
                interaction,
                factors,
                means,
                "NDS (points)",
                notes=["Parallel lines: the two do not interact."],
            )
        sections.append(Section("What it is due to", [tables["attribution"]], pictures.taken()))
    sections += _diagnostics(runs, lines, pictures)
    if published:
        sections.append(Section("What papers report", published))
    pictures.add(
        "plan",
        "The plan: what teaches what",
        f"Graph of {len(opened.plan.jobs)} trainings; all of them are listed below",
        plan_graph,
        nodes(opened.plan),
        {id_: run.state for id_, run in runs.items()},
        notes=["A box is a training, or several that differ in the seed alone; lines lead from teacher to student."],
    )
    sections.append(Section("Cost and plan", [tables["cost"]], pictures.taken()))
    if opened.stored_tables and (opened.stored_tables / PICTURES).is_file():
        atomic_write(out / PICTURES, (opened.stored_tables / PICTURES).read_bytes())
    seen = samples(opened.root, opened.study, runs, trio(runs), out)
    note = "The figures are in the folder figures beside this page, too, as SVG and PDF."
    sentences = headlines(lines, opened.study)
    return Page(opened.name, opened.question, sentences, sections, runs, seen, command, (note,))


SHOWN = 4
"""Arms of which diagnostics are drawn: more are neither read nor told apart."""


def _diagnostics(runs: StudyRuns, lines: Sequence[Line], pictures: Pictures) -> list[Section]:
    """What stands beside the gain, as far as the runs have kept it (docs/diagnostics.md)."""
    students = [line for line in lines if line.key.role == "student" and not line.key.split]
    chosen = {(line.key.path, line.key.arm) for line in sorted(students, key=_smallness)[:SHOWN]}
    arms = {arm: rows for arm, rows in student_arms(runs.plan).items() if arm in chosen}
    terms, progress, alignment, breakdown = (
        frame(runs, arms) for frame in (terms_frame, progress_frame, alignment_frame, breakdown_frame)
    )
    for name, title, alt, note, draw, frame in (
        (
            "progress",
            "Gain over the training, as detection loss",
            "Curves of the baseline's detection loss less the student's, of the same batches",
            "Above 0: the student is ahead of its baseline on what both are trained on, which is no score.",
            progress_figure,
            progress,
        ),
        ("terms", "Share of each term in the loss", "Stacked shares over the training", "", terms_figure, terms),
        (
            "cosines",
            "Whether a loss pulls where the detection loss does",
            "Cosines between the gradient of each term and that of the detection loss, over the training",
            "1: the same direction; 0: nothing in common; below 0: against it.",
            cosines_figure,
            terms if terms["cosine"].notna().any() else terms[:0],
        ),
        (
            "alignment",
            "Likeness of student and baseline to the teacher's maps",
            "Bars of linear CKA, in the foreground and in the background, of both maps",
            "Linear CKA: 1 for maps that agree up to rotation and scale, 0 for nothing in common.",
            alignment_figure,
            alignment,
        ),
    ):
        if len(frame):
            pictures.add(name, title, alt, draw, frame, notes=[note] if note else [])
    for name, group, title, head in (
        ("errors", COSTS, "What errors cost, before and after", "What errors cost, in points of AP at 2 m (TIDE)"),
        ("classes", CLASSES, "AP by class, before and after", "AP by class, in points"),
        ("distances", "distance", "AP by distance, before and after", "AP at 2 m by distance from the car, in points"),
    ):
        part = breakdown[breakdown["group"] == group]
        if len(part):
            alone = (
                "Intervals are over scenes alone, of these trainings; those in bold exclude 0, each looked at alone."
            )
            alt = f"{title}: baseline and arms, in points"
            pictures.add(name, title, alt, breakdown_figure, part, head, notes=[alone])
    shown = pictures.taken()
    words = [f"{text}." for text in runs.unreadable]
    if not shown and not words:
        return []
    if len(students) > SHOWN:
        words.append(f"Of the {len(students)} arms, the {SHOWN} whose NDS differs most from the baseline's.")
    if breakdown.empty or alignment.empty:
        words.append("Runs that were never examined lack a part of this; harness.report --examine adds it.")
    return [Section("Why: beside the gain", (), shown, words)]


def _smallness(line: Line) -> float:
    """Order by the size of the gain, the largest first and what has none last."""
    gain = line.gains["NDS"].mean.value
    return math.inf if math.isnan(gain) else -abs(gain)


def _means_by_set(lines: Sequence[Line], study: StudySpec, path: str) -> dict[tuple[str, ...], float]:
    """NDS of every set of losses on a path, each in one order, the baseline's of the empty one."""
    student = study.ends(path).student
    means = {}
    for line in lines:
        key, mean = line.key, line.metrics["NDS"].value
        if key.split or line.missing:
            continue
        if key.role == "student" and key.path == path:
            means[tuple(sorted(study.arms[key.arm]))] = mean
        elif key.role == "baseline" and key.model == student:
            means[()] = mean
    return means


def headlines(lines: Sequence[Line], study: StudySpec) -> list[str]:
    """What a reader in a hurry leaves with; sentences that follow from the table and nothing else."""
    shown = [line for line in lines if not line.key.split and not math.isnan(line.gains["NDS"].low)]
    missing = sum(line.missing != "" for line in lines)
    sentences = [f"{missing} of {len(lines)} rows have no result yet."] if missing else []
    if not shown:
        return sentences
    best = max(shown, key=lambda line: line.gains["NDS"].mean.value)
    gains = ", ".join(
        f"{gain.mean.value:+.1f} {metric} {interval_text(gain.low, gain.high)}".rstrip()
        for metric, gain in best.gains.items()
    )
    sentences.append(f"Most NDS gains {best.name}: {gains}.")
    known = [line.gains[metric] for line in shown for metric in HEADLINE_METRICS]
    verdicts = [gain.verdict for gain in known if gain.verdict]
    counted = {side: sum(verdict.partition(",")[0] == side for verdict in verdicts) for side in ("higher", "lower")}
    if len(study.seeds) > 1:
        sure = {side: sum(verdict == side for verdict in verdicts) for side in counted}
        sentences.append(
            f"Of {len(verdicts)} gains, {sure['higher']} are higher and {sure['lower']} lower than 0 after all of them "
            f"were looked at; {sum(counted.values()) - sum(sure.values())} more would be, looked at alone."
        )
        for model in dict.fromkeys(line.key.model for line in shown):
            first = next(line for line in shown if line.key.model == model)
            seen = {metric: gain.detectable for metric, gain in first.gains.items()}
            smallest = ", ".join(f"{gain:.1f} {metric}" for metric, gain in seen.items() if not math.isnan(gain))
            sentences.append(f"The smallest gain of the {model} that this study could have seen: {smallest}.")
    else:
        sentences.append("One seed: all of it is about these trained models, and nothing about a loss.")
    judged = [gain.agreement for gain in known]
    if counts := {kind: judged.count(kind) for kind in dict.fromkeys(judged) if kind}:
        agreements = ", ".join(f"{kind} {count}" for kind, count in counts.items())
        sentences.append(f"Against what papers report, where that was read for certain: {agreements}.")
    if study.data.root is None:
        sentences.append("These are numbers of the embedded synthetic world, not of nuScenes.")
    return sentences
