"""What `harness.run` says before and after it trains: sizes, times, and the report after its announcement."""

from pathlib import Path

import pytest

from harness.run import estimate_text, introduction
from harness.study.load import load_study
from harness.study.plan import plan_study

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.mark.parametrize(
    ("study", "changes", "todo", "text"),
    [
        ("paths", [], 16, "19 rows of the table need 16 jobs (15 trainings); 16 are still to run"),
        ("smoke", [], 3, "3 rows of the table need 3 jobs; 3 are still to run"),
        ("smoke", [], 1, "3 rows of the table need 3 jobs; 1 is still to run"),
        ("smoke", ["paths=[]", "arms={}"], 0, "1 row of the table needs 1 job; all are done"),
        (
            "smoke",
            ["teachers.lidar.trained=false"],
            0,
            "3 rows of the table need 3 jobs (2 trainings); all are done",
        ),
    ],
)
def test_the_introduction_tells_rows_jobs_and_trainings_apart(study, changes, todo, text):
    plan = plan_study(load_study(STUDIES / f"{study}.yaml", changes), "data", int)
    assert introduction(plan, todo) == text


def test_the_introduction_tells_how_long_class_balanced_epochs_are():
    changes = ["schedule.class_balanced=true", "schedule.steps=null", "schedule.epochs=1"]
    study = load_study(STUDIES / "smoke.yaml", changes)
    plan = plan_study(study, "data", lambda: 28_130, None, lambda: 123_580)
    assert introduction(plan, 3).endswith("; 3 are still to run; a class-balanced epoch is 4.39 plain ones")


@pytest.mark.parametrize(
    ("workers", "by_runs", "by_steps", "text"),
    [
        (2, 2, 9, "1:30:00 with 2 workers (2 jobs by finished jobs of the same kind, 9 jobs by timed steps)"),
        (1, 0, 1, "1:30:00 with 1 worker (1 job by timed steps)"),
        (1, 3, 0, "1:30:00 with 1 worker (3 jobs by finished jobs of the same kind)"),
    ],
)
def test_an_estimate_names_only_what_it_is_based_on(workers, by_runs, by_steps, text):
    assert estimate_text(5400.2, workers, by_runs, by_steps) == f"estimated wall time: {text}"
