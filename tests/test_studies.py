"""Every study that ships loads, plans, and says first what it asks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detectors.batch import Instances
from detectors.cost import example_batch
from distill.control_teachers import Oracle
from distill.loss import DetectorLossSpec
from distill.objective import Objective, loss_spec
from harness.study.load import load_study
from harness.study.plan import plan_study

IMAGES = lambda data: (Path("images"), "any images")  # noqa: E731
STUDIES = sorted((Path(__file__).parent.parent / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_asks_a_question_and_plans(path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith("?") or ("?" in first)
    study = load_study(path)
    plan = plan_study(study, "any data", int, IMAGES)
    assert len(plan.jobs) > 0
    assert {row.job for row in plan.rows} == {id_ for id_, job in plan.jobs.items() if not job.label.endswith("labels")}
    # The count that its second comment promises.
    trained = sum(job.spec.steps > 0 for job in plan.jobs.values())
    assert f"= {trained} trainings" in path.read_text()


def _distilled():
    """Each different distillation that a study asks for: of which detectors, with which losses."""
    found = {}
    for path in STUDIES:
        plan = plan_study(load_study(path), "any data", int, IMAGES)
        for row in plan.rows:
            spec = plan.jobs[row.job].spec
            if row.role == "student" and spec.losses:
                teacher = plan.detector_spec(spec.teacher).detector if spec.teacher else None
                key = (spec.detector, teacher, json.dumps(spec.losses, sort_keys=True))
                found.setdefault(key, f"{path.stem}: {plan.jobs[row.job].label}")
    return list(found.items())


def _labelled(batch):
    """The batch with one instance in every view, as an image teacher might see it."""
    if batch.views is None:
        return batch
    owner = torch.zeros(batch.views.images[:, :, 0].shape, dtype=torch.uint8)
    owner[..., 8:40, 16:64] = 1
    views = owner.shape[:2]
    return replace(batch, instances=Instances(owner, torch.full((*views, 1), 3), torch.full((*views, 1), 0.9)))


@pytest.mark.slow
def test_every_arm_of_every_study_does_two_steps():
    """Not a table, but that its terms fit its detectors and move the student: in the plainest loop there is."""
    batches = {}
    arms = _distilled()
    assert len(arms) > 30
    for (student_spec, teacher_spec, losses), name in arms:
        sees = student_spec.inputs.joined((teacher_spec or student_spec).inputs)
        if sees not in batches:
            one, two = (example_batch(spec, 1) for spec in (student_spec, teacher_spec or student_spec))
            missing = [name for name in ("views", "lidar", "radar") if getattr(one, name) is None]
            batches[sees] = _labelled(replace(one, **{name: getattr(two, name) for name in missing}))
        batch = batches[sees]
        chosen = {loss: loss_spec(loss, fields) for loss, fields in json.loads(losses).items()}
        asks = any(isinstance(loss, DetectorLossSpec) for loss in chosen.values())
        # Without a teacher, a loss that asks one asks an oracle.
        teacher = (Oracle(student_spec) if teacher_spec is None else teacher_spec.build()) if asks else None
        objective = Objective(student_spec.build(), teacher, chosen)
        before = objective.student.head.heatmap.weight.clone()
        optimizer = torch.optim.SGD(objective.parameters(), lr=1e-4)
        for _ in range(2):
            output = objective(batch)
            optimizer.zero_grad()
            output.total.backward()
            optimizer.step()
        assert all(value.isfinite() for value in output.raw.values()), name
        assert set(chosen) < set(output.raw), name
        assert (objective.student.head.heatmap.weight != before).any(), name
        if asks:
            objective.teacher.check_unchanged()
