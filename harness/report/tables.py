"""Frames to tables: Markdown, CSV and the terminal, without dates and paths, so that equal results give equal files."""

import math
from pathlib import Path

import pandas as pd
from rich.console import Console

from harness.console import print_table as console_table
from harness.report.results import COSTS, ERRORS, GAINS, POINTS
from harness.store import atomic_write
from harness.study.spec import StudySpec, scored_range

_HEADER = ("row", "seeds", *POINTS, *ERRORS, "gain mAP", "gain NDS")


def caption(study: StudySpec) -> list[str]:
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
    lines += [_teacher(name, study) for name in dict.fromkeys(path.split("->")[0] for path in study.paths)]
    lines += [f"{arm}: {', '.join(_loss(name, study) for name in losses)}." for arm, losses in study.arms.items()]
    if data.root is None:
        lines.append("These are numbers of the embedded synthetic world, not of nuScenes.")
    if data.also_score:
        lines.append(
            f"Rows that name a split ({', '.join(data.also_score)}) are the same models scored on it; "
            f"on {data.train_split} they show what was learned by heart, not a result."
        )
    if data.train_split == data.eval_split:
        lines.append("Scored on the samples it was trained on: a check of the plumbing, not a result.")
    if len(study.seeds) == 1:
        lines.append("One seed: a difference speaks of these two trainings, not of the loss.")
    return lines


def _teacher(name: str, study: StudySpec) -> str:
    """Which teacher of that name the students learned from."""
    teacher = study.teachers[name]
    if teacher.checkpoint is not None:
        return f"Teacher {name}: the same given weights for every student."
    if teacher.seed == "paired":
        return f"Teacher {name}: for every student the one of its own seed."
    return f"Teacher {name}: the one of seed {teacher.seed} for every student."


def _loss(name: str, study: StudySpec) -> str:
    """A loss with the fields that the study sets."""
    fields = study.losses[name].model_dump()
    return f"{name} ({', '.join(f'{field} {value}' for field, value in fields.items())})"


def write_tables(summary: pd.DataFrame, cost: pd.DataFrame, study: StudySpec, out: Path) -> None:
    """Write table.md and table.csv, and what it cost in cost.md and cost.csv, into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "table.md", markdown(summary, study).encode())
    numbers = summary.select_dtypes("number").columns.difference(["seeds"])
    rounded = summary.assign(**{name: summary[name].round(6) for name in numbers})
    atomic_write(out / "table.csv", rounded.to_csv(index=False, lineterminator="\n").encode())
    atomic_write(out / "cost.md", cost_markdown(cost).encode())
    atomic_write(out / "cost.csv", cost.to_csv(index=False, lineterminator="\n").encode())


def cost_markdown(cost: pd.DataFrame) -> str:
    """The table of costs, which differ from machine to machine and from run to run."""
    header = ("row", "seeds", "parameters", "step (ms)", "minutes", "CPU-minutes", "peak memory (MB)")
    forms = ("{:,.0f}", "{:.0f}", "{:.1f}", "{:.1f}", "{:.0f}")
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    for row in cost.to_dict("records"):
        numbers = [
            "" if math.isnan(row[name]) else form.format(row[name]) for name, form in zip(COSTS, forms, strict=True)
        ]
        lines.append("| " + " | ".join([_row_name(row), str(row["seeds"]), *numbers]) + " |")
    note = "Training and scoring together, in means over seeds; of steps the median time, of memory the largest."
    return "\n".join([*lines, "", note, ""])


def markdown(summary: pd.DataFrame, study: StudySpec) -> str:
    """The table with its caption."""
    lines = ["| " + " | ".join(_HEADER) + " |", "|---|" + "---:|" * (len(_HEADER) - 1)]
    lines += ["| " + " | ".join(cells) + " |" for cells in _cells(summary)]
    return "\n".join([*lines, "", *(line + "\n" for line in caption(study))])


def print_table(summary: pd.DataFrame, study: StudySpec, console: Console) -> None:
    """The table in a terminal."""
    console_table(console, _HEADER, _cells(summary))
    for line in caption(study):
        console.print(line, highlight=False, soft_wrap=True)


def _cells(summary: pd.DataFrame) -> list[list[str]]:
    rows = []
    for row in summary.to_dict("records"):
        name = _row_name(row)
        cells = [f"{name} on {row['split']}" if row["split"] else name, str(row["seeds"])]
        if row["missing"]:
            rows.append([*cells, row["missing"].replace("|", "/"), *[""] * (len(_HEADER) - 3)])
            continue
        cells += [_number(row, metric, "{:.1f}") for metric in POINTS]
        cells += [_number(row, metric, "{:.3f}") for metric in ERRORS]
        cells += [_number(row, metric, "{:+.1f}") for metric in GAINS]
        rows.append(cells)
    return rows


def _row_name(row: dict) -> str:
    return f"{row['path']} {row['arm']}" if row["role"] == "student" else f"{row['model']} {row['role']}"


def _number(row: dict, metric: str, form: str) -> str:
    """Mean, and the standard deviation over seeds where there are several; empty where nothing is to be said."""
    mean, std = row[metric], row[f"{metric}_std"]
    if math.isnan(mean):
        return ""
    return form.format(mean) + ("" if math.isnan(std) else " ± " + form.replace("+", "").format(std))
