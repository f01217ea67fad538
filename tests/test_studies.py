"""Every study that ships loads, plans, and says first what it asks."""

from pathlib import Path

import pytest

STUDIES = sorted((Path(__file__).parent.parent / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_asks_a_question_and_plans(path):
    from harness.study.load import load_study
    from harness.study.plan import plan_study

    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith("?") or ("?" in first)
    study = load_study(path)
    plan = plan_study(study, "any data", int)
    assert len(plan.jobs) > 0
    assert {row.job for row in plan.rows} == set(plan.jobs)
    # The count that its second comment promises.
    trained = sum(job.spec.schedule is not None for job in plan.jobs.values())
    assert f"= {trained} trainings" in path.read_text()
