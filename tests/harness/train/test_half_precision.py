"""Gradients of every loss in bfloat16 point where those in float32 do, once the models have learned something."""

import pytest
import torch
import torch.nn.functional as F

from detectors.presets import PRESETS
from distill.objective import LOSSES, Objective, loss_spec
from harness.data.loader import SampleSet, training_batches
from harness.study.schedule import ScheduleSpec
from harness.train.optim import learning_rate, optimizer_of

pytestmark = pytest.mark.slow

STEPS, BATCH = 60, 2
FIELDS = {"output": {"score_threshold": 0.1}}
LEAST, LEAST_OF = 0.97, {None: 0.9, "output": 0.9}
"""Least cosine of the student's gradients; less of the detection loss, which X-OD is, too, on the teacher's boxes."""


@pytest.fixture(scope="module")
def trained(smoke_root):
    """A LiDAR teacher and a camera student after a brief training of both, and a batch that they have seen."""
    specs = [PRESETS[name] for name in ("tiny_lidar", "tiny_camera")]
    inputs = specs[0].inputs.joined(specs[1].inputs)
    samples = SampleSet(smoke_root, smoke_root.tokens("synthetic_train"), inputs)
    torch.manual_seed(0)
    detectors = [spec.build().train() for spec in specs]
    schedule = ScheduleSpec(steps=STEPS, batch_size=BATCH)
    optimizers = [optimizer_of(detector.parameters(), schedule) for detector in detectors]
    courses = [learning_rate(optimizer, schedule) for optimizer in optimizers]
    for batch in training_batches(samples, BATCH, range(STEPS), 0, 0):
        for detector, optimizer, course in zip(detectors, optimizers, courses, strict=True):
            optimizer.zero_grad()
            Objective(detector, None, {})(batch).total.backward()
            optimizer.step()
            course.step()
    return *detectors, batch


@pytest.mark.parametrize("name", [None, *(name for name in LOSSES if name != "instance")])
def test_gradients_in_bf16_point_where_those_in_fp32_do(trained, name):
    teacher, student, batch = trained
    losses = {} if name is None else {name: loss_spec(name, {"weight": 1.0, **FIELDS.get(name, {})})}
    objective = Objective(student, teacher if losses else None, losses)
    gradients = []
    for enabled in (False, True):
        objective.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            output = objective(batch)
        # Of the loss by itself, without the detection loss.
        (output.total if name is None else output.weighted[name]).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]))
    cosine = float(F.cosine_similarity(*gradients, dim=0))
    assert cosine > LEAST_OF.get(name, LEAST)
