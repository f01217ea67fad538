"""The numbers of RESULTS_VERSION: losses, gradients and a few steps, in double precision, to 1e-9.

Where this fails by intention, raise RESULTS_VERSION, so that no run of the old numbers is taken for one of the new, and
write the new numbers: ``python -m tests.harness.train.test_golden``.
"""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

GOLDEN = Path(__file__).with_suffix(".json")
STEPS = 3


def _numbers():
    """Every number by name: of all presets without a teacher, and of a camera that a fusion teaches with all losses."""
    from detectors.cost import example_batch
    from detectors.presets import PRESETS
    from distill.objective import LOSSES, Objective
    from harness.data.loader import batch_indices
    from harness.study.plan import RESULTS_VERSION
    from harness.study.spec import ScheduleSpec
    from harness.train.optim import learning_rate, optimizer_of
    from harness.train.streams import seeded, stream_seed

    found = {"results_version": RESULTS_VERSION}
    found["order"] = batch_indices(1000, 4, 300, stream_seed(7, "order"))
    found["augmentation"] = stream_seed(7, "augmentation")
    teacher_spec = PRESETS["tiny_camera_lidar"]
    losses = {name: spec(weight=0.5) for name, spec in LOSSES.items()}
    cases = {name: (spec, None) for name, spec in PRESETS.items()} | {
        "taught": (PRESETS["tiny_camera"], teacher_spec),
    }
    for name, (spec, taught_by) in cases.items():
        with seeded(7, "weights"):
            student = spec.build()
            teacher = taught_by.build() if taught_by else None
        objective = Objective(student, teacher, losses if teacher else {}).double().train()
        batch = example_batch(taught_by or spec, 2)
        batch = replace(batch, **{name: _double(getattr(batch, name)) for name in ("lidar", "radar", "boxes")})
        schedule = ScheduleSpec(steps=STEPS, lr=1e-3)
        optimizer = optimizer_of(objective.parameters(), schedule)
        course = learning_rate(optimizer, schedule)
        for step in range(STEPS):
            output = objective(batch)
            optimizer.zero_grad()
            output.total.backward()
            for term, value in output.raw.items():
                found[f"{name}/{step}/{term}"] = value.item()
            if step == 0:
                squares = sum(p.grad.square().sum() for p in student.parameters() if p.grad is not None)
                found[f"{name}/gradient"] = squares.sqrt().item()
            optimizer.step()
            course.step()
    return found


def _double(part):
    """A part of a batch in double precision; images stay bytes, and where cameras hang stays single precision."""
    if part is None:
        return None
    tensors = {field.name: getattr(part, field.name) for field in fields(part)}
    return replace(part, **{name: t.double() if t.is_floating_point() else t for name, t in tensors.items()})


def test_numbers_are_those_of_this_results_version():
    golden, found = json.loads(GOLDEN.read_text()), _numbers()
    assert found.keys() == golden.keys()
    assert found["results_version"] == golden["results_version"], "write the new numbers: see the top of this file"
    for name, value in golden.items():
        assert found[name] == pytest.approx(value, rel=1e-9), f"{name} changed: raise RESULTS_VERSION"


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(_numbers(), indent=1) + "\n")
