"""A plan survives as JSON, whatever the study; and so does the study."""

import json
from functools import cache
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.bundle.write import study_yaml
from harness.study.load import load_study
from harness.study.plan import plan_study
from harness.study.plan_file import plan_json, read_plan
from harness.study.spec import StudySpec

STUDIES = sorted((Path(__file__).parents[3] / "studies").glob("*.yaml"))


@cache
def _study(path):
    return load_study(path)


asked = given(
    path=st.sampled_from(STUDIES),
    seeds=st.lists(st.integers(0, 10**6), min_size=1, max_size=3, unique=True),
    fingerprint=st.text(),
    splits=st.lists(st.text(min_size=1), max_size=2, unique=True),
)


@asked
@settings(max_examples=12)
def test_every_plan_is_read_as_it_was_written(path, seeds, fingerprint, splits):
    _is_read_as_it_was_written(path, seeds, fingerprint, splits)


@pytest.mark.slow
@asked
@settings(max_examples=60)
def test_many_plans_are_read_as_they_were_written(path, seeds, fingerprint, splits):
    _is_read_as_it_was_written(path, seeds, fingerprint, splits)


def _is_read_as_it_was_written(path, seeds, fingerprint, splits):
    data = _study(path).data.model_copy(update={"also_score": tuple(splits)})
    study = _study(path).model_copy(update={"seeds": tuple(seeds), "data": data})
    plan = plan_study(study, fingerprint, lambda: 1000, lambda _: (Path("images"), fingerprint))
    text = plan_json(plan)
    again = read_plan(text.encode())
    assert again.rows == plan.rows
    assert list(again.jobs) == list(plan.jobs)
    # A job's id is the hash of its whole spec.
    shown = [[(job.id, job.label, type(job.spec)) for job in each.jobs.values()] for each in (again, plan)]
    assert shown[0] == shown[1]
    assert plan_json(again) == text


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_is_read_as_it_was_written(path):
    study = _study(path)
    again = StudySpec.model_validate(yaml.safe_load(study_yaml(study, [])))
    assert again.model_copy(update={"report": study.report}) == study


def test_absolute_paths_of_a_study_are_not_written(tmp_path):
    study = _study(STUDIES[0])
    root = study.data.model_copy(update={"root": tmp_path / "nuscenes"})
    given = {
        name: teacher.model_copy(update={"checkpoint": tmp_path / "given.safetensors"})
        for name, teacher in study.teachers.items()
    }
    text = study_yaml(study.model_copy(update={"data": root, "teachers": given}), [])
    assert str(tmp_path) not in text
    assert "root: nuscenes" in text
    assert "checkpoint: given.safetensors" in text


def _edit(plan, what):
    first, *_, last = plan["jobs"]
    match what:
        case "order":
            plan["jobs"] = dict(reversed(plan["jobs"].items()))
            return "does not come before it"
        case "name":
            plan["jobs"]["0" * 16] = plan["jobs"].pop(last)
            return f"its spec is that of job {last}"
        case "row":
            plan["rows"][0]["job"] = "0" * 16
            return "rows.0: there is no job 0000000000000000"
        case "key":
            plan["jobs"][first]["spec"]["colour"] = "red"
            return f"jobs.{first}.spec"
        case _:
            plan["rows"][0]["role"] = "master"
            return "rows.0.role"


@pytest.mark.parametrize("what", ["order", "name", "row", "key", "role"])
def test_what_is_no_plan_is_refused(what):
    path = next(path for path in STUDIES if path.stem == "smoke")
    plan = json.loads(plan_json(plan_study(_study(path), "data", int)))
    reason = _edit(plan, what)
    with pytest.raises(ValueError, match=reason):
        read_plan(json.dumps(plan).encode())
