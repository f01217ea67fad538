"""Rebuild: a study's tables from its run folders, to files and to the terminal."""

from pathlib import Path

from rich.console import Console

from harness.report.results import cost_frame, results_frame, summary
from harness.report.tables import markdown, print_table, write_tables
from harness.study.plan import Plan
from harness.study.spec import StudySpec


def rebuild(plan: Plan, study: StudySpec, runs: Path, tables: Path, console: Console) -> str:
    """Write the tables into a folder and print the first one; that one as Markdown."""
    results = summary(results_frame(plan, runs))
    write_tables(results, cost_frame(plan, runs), study, tables)
    print_table(results, study, console)
    files = f"tables: {tables}/table.md, {tables}/table.csv; what it cost: {tables}/cost.md"
    console.print(files, highlight=False, soft_wrap=True)
    return markdown(results, study)
