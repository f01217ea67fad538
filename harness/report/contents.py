"""Chooses the sections of a study's page, and their order."""

import math
from collections.abc import Sequence
from pathlib import Path

from harness.evaluate.intervals import CLASSES, COSTS
from harness.evidence.diagnostics import (
    Records,
    alignment_records,
    breakdown_records,
    progress_records,
    student_arms,
    terms_records,
    unexamined,
)
from harness.evidence.effects import Ascribed
from harness.evidence.line import Line
from harness.evidence.runs import StudyRuns
from harness.opened import Opened
from harness.report.answer import few_of, headlines
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
    """Build the page, and write its figures to files.

    Args:
        opened: The study.
        runs: The runs of its plan.
        lines: Summary of the results.
        ascribed: Attribution of the gains.
        tables: Tables by name.
        out: Folder of the report.
        command: The command that repeats the study.
    """
    pictures = Pictures(out / "figures")
    published = [table for name, table in tables.items() if name.startswith("published")]
    gains = [line for line in lines if not line.key.split and not math.isnan(line.gains["NDS"].mean.value)]
    sections = [Section("Controls", [tables["controls"]])] if "controls" in tables else []
    sections += [Section("Results", [tables[name] for name in ("results", "classes") if name in tables])]
    if gains:
        pictures.add(
            "forest",
            "Gains over the baseline with 95 % CI",
            f"{len(gains)} rows in mAP and NDS; the table above contains the numbers",
            forest,
            gains,
            notes=["Filled: the 95 % CI excludes 0. Hollow diamond: published gain on nuScenes."],
        )
        certain = [tables["verdicts"]] if "verdicts" in tables else []
        sections.append(Section("Significance", certain, pictures.taken()))
    if "attribution" in tables:
        mains = [each for each in ascribed if each.metric == "NDS" and each.part.kind == "main effect"]
        for path in dict.fromkeys(each.path for each in mains):
            means = _means_by_set(lines, opened.study, path)
            factors = [each.part.what[0] for each in mains if each.path == path]
            pictures.add(
                f"interaction-{len(pictures)}",
                f"{path}: interaction of losses",
                f"NDS of {len(means)} sets of losses; the numbers are in the table above",
                interaction,
                factors,
                means,
                "NDS (%)",
                notes=["Parallel lines: the two losses do not interact."],
            )
        sections.append(Section("Ablation (attribution)", [tables["attribution"]], pictures.taken()))
    sections += _diagnostics(runs, lines, pictures)
    if published:
        sections.append(Section("Published results", published))
    pictures.add(
        "plan",
        "Plan: teachers and students",
        f"Graph of {len(opened.plan.jobs)} jobs; all of them are listed below",
        plan_graph,
        nodes(opened.plan),
        {id_: run.state for id_, run in runs.items()},
        notes=["A box is a job, or several that differ only in the seed. Lines lead from teacher to student."],
    )
    sections += [Section("Plan", (), pictures.taken()), Section("Cost", [tables["cost"]])]
    if opened.stored_tables and (opened.stored_tables / PICTURES).is_file():
        atomic_write(out / PICTURES, (opened.stored_tables / PICTURES).read_bytes())
    seen = samples(opened.root, opened.study, runs, trio(runs), out)
    note = "The folder figures next to this page contains every figure as SVG and PDF."
    sentences = headlines(lines, opened.study)
    return Page(opened.name, opened.question, sentences, sections, runs, seen, command, (note,))


SHOWN = 4
"""Largest number of arms in the figures of diagnostics."""


def _diagnostics(runs: StudyRuns, lines: Sequence[Line], pictures: Pictures) -> list[Section]:
    """Build the section of diagnostics from what the runs store (docs/diagnostics.md)."""
    students = [line for line in lines if line.key.role == "student" and not line.key.split]
    chosen = {(line.key.path, line.key.arm) for line in sorted(students, key=_smallness)[:SHOWN]}
    arms = {arm: rows for arm, rows in student_arms(runs.plan).items() if arm in chosen}
    terms, progress, alignment, breakdown = (
        collect(runs, arms) for collect in (terms_records, progress_records, alignment_records, breakdown_records)
    )
    for name, title, alt, note, draw, records in (
        (
            "progress",
            "Detection loss during training, baseline minus student",
            "Curves of the baseline's detection loss minus the student's, on the same batches",
            "Above 0: the student's detection loss on the training batches is lower. This does not measure accuracy.",
            progress_figure,
            progress,
        ),
        ("terms", "Share of each term in the loss", "Stacked shares over the training", "", terms_figure, terms),
        (
            "cosines",
            "Gradient alignment of each term with the detection loss",
            "Cosines between the gradient of each term and that of the detection loss, over the training",
            "1: the same direction; 0: orthogonal; below 0: opposed.",
            cosines_figure,
            terms if not all(map(math.isnan, terms.column("cosine"))) else Records(terms.columns, []),
        ),
        (
            "alignment",
            "Similarity (linear CKA) of BEV maps to the teacher's",
            "Bars of linear CKA, in the foreground and in the background, of both maps",
            "1: equal up to rotation and scale; 0: no linear similarity.",
            alignment_figure,
            alignment,
        ),
    ):
        if len(records):
            pictures.add(name, title, alt, draw, records, notes=[note] if note else [])
    for name, group, title, head in (
        (
            "errors",
            COSTS,
            "AP lost to each kind of error (TIDE), baseline and student",
            "AP lost to each kind of error at 2 m (TIDE), in pp",
        ),
        ("classes", CLASSES, "AP by class, baseline and student", "AP by class, in percent"),
        (
            "distances",
            "distance",
            "AP by distance, baseline and student",
            "AP at 2 m by distance from the ego car, in percent",
        ),
    ):
        part = breakdown.only("group", group)
        note = "95 % CI over validation scenes only, not corrected for multiple comparisons; bold: it excludes 0."
        if len(part):
            pictures.add(name, title, title, breakdown_figure, part, head, notes=[note])
    shown = pictures.taken()
    words = [f"{text}." for text in runs.unreadable]
    if not shown and not words:
        return []
    if len(students) > SHOWN:
        words.append(
            f"The figures show the {SHOWN} of {len(students)} rows whose NDS differs most from the baseline's."
        )
    for content, (without, number) in unexamined(runs).items():
        if without:
            words.append(
                f"Not stored for {len(without)} of {number} jobs: {content} ({few_of(without)}); "
                "crossbev report STUDY.yaml --examine computes it."
            )
    return [Section("Diagnostics", (), shown, words)]


def _smallness(line: Line) -> float:
    """Sort key: the largest absolute gain first, lines without a gain last."""
    gain = line.gains["NDS"].mean.value
    return math.inf if math.isnan(gain) else -abs(gain)


def _means_by_set(lines: Sequence[Line], study: StudySpec, path: str) -> dict[tuple[str, ...], float]:
    """NDS of every set of losses on a path, with sorted names; the empty set is the baseline."""
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
