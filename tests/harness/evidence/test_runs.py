"""A run is in the state that its folder says."""

from pathlib import Path

import pytest

from harness.evidence.runs import StudyRuns
from harness.runs.folder import Result, RunFolder
from harness.study.load import load_study
from harness.study.plan import plan_study

SMOKE = Path(__file__).parents[3] / "studies" / "smoke.yaml"


@pytest.fixture
def plan():
    return plan_study(load_study(SMOKE, ["seeds=[0,1]"]), "fingerprint", int)


def test_the_state_of_every_job_is_what_its_folder_says(plan, tmp_path):
    done, failed, running, *others = plan.jobs
    RunFolder(tmp_path / done).complete(Result({"mAP": 0.25, "NDS": 0.5}, 5, 90.0, {}))
    RunFolder(tmp_path / failed).fail("too large", wrong_input=False)
    with RunFolder(tmp_path / running).locked():
        runs = StudyRuns.open(plan, tmp_path)
        states = {id_: run.state for id_, run in runs.items()}
    assert states == {done: "done", failed: "failed", running: "running"} | dict.fromkeys(others, "not run")
    assert runs[running].missing == "running"
    assert runs[failed].missing == "failed: too large"
    assert {id_: run.reason for id_, run in runs.items()} == dict.fromkeys(plan.jobs, "") | {failed: "too large"}
