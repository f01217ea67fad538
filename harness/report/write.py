"""Rebuilds a study's report from its run folders, as files and in the terminal."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from harness.console import say
from harness.evidence.controls import judge_all
from harness.evidence.effects import Ascribed, attributions, groups, unlike
from harness.evidence.line import HEADLINE_METRICS, Line, gain_column
from harness.evidence.provenance import commit_lines
from harness.evidence.results import Cost, costs, outcomes, summary
from harness.evidence.runs import StudyRuns
from harness.opened import Opened
from harness.report.answer import headlines
from harness.report.controls import controls_table, marked
from harness.report.render import Table, latex, markdown, show
from harness.report.tables import (
    attribution_table,
    class_table,
    cost_table,
    published_table,
    results_table,
    verdicts_table,
)
from harness.runs.folder import atomic_write
from harness.study.papers import read_paper

if TYPE_CHECKING:
    import pandas as pd

Cell = str | float | int


def rebuild(
    opened: Opened,
    runs: StudyRuns,
    out: Path,
    console: Console,
    command: str = "",
    columns: Sequence[str] | None = None,
) -> tuple[str, list[Line]]:
    """Write the report to a folder, and print its tables and its answer.

    Args:
        opened: What it is about.
        runs: Of its plan.
        out: Folder.
        console: For the tables.
        command: The command that repeats the study. If it is empty, the page is not written, which saves seconds.
        columns: Groups of columns to print; by default what fits.

    Returns:
        The main tables as Markdown, and the lines of the first.
    """
    study = opened.study
    papers = [read_paper(path) for path in study.report.papers]
    trained = outcomes(runs, papers)
    compared = groups(trained)
    lines, spent, ascribed = summary(trained, compared), costs(runs), attributions(compared, study)
    judged = judge_all(lines, study)
    results = [
        results_table(lines, study, commit_lines(runs), opened.plan.plain_epochs),
        verdicts_table(lines, study, unlike(compared)),
        attribution_table(ascribed),
        class_table(lines),
    ]
    main = [controls_table(judged), *(marked(table, judged) for table in results if table)]
    tables = [*filter(None, main), *map(published_table, papers), cost_table(spent)]
    write(out, tables[:-1], lines, spent, ascribed)

    tell = partial(say, console)
    for table in tables:
        if not table.group or table.group in (columns or ()):
            tell(f"\n{table.title}", "bold")
            show(table, console, columns)
    for damage in runs.damaged.values():
        tell(damage.message, "red")
    page = None
    if command:
        # What draws takes a second to import, and who only trains waits for none of it.
        from harness.report.contents import document
        from harness.report.html import write_page

        named = {table.name: table for table in tables}
        page = write_page(out, document(opened, runs, lines, ascribed, named, out, command))
    for text in runs.unreadable:
        tell(text, "yellow")
    tell("")
    for sentence in headlines(lines, study):
        console.print(sentence, style="bold", markup=False, highlight=False, soft_wrap=not console.is_terminal)
    tell(f"tables: {out}/table.md, table.tex, table.csv; cost: {out}/cost.md")
    if page is not None:
        tell(f"page: {page}")
    return "\n".join(markdown(table) for table in filter(None, main)), lines


def write(
    out: Path, tables: Sequence[Table], lines: Sequence[Line], spent: Sequence[Cost], parts: Sequence[Ascribed]
) -> None:
    """Write table.md and table.tex with all tables, table.csv, costs, and attribution if there is one."""
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "table.md", "\n".join(markdown(table) for table in tables).encode())
    atomic_write(out / "table.tex", latex(tables).encode())
    atomic_write(out / "table.csv", _csv(records(lines)).encode())
    atomic_write(out / "cost.md", markdown(cost_table(spent)).encode())
    atomic_write(out / "cost.csv", _csv(list(map(asdict, spent)), [field.name for field in fields(Cost)]).encode())
    if parts:
        atomic_write(out / "attribution.csv", attribution_csv(parts).encode())
    else:  # nor one of earlier arms
        (out / "attribution.csv").unlink(missing_ok=True)


def records(lines: Sequence[Line]) -> list[dict[str, Cell]]:
    """Return the rows of table.csv, with all significant digits and published gains."""
    return [rounded(_columns(line)) for line in lines]


def frame(lines: Sequence[Line]) -> "pd.DataFrame":
    """Return the rows of table.csv as a data frame."""
    # Half a second, which no command needs.
    import pandas as pd

    return pd.DataFrame(records(lines))


def _csv(rows: Sequence[Mapping[str, Cell]], columns: Sequence[str] = ()) -> str:
    """Format rows; NaN, or what a row lacks, is an empty cell, and a column has integers or floats, not both."""
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    floats = {name for row in rows for name, value in row.items() if isinstance(value, float)}

    def cell(name: str, value: Cell) -> Cell:
        if isinstance(value, float) and math.isnan(value):
            return ""
        return float(value) if name in floats else value

    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(name, row.get(name, math.nan)) for name in columns] for row in rows)
    return text.getvalue()


def attribution_csv(parts: Sequence[Ascribed]) -> str:
    """Attribution to losses, in pp."""
    columns = ("path", "kind", "what", "to", "metric", "effect", "low", "high", "p", "holm")
    rows = []
    for each in parts:
        part, effect = each.part, each.part.effect
        named = (each.path, part.kind, "+".join(part.what), "+".join(part.to or ()), each.metric)
        numbers = (effect.value, effect.low, effect.high, effect.p, each.holm)
        rows.append(rounded(dict(zip(columns, (*named, *numbers), strict=True))))
    return _csv(rows)


def _columns(line: Line) -> dict[str, Cell]:
    """Convert a line to a row of table.csv."""
    columns: dict[str, Cell] = dict(line.key._asdict())
    columns |= {name: mean.value for name, mean in line.means.items()}
    columns |= {f"{name}_std": mean.std for name, mean in line.means.items()}
    for metric in HEADLINE_METRICS:
        gain = line.gains[metric]
        columns |= {gain_column(metric, of): value for of, value in gain.numbers.items()}
        columns |= {gain_column(metric, "verdict"): gain.verdict, gain_column(metric, "agreement"): gain.agreement}
        columns["scenes"] = line.scenes
    columns |= {f"weight_{name}": mean.value for name, mean in line.weights.items()}
    columns |= {"seeds": line.seeds, "parameters": line.parameters}
    columns["published"] = "; ".join(
        f"{paper}: mAP {gain.mAP}, NDS {gain.NDS} ({gain.mark})" for paper, gain in line.published.items()
    )
    columns |= {"missing": line.missing, "unpaired": line.unpaired, "warning": line.warning, "machine": line.machine}
    return columns | {"jobs": " ".join(line.jobs)}


def rounded(row: Mapping[str, Cell]) -> dict[str, Cell]:
    """Format numbers with six decimals, and p values with four significant digits, because none of them is 0."""

    def short(name: str, value: Cell) -> Cell:
        if not isinstance(value, float):
            return value
        if name.rpartition("_")[2] in ("p", "holm"):
            return float(f"{value:.4g}")
        return float(np.round(value, 6))

    return {name: short(name, value) for name, value in row.items()}
