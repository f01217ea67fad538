"""Writes the report as one HTML file that needs no network and no other file."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template

from harness.evidence.runs import Run
from harness.report.pictures import Picture
from harness.report.render import Table
from harness.report.samples import Samples
from harness.runs.folder import atomic_write

FILE = "report.html"


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading: words, then tables, then figures."""

    title: str
    tables: Sequence[Table] = ()
    figures: Sequence[Picture] = ()
    words: Sequence[str] = ()
    """Paragraphs."""


@dataclass(frozen=True)
class Page:
    """All that the page says."""

    title: str
    """The study's name."""
    question: str
    """Empty where the study does not say it."""
    headlines: Sequence[str]
    """Sentences that a reader in a hurry leaves with."""
    sections: Sequence[Section]
    runs: Mapping[str, Run]
    """By the ids of their jobs."""
    samples: Samples | None = None
    command: str = ""
    """What makes all of it again."""
    notes: Sequence[str] = ()
    """About the report as a whole."""

    @property
    def commits(self) -> list[str]:
        """The commits of the code that trained."""
        return sorted({run.result.machine.get("commit", "unknown") for run in self.runs.values() if run.result})

    @property
    def states(self) -> dict[str, int]:
        """How many jobs are in each state that there is."""
        present = [run.state for run in self.runs.values()]
        return {state: present.count(state) for state in ("done", "running", "failed", "not run") if state in present}

    @property
    def trainings(self) -> int:
        """The jobs that train; the others score or label with weights that are there."""
        return sum(run.job.spec.steps > 0 for run in self.runs.values())

    @property
    def commands(self) -> list[str]:
        """The shell commands that make all of it again: the code where one commit made all, the install, the study."""
        on_gpu = any("cuda" in run.result.machine.get("device", "") for run in self.runs.values() if run.result)
        checkout = [f"git checkout {commit}" for commit in self.commits if re.fullmatch(r"[0-9a-f]{7,40}", commit)]
        what = '".[cuda]"' if on_gpu else "."
        install = f"pip install -c constraints.txt -e {what}"
        return [*(checkout if len(self.commits) == 1 else []), install, self.command]


def write_page(out: Path, page: Page) -> Path:
    """Write report.html into a folder; equal bytes for equal pages."""
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / FILE, html(page).encode())
    return out / FILE


def html(page: Page) -> str:
    """The page; whatever a user named is text in it, never markup."""
    tables = [table for section in page.sections for table in section.tables]
    groups = _groups(tables, page.runs)
    return _template().render(
        page=page,
        groups=groups,
        link=lambda jobs: _link(jobs, page.runs, groups),
        numeric=numeric,
        style=_text("page.css").strip(),
        script=_text("page.js").strip(),
    )


def numeric(table: Table) -> list[bool]:
    """Whether each column is sorted by numbers."""
    return [any(row[column].value is not None for row in table.rows) for column in range(len(table.header))]


def _groups(tables: Iterable[Table], runs: Mapping[str, Run]) -> dict[tuple[str, ...], str]:
    """What stands in one cell and is of several trainings, each set of them once, and the name of its list."""
    sets = (jobs for table in tables for row in table.rows for cell in row if (jobs := _known(cell.jobs, runs)))
    several = dict.fromkeys(jobs for jobs in sets if len(jobs) > 1)
    return {jobs: f"trainings-{number}" for number, jobs in enumerate(several, start=1)}


def _known(jobs: Iterable[str], runs: Mapping[str, Run]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(job for job in jobs if job in runs))


def _link(jobs: tuple[str, ...], runs: Mapping[str, Run], groups: Mapping[tuple[str, ...], str]) -> str:
    """Where a cell leads to, without the #; empty where to nothing."""
    linked = _known(jobs, runs)
    if len(linked) > 1:
        return groups[linked]
    return f"run-{linked[0]}" if linked else ""


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}"
    return environment.from_string(_text("page.html"))


def _text(name: str) -> str:
    return files("harness.report").joinpath(name).read_text("utf-8")
