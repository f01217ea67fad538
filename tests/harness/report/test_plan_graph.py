"""The plan as a picture: every job in one box, teachers to the left of students, and states in words."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from harness.report.figures import save
from harness.report.plan_graph import nodes, plan_graph
from harness.study.load import load_study
from harness.study.plan import plan_study

STUDIES = Path(__file__).parents[3] / "studies"


@pytest.fixture
def planned():
    """The plan of a study: ``planned(name, *overrides)``."""

    def planned(name, *overrides):
        images = Path("images"), "fingerprint of images"
        return plan_study(load_study(STUDIES / name, list(overrides)), "fingerprint", lambda: 100, lambda data: images)

    return planned


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("paths.yaml", ["seeds=[0,1,2]"]),
        ("unidistill_terms.yaml", ["seeds=[0,1,2]"]),
        ("x3kd_components.yaml", []),
        ("x3kd_components.yaml", ["seeds=[0,1]", "data.also_score=[synthetic_train]"]),
        ("detectors.yaml", []),
        ("smoke.yaml", ["seeds=[0,1]", "teachers.lidar.seed=paired"]),
    ],
)
def test_every_job_is_in_one_box_right_of_what_it_needs(planned, name, overrides):
    plan = planned(name, *overrides)
    whole = nodes(plan)
    assert sorted(id_ for node in whole for id_ in node.jobs + node.using) == sorted(plan.jobs)
    node_of = {id_: number for number, node in enumerate(whole) for id_ in node.jobs + node.using}
    for id_, job in plan.jobs.items():
        own = whole[node_of[id_]]
        assert {node_of[need] for need in job.spec.needs} <= {*own.needs, node_of[id_]}
        assert all(whole[need].teaches and not own.teaches for need in own.needs)


def test_jobs_that_differ_in_the_seed_alone_share_a_box(planned):
    counts = {node.name: len(node.jobs) for node in nodes(planned("unidistill_terms.yaml", "seeds=[0,1,2]"))}
    assert counts["lidar · teacher"] == 1
    assert counts["camera · baseline"] == 3
    assert counts["lidar->camera · feature+response"] == 3
    assert len(counts) == 17


def test_the_picture_says_the_state_of_every_box_in_words(planned, tmp_path):
    plan = planned("unidistill_terms.yaml", "seeds=[0,1,2]")
    whole = nodes(plan)
    states = dict.fromkeys(plan.jobs, "done")
    first, second, _ = whole[-1].jobs
    states |= {first: "failed", second: "running", whole[0].jobs[0]: "not run"}
    svg = save(plan_graph(plan, states), tmp_path, "plan")
    texts = ["".join(node.itertext()) for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {node.name for node in whole} <= set(texts)
    assert "– not run" in texts
    assert "✓ 1 done, … 1 running, ✗ 1 failed" in texts
    assert texts.count("✓ 3 done") == 15
