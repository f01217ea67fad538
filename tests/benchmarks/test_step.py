"""What a teacher adds to a training step, and how much of its forward pass a loss has to pay for.

Measured only with ``pytest tests/benchmarks --benchmark-enable -s``; without it each body runs once, as a test.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectors.cost import example_batch
from detectors.detector import Detector
from detectors.geometry.lift import join_plans
from detectors.presets import PRESETS
from distill.feature import FeatureSpec
from distill.objective import Objective
from distill.relation import RelationSpec
from harness.study.schedule import ScheduleSpec
from harness.train.optim import optimizer_of

BATCH = 4
PATHS = [("tiny_lidar", "tiny_camera"), ("tiny_camera_lidar", "tiny_camera"), ("tiny_camera", "tiny_lidar")]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _batch(*specs):
    """Of what all of these detectors read, with the plans that a loader makes ahead."""
    batches = [example_batch(spec, BATCH) for spec in specs]
    batch = replace(
        batches[0],
        views=next((b.views for b in batches if b.views is not None), None),
        lidar=next((b.lidar for b in batches if b.lidar is not None), None),
    )
    views, lifts = batch.views, {}
    for geometry in frozenset().union(*(spec.inputs.lifts for spec in specs)):
        poses = zip(views.intrinsics, views.ego_from_camera, strict=True)
        lifts[geometry] = join_plans([geometry.plan(*pose) for pose in poses])
    return replace(batch, lifts=lifts)


def _step(objective, batch):
    optimizer = optimizer_of([p for p in objective.parameters() if p.requires_grad], ScheduleSpec(steps=1))

    def step():
        total = objective(batch).total
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 10.0)
        optimizer.step()
        return total.detach()

    return step


@pytest.mark.parametrize(("teacher", "student"), PATHS)
def test_a_distilled_step_against_a_plain_one(benchmark, speedups, teacher, student):
    torch.manual_seed(0)
    taught_by, spec = PRESETS[teacher], PRESETS[student]
    batch = _batch(taught_by, spec)
    losses = {"feature": FeatureSpec(weight=1.0, level="low"), "relation": RelationSpec(weight=1.0, level="low")}
    distilled = _step(Objective(spec.build(), taught_by.build(), losses).train(), batch)
    plain = _step(Objective(spec.build(), None, {}).train(), batch)
    assert distilled().isfinite()
    assert plain().isfinite()
    if benchmark.enabled:
        benchmark.extra_info.update(speedups({"plain": plain, "distilled": distilled}, of="distilled", rounds=15))
        print(teacher, "->", student, benchmark.extra_info)
    benchmark(distilled)


def test_a_look_of_the_teacher_against_its_forward_pass(benchmark, speedups):
    spec = PRESETS["tiny_camera"]
    torch.manual_seed(0)
    batch = _batch(spec)
    losses = {"feature": FeatureSpec(weight=1.0, level="low")}
    teacher = Objective(spec.build(), spec.build(), losses).teacher
    assert isinstance(teacher.detector, Detector)

    def everything():
        with torch.no_grad():
            return teacher.detector(batch).bev_low

    def look():
        return teacher.observe(batch).bev_low

    assert_close(look(), everything(), rtol=1e-4, atol=1e-4)
    if benchmark.enabled:
        ways = {"forward pass": everything, "look at the low-level map": look}
        benchmark.extra_info.update(speedups(ways, of="forward pass", rounds=15))
        print(benchmark.extra_info)
    benchmark(look)
