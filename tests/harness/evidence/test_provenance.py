"""Every row can be traced to a commit, and a table of several versions of the code says so."""

import dataclasses

import pytest

from harness.evidence.provenance import commit_lines, made_by
from harness.evidence.results import outcomes, summary
from harness.evidence.runs import StudyRuns
from harness.report.tables import results_table
from harness.runs.folder import RunFolder


@pytest.fixture
def give_commit(folder, jobs):
    """Say that another commit made a run."""

    def give(commit, *keys):
        for key in keys:
            run = RunFolder(folder / "runs" / jobs[key])
            result = run.result()
            run.complete(dataclasses.replace(result, machine=result.machine | {"commit": commit}))

    return give


def test_every_commit_has_its_rows_the_one_with_most_first(planned, folder, jobs, give_commit):
    give_commit("bbbbbbbbbbbb", ("student", 1), ("teacher", 0))
    (folder / "runs" / jobs["student", 0] / "result.json").unlink()
    made = made_by(StudyRuns.open(planned.plan, folder / "runs"))
    assert made == {
        "bbbbbbbbbbbb": [("lidar teacher", 0), ("lidar->camera unidistill", 1)],
        "aaaaaaaaaaaa": [("camera baseline", 0), ("camera baseline", 1)],
    }


def test_one_commit_is_not_worth_a_line_and_what_is_not_run_is_of_none(planned, folder, jobs):
    (folder / "runs" / jobs["student", 1] / "result.json").unlink()
    assert commit_lines(StudyRuns.open(planned.plan, folder / "runs")) == []
    assert commit_lines(StudyRuns.open(planned.plan, folder / "none")) == []


def test_rows_of_several_commits_are_named_with_their_seeds(planned, folder, give_commit):
    give_commit("bbbbbbbbbbbb+", ("student", 1))
    give_commit("cccccccccccc", ("teacher", 0))
    (line,) = commit_lines(StudyRuns.open(planned.plan, folder / "runs"))
    assert line.startswith("More than one version of the code made these rows: ")
    assert "bbbbbbbbbbbb+ made lidar->camera unidistill (seed 1)" in line
    assert "cccccccccccc made lidar teacher;" in line
    assert line.endswith("aaaaaaaaaaaa made all others. A + marks uncommitted changes on top of a commit.")


def test_a_damaged_run_is_of_no_commit(planned, folder, jobs):
    (folder / "runs" / jobs["student", 1] / "draws.npz").write_bytes(b"torn")
    made = made_by(StudyRuns.open(planned.plan, folder / "runs"))
    assert ("lidar->camera unidistill", 1) not in [row for rows in made.values() for row in rows]


def test_rows_are_called_as_in_the_table(planned, folder):
    runs = StudyRuns.open(planned.plan, folder / "runs")
    table = results_table(summary(outcomes(runs)), planned.study)
    assert {row[0].text for row in table.rows} == {name for rows in made_by(runs).values() for name, _ in rows}
