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


def test_the_study_that_the_readme_shows_loads(tmp_path):
    from harness.study.load import load_study

    text = (STUDIES[0].parents[1] / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "papers").symlink_to(STUDIES[0].parent / "papers")
    (tmp_path / "study.yaml").write_text(text)
    study = load_study(tmp_path / "study.yaml")
    assert list(study.arms) == ["both", "feature", "response", "feature+response"]
    assert study.loss("feature", "lidar->camera")["weight"] == 2
    assert study.loss("feature", "given->camera")["weight"] == 1
