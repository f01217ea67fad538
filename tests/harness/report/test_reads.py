"""A report opens each run once: what its tables, figures and page say comes from one reading of the folders."""

import io
from collections import Counter
from pathlib import Path

import pytest

from harness.evidence.results import costs, outcomes, summary
from harness.evidence.runs import StudyRuns
from tests.harness.conftest import STUDY


@pytest.fixture
def reads(monkeypatch):
    """How often each file was opened for reading, by its path from the working directory."""
    counted = Counter()
    open_ = io.open

    def counting(file, mode="r", *more, **named):
        if isinstance(file, str | Path) and "r" in mode:
            counted[Path(file).as_posix()] += 1
        return open_(file, mode, *more, **named)

    # What pathlib calls; numpy and others are handed what pathlib has opened.
    monkeypatch.setattr(io, "open", counting)
    return counted


@pytest.mark.parametrize("name", ["job.json", "result.json", "metrics.jsonl", "draws.npz", "analysis.npz"])
def test_a_report_with_its_page_reads_a_file_of_a_run_once(reads, report, folder, jobs, name):
    status, told = report(STUDY, "--seeds", "0,1")
    assert status == 0, told
    assert (folder / "reports" / "smoke" / "report.html").is_file()
    # Nothing asks for the analysis of a teacher.
    asked = [id_ for (role, _), id_ in jobs.items() if name != "analysis.npz" or role != "teacher"]
    assert {path: count for path, count in reads.items() if path.endswith(name)} == dict.fromkeys(
        (f"runs/{id_}/{name}" for id_ in asked), 1
    )


def test_a_report_reads_no_analysis_that_nothing_shows(reads, planned, folder):
    runs = StudyRuns.open(planned.plan, folder / "runs")
    summary(outcomes(runs))
    costs(runs)
    assert not any(path.endswith("analysis.npz") for path in reads)
