"""Frames to tables: Markdown, LaTeX, CSV, terminal; without dates and paths, so that equal results give equal files."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from harness.console import print_table as console_table
from harness.evaluate.mask_ap import SMALLEST_PX
from harness.report.results import COSTS, ERRORS, GAINS, POINTS
from harness.store import atomic_write
from harness.study.papers import MEANINGS, SIGNS, Paper
from harness.study.spec import OTHERS, WARM_START, StudySpec, scored_range

IMAGE_TEACHER = "image teacher"
"""A row that the table does not show, as it has no boxes; the caption speaks of it."""
Cells = list[list[str]]
"""A table as it is shown: its first row is the header."""


def caption(summary: pd.DataFrame, study: StudySpec) -> list[str]:
    """What a reader has to know about every number of the table."""
    data, schedule = study.data, study.schedule
    ranges = (
        "nuScenes' class ranges (50, 40, 30 m)"
        if data.detection_config == "nuscenes"
        else f"nuScenes' metrics with class ranges cut at {scored_range(data.detection_config)} m"
    )
    length = f"{schedule.steps} steps" if schedule.epochs is None else f"{schedule.epochs:g} epochs"
    lines = [
        f"Scored on {data.version} {data.eval_split}, trained on {data.train_split}; {ranges}; students: "
        f"{length} of batch {schedule.batch_size}, learning rate {schedule.lr:g}; "
        f"seeds {', '.join(map(str, study.seeds))}.",
        "mAP, NDS and gains in points; errors as nuScenes defines them, smaller is better; ± is the standard deviation "
        "over seeds. A gain is over the same student and seed trained without a teacher.",
    ]
    if summary["gain_mAP_low"].notna().any():
        lines.append(
            "In brackets: the 95 % interval of the mean gain over scenes (paired bootstrap). It says how far the gain "
            "of these trainings might be off on other scenes; the spread over seeds, how far other trainings might be."
        )
    lines += [_teacher(name, study) for name in study.teachers if name not in study.unused_teachers]
    lines += [_image_teacher(row, study) for row in summary[summary["role"] == IMAGE_TEACHER].to_dict("records")]
    lines += [f"{arm}: {', '.join(_loss(name, study) for name in losses)}." for arm, losses in study.arms.items()]
    if schedule.distillation_warmup and study.paths:
        lines.append(
            f"The losses' weights grow from 0 in the first {schedule.distillation_warmup:.0%} of the training."
        )
    if _has_published(summary) and any(WARM_START in losses for losses in study.arms.values()):
        lines.append("The papers' students do not begin as copies of a teacher.")
    if data.root is None:
        lines.append("These are numbers of the embedded synthetic world, not of nuScenes.")
    if _has_published(summary):
        signs = [MEANINGS[sign] for sign in MEANINGS if sign in set(summary["paper_mark"])]
        lines.append(
            " ".join(["Columns of a paper: the gain it reports on nuScenes for such a path and losses.", *signs])
        )
    if data.also_score:
        lines.append(
            f"Rows that name a split ({', '.join(data.also_score)}) are the same models scored on it; "
            f"on {data.train_split} they show what was learned by heart, not a result."
        )
    if data.train_split == data.eval_split:
        lines.append("Scored on the samples it was trained on: a check of the plumbing, not a result.")
    if len(study.seeds) == 1:
        lines.append("One seed: a difference speaks of these two trainings, not of the loss.")
    for row in summary[summary["unpaired"] != ""].to_dict("records"):
        lines.append(f"{_row_name(row)}: no gain, for {row['unpaired']}.")
    for row in summary[summary["warning"] != ""].to_dict("records"):
        lines.append(f"{_row_name(row)}: doubtful: {row['warning']}.")
    kinds = _machines(summary)
    if len(kinds) > 1:
        named = "; ".join(f"[{letter}] {kind}" for kind, letter in kinds.items())
        lines.append(f"Made on more than one kind of machine, which alone changes numbers a little: {named}.")
    return lines


def _teacher(name: str, study: StudySpec) -> str:
    """Which teacher of that name the students learned from."""
    teacher = study.teachers[name]
    if teacher.checkpoint is not None:
        return f"Teacher {name}: the same given weights for every student."
    state = "" if teacher.trained else ", untrained (a control)"
    if teacher.seed == "paired":
        return f"Teacher {name}: for every student the one of its own seed{state}."
    return f"Teacher {name}: the one of seed {teacher.seed} for every student{state}."


def _image_teacher(row: dict, study: StudySpec) -> str:
    """What an image teacher is, and how good."""
    name = row["model"]
    teacher = study.image_teachers[name]
    if teacher.preset is None:
        what = f"{teacher.model} of transformers" if teacher.model else f"labels in {teacher.labels}"
        return f"Image teacher {name}: {what}, for every student{'; ' + row['missing'] if row['missing'] else ''}."
    where = "other scenes" if teacher.data.root is None else f"{teacher.data.root}"
    scored = f"{row['mask_AP']:.1f}, AP50 {row['mask_AP50']:.1f}" if not math.isnan(row["mask_AP"]) else row["missing"]
    return (
        f"Image teacher {name}: {teacher.preset} of seed {teacher.seed} for every student, trained on images of "
        f"{where} ({teacher.data.train_split}); mask AP {scored} (points, on {teacher.data.eval_split}, objects over "
        f"{SMALLEST_PX} pixels)."
    )


def _loss(name: str, study: StudySpec) -> str:
    """A loss with the fields that the study sets."""
    if name == WARM_START:
        return f"{name} (neck and head begin as copies of the teacher's)"
    choice = study.losses[name]
    kind = f"{choice.loss}: " if choice.loss else ""
    return f"{name} ({kind}{', '.join(f'{field} {_values(given)}' for field, given in choice.by_path().items())})"


def _values(given: dict[str, object]) -> str:
    """One value, or those by path, whatever is left last."""
    if set(given) == {OTHERS}:
        return str(given[OTHERS])
    return " / ".join(f"{value} on {path}" for path, value in sorted(given.items(), key=lambda item: item[0] == OTHERS))


def write_tables(
    summary: pd.DataFrame, cost: pd.DataFrame, study: StudySpec, out: Path, papers: Sequence[Paper] = ()
) -> None:
    """Write table.md, table.tex and table.csv, and what it cost in cost.md and cost.csv, into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "table.md", markdown(summary, study, papers).encode())
    atomic_write(out / "table.tex", latex(summary, study).encode())
    numbers = summary.select_dtypes("number").columns.difference(["seeds"])
    rounded = summary.assign(**{name: summary[name].round(6) for name in numbers})
    atomic_write(out / "table.csv", rounded.to_csv(index=False, lineterminator="\n").encode())
    atomic_write(out / "cost.md", (markdown_table(_cost_cells(cost)) + f"\n\n{_COST_NOTE}\n").encode())
    atomic_write(out / "cost.csv", cost.to_csv(index=False, lineterminator="\n").encode())


def markdown(summary: pd.DataFrame, study: StudySpec, papers: Sequence[Paper] = ()) -> str:
    """The table with its caption, and the rows that papers published."""
    parts = [markdown_table(_cells(summary)), *caption(summary, study)]
    for paper in papers:
        parts += [f"**Published: {paper.name}** ({paper.venue}, arXiv {paper.arxiv})"]
        parts += [markdown_table(_published_cells(paper)), *_published_notes(paper)]
    return "\n\n".join(parts) + "\n"


def latex(summary: pd.DataFrame, study: StudySpec) -> str:
    """The table for a paper, its caption below it: needs the package booktabs."""
    header, *rows = _cells(summary)
    frame = pd.DataFrame(rows, columns=header)
    text = frame.to_latex(index=False, escape=True, column_format="l" + "r" * (len(header) - 1))
    for sign, command in (
        ("->", r"$\rightarrow$"),
        ("±", r"$\pm$"),
        ("†", r"\textdagger{}"),
        (" -", " $-$"),
        ("[-", "[$-$"),
    ):
        text = text.replace(sign, command)
    notes = " ".join(_escaped(line) for line in caption(summary, study))
    return text + "\\par\\smallskip{\\footnotesize " + notes + "}\n"


def _escaped(text: str) -> str:
    """Text in which LaTeX finds no command."""
    for sign, command in (("\\", r"\textbackslash "), *((sign, "\\" + sign) for sign in "&%$#_{}")):
        text = text.replace(sign, command)
    for sign, command in (("->", r"$\rightarrow$"), ("±", r"$\pm$"), ("†", r"\textdagger{}"), ("~", r"\~{}")):
        text = text.replace(sign, command)
    return text


def print_table(summary: pd.DataFrame, study: StudySpec, console: Console, papers: Sequence[Paper] = ()) -> None:
    """The table in a terminal, and the published rows below it."""
    header, *rows = _cells(summary)
    console_table(console, header, rows)
    for line in caption(summary, study):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    for paper in papers:
        console.print(f"\nPublished: {paper.name} ({paper.venue}, arXiv {paper.arxiv})", highlight=False)
        header, *rows = _published_cells(paper)
        console_table(console, header, rows)
        for line in _published_notes(paper):
            console.print(line, highlight=False, soft_wrap=True, markup=False)


def _cells(summary: pd.DataFrame) -> Cells:
    """The main table; the paper's columns only where a paper has something to say."""
    papers = ("paper_mAP", "paper_NDS") if _has_published(summary) else ()
    named = "/".join(name for name in summary["paper"].unique() if name)
    published = [column.replace("paper_", f"{named} gain ") for column in papers]
    header = ["row", "seeds", *POINTS, *ERRORS, "gain mAP", "gain NDS", *published, "parameters"]
    kinds = _machines(summary)
    found = [header]
    for row in summary[summary["role"] != IMAGE_TEACHER].to_dict("records"):
        name = _row_name(row)
        if len(kinds) > 1 and row["machine"]:
            name += f" [{', '.join(kinds[kind] for kind in row['machine'].split('; '))}]"
        cells = [f"{name} on {row['split']}" if row["split"] else name, str(row["seeds"])]
        if row["missing"]:
            found.append([*cells, row["missing"].replace("|", "/"), *[""] * (len(header) - 3)])
            continue
        cells += [_number(row, metric, "{:.1f}") for metric in POINTS]
        cells += [_number(row, metric, "{:.3f}") for metric in ERRORS]
        cells += ["unpaired" if row["unpaired"] else _gain(row, metric) for metric in GAINS]
        cells += [_plain(row[column], "{:+.1f}", row["paper_mark"]) for column in papers]
        found.append([*cells, _plain(row["parameters"], "{:,.0f}")])
    return found


def _has_published(summary: pd.DataFrame) -> bool:
    return bool(summary["paper_mAP"].notna().any())


def _machines(summary: pd.DataFrame) -> dict[str, str]:
    """Every kind of machine of the table, with a letter to name it."""
    kinds = sorted({kind for text in summary["machine"] for kind in text.split("; ") if kind})
    return dict(zip(kinds, "abcdefghijklmnopqrstuvwxyz", strict=False))


def _published_cells(paper: Paper) -> Cells:
    header = ["row", "dataset", *POINTS, *ERRORS, "source"]
    rows = []
    for row in paper.rows:
        values = [_plain(getattr(row, metric), "{:.1f}", SIGNS[row.mark]) for metric in POINTS]
        values += [_plain(getattr(row, metric), "{:.3f}", SIGNS[row.mark]) for metric in ERRORS]
        rows.append([row.label, row.dataset, *values, row.source])
    return [header, *rows]


def _published_notes(paper: Paper) -> list[str]:
    used = {SIGNS[row.mark] for row in paper.rows}
    return [*paper.notes, *(meaning for sign, meaning in MEANINGS.items() if sign in used)]


_COST_NOTE = (
    "Training and scoring together, in means over seeds; of steps the median time, of memory the largest. "
    "Inference is from one sample to its boxes, the median over samples, while the machine may have had other work."
)


def _cost_cells(cost: pd.DataFrame) -> Cells:
    """The table of costs, which differ from machine to machine and from run to run."""
    header = ["row", "seeds", "parameters", "inference (ms)", "step (ms)", "minutes", "CPU-minutes", "peak memory (MB)"]
    forms = ("{:,.0f}", "{:.1f}", "{:.0f}", "{:.1f}", "{:.1f}", "{:.0f}")
    rows = [
        [_row_name(row), str(row["seeds"]), *(_plain(row[name], form) for name, form in zip(COSTS, forms, strict=True))]
        for row in cost.to_dict("records")
    ]
    return [header, *rows]


def markdown_table(cells: Cells) -> str:
    """Cells as Markdown writes a table."""
    header, *rows = cells
    rule = "|---|" + "---:|" * (len(header) - 1)
    return "\n".join(["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)])


def _row_name(row: dict) -> str:
    if row["role"] == "student":
        return f"{row['path']} {row['arm']}"
    return f"{row['model']} {row['arm'] if row['role'] == 'control' else row['role']}"


def _number(row: dict, metric: str, form: str) -> str:
    """Mean, and the standard deviation over seeds where there are several; empty where nothing is to be said."""
    mean, std = row[metric], row[f"{metric}_std"]
    if math.isnan(mean):
        return ""
    return form.format(mean) + ("" if math.isnan(std) else " ± " + form.replace("+", "").format(std))


def _gain(row: dict, metric: str) -> str:
    """As `_number`, with the interval over scenes where it is known."""
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    interval = "" if math.isnan(low) else f" [{low:+.1f}, {high:+.1f}]"
    return _number(row, metric, "{:+.1f}") + interval


def _plain(value: float | int | None, form: str, sign: str = "") -> str:
    return "" if value is None or math.isnan(value) else form.format(value) + sign
