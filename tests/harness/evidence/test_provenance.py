"""Every row can be traced to commit, machine and spec, and a table of several versions of the code says so."""

import dataclasses
import json
import math

import pytest

from harness.evidence.provenance import commit_lines, provenance
from harness.evidence.results import results_frame, summary
from harness.evidence.runs import StudyRuns
from harness.report.tables import results_table
from harness.runs.folder import RunFolder
from harness.study.jobs import spec_hash


@pytest.fixture
def give_commit(folder, jobs):
    """Say that another commit made a run."""

    def give(commit, *keys):
        for key in keys:
            run = RunFolder(folder / "runs" / jobs[key])
            result = run.result()
            run.complete(dataclasses.replace(result, machine=result.machine | {"commit": commit}))

    return give


def test_a_row_is_traced_to_commit_machine_spec_and_time(planned, folder, jobs):
    (folder / "runs" / jobs["student", 1] / "result.json").unlink()
    frame = provenance(StudyRuns.open(planned.plan, folder / "runs")).set_index(["role", "seed"])
    done, open_ = frame.loc[("student", 0)], frame.loc[("student", 1)]
    assert (done["commit"], done["machine"]) == ("aaaaaaaaaaaa", "device cpu, torch 2, threads 1")
    assert spec_hash(json.loads(done["spec"])) == done["job"] == jobs["student", 0]
    assert done["finished_at"] == RunFolder(folder / "runs" / done["job"]).finished_at()
    assert (open_["commit"], open_["machine"]) == ("", "")
    assert math.isnan(open_["finished_at"])


def test_one_commit_is_not_worth_a_line_and_what_is_not_run_is_of_none(planned, folder, jobs):
    (folder / "runs" / jobs["student", 1] / "result.json").unlink()
    assert commit_lines(provenance(StudyRuns.open(planned.plan, folder / "runs"))) == []
    assert commit_lines(provenance(StudyRuns.open(planned.plan, folder / "none"))) == []


def test_rows_of_several_commits_are_named_with_their_seeds(planned, folder, give_commit):
    give_commit("bbbbbbbbbbbb+", ("student", 1))
    give_commit("cccccccccccc", ("teacher", 0))
    (line,) = commit_lines(provenance(StudyRuns.open(planned.plan, folder / "runs")))
    assert line.startswith("Made by more than one version of the code: ")
    assert "bbbbbbbbbbbb+ made lidar->camera unidistill (seed 1)" in line
    assert "cccccccccccc made lidar teacher;" in line
    assert line.endswith("aaaaaaaaaaaa made all others. + stands for changes on top of a commit.")


def test_a_damaged_run_is_of_no_commit(planned, folder, jobs):
    (folder / "runs" / jobs["student", 1] / "draws.npz").write_bytes(b"torn")
    frame = provenance(StudyRuns.open(planned.plan, folder / "runs")).set_index(["role", "seed"])
    assert frame.loc[("student", 1), "commit"] == ""


def test_rows_are_called_as_in_the_table(planned, folder):
    table = results_table(summary(results_frame(StudyRuns.open(planned.plan, folder / "runs"))), planned.study)
    assert {row[0].text for row in table.rows} == set(provenance(StudyRuns.open(planned.plan, folder / "runs"))["row"])
