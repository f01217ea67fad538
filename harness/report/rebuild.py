"""Rebuild: a study's tables from its run folders, to files and to the terminal."""

from pathlib import Path

from rich.console import Console

from harness.report.flaws import flaws
from harness.report.results import arms, cost_frame, results_frame, summary
from harness.report.tables import markdown, print_table, write_tables
from harness.study.papers import read_paper
from harness.study.plan import Plan
from harness.study.spec import StudySpec
from harness.tracking.study import Arm


def rebuild(plan: Plan, study: StudySpec, runs: Path, tables: Path, console: Console) -> tuple[str, list[Arm]]:
    """Write the tables into a folder and print the first one; that one as Markdown, and its lines."""
    papers = [read_paper(path) for path in study.report.papers]
    results = summary(results_frame(plan, runs, papers))
    write_tables(results, cost_frame(plan, runs), study, tables, papers)
    print_table(results, study, console, papers)
    for flaw in flaws(plan, runs).values():
        console.print(flaw.message, style="red", markup=False, highlight=False, soft_wrap=True)
    files = f"tables: {tables}/table.md, table.tex, table.csv; what it cost: {tables}/cost.md"
    console.print(files, highlight=False, soft_wrap=True)
    return markdown(results, study, papers), arms(results)
