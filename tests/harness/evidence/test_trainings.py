"""What the report says of each training: its state is what its run folder says."""

from pathlib import Path

import pytest

from harness.evidence.runs import StudyRuns
from harness.evidence.trainings import states, trainings
from harness.runs.folder import Result, RunFolder
from harness.study.load import load_study
from harness.study.plan import plan_study

SMOKE = Path(__file__).parents[3] / "studies" / "smoke.yaml"


@pytest.fixture
def plan():
    return plan_study(load_study(SMOKE, ["seeds=[0,1]"]), "fingerprint", int)


def test_every_job_has_a_state_and_its_spec(plan, tmp_path):
    done, failed, running, *others = plan.jobs
    machine = {"device": "cpu", "torch": "2", "threads": "1", "commit": "c0ffee"}
    RunFolder(tmp_path / done).complete(Result({"mAP": 0.25, "NDS": 0.5}, 5, 90.0, machine))
    RunFolder(tmp_path / failed).fail("too large", wrong_input=False)
    with RunFolder(tmp_path / running).locked():
        found = {one.job: one for one in trainings(StudyRuns.open(plan, tmp_path))}
    assert list(found) == list(plan.jobs)
    assert states(tuple(found.values())) == {done: "done", failed: "failed", running: "running"} | dict.fromkeys(
        others, "not run"
    )
    assert (found[done].minutes, found[done].commit, found[done].machine) == (1.5, "c0ffee", "cpu, torch 2")
    assert found[done].metrics["NDS"] == 0.5
    assert found[failed].reason == "too large"
    assert '"results_version"' in found[done].spec
    assert found[done].role == plan.rows[0].role
