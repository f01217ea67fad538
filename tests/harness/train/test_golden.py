"""The numbers of RESULTS_VERSION: losses, gradients and a few steps, in double precision, to 1e-9.

Where this fails by intention, raise RESULTS_VERSION, so that no run of the old numbers is taken for one of the new, and
write the new numbers: ``python -m tests.harness.train.test_golden``.
"""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).with_suffix(".json")
STEPS = 3


def _numbers():
    """Every number by name: of all presets without a teacher, and of a camera that is taught, in several ways."""
    from detectors.presets import PRESETS
    from distill.objective import LOSSES, Objective
    from distill.warm_start import inherit
    from harness.data.loader import batch_indices
    from harness.study.jobs import RESULTS_VERSION
    from harness.study.schedule import ScheduleSpec
    from harness.train.optim import learning_rate, optimizer_of
    from harness.train.streams import stream_seed

    found = {"results_version": RESULTS_VERSION}
    found["order"] = batch_indices(1000, 4, 300, stream_seed(7, "order"))
    found["augmentation"] = stream_seed(7, "augmentation")
    losses = {name: LOSSES[name](weight=0.5) for name in ("feature", "relation", "response")}
    rest = {name: spec(weight=0.5) for name, spec in LOSSES.items() if name not in losses}
    others = {name: loss for name, loss in rest.items() if loss.asks == "detector"}
    of_images = {name: loss for name, loss in rest.items() if loss.asks == "image"}
    varied = {
        "feature": LOSSES["feature"](weight=0.5, adapter="conv3x3", level="high", points="swapped"),
        "relation": LOSSES["relation"](weight=0.1, adapter="conv3x3", level="low"),
        "response": LOSSES["response"](weight=2.0, parts="split", teacher_temperature=2.0, min_overlap=0.5),
    }
    teacher_spec = PRESETS["tiny_camera_lidar"]
    cases = {name: (spec, None, {}) for name, spec in PRESETS.items()} | {
        "taught": (PRESETS["tiny_camera"], teacher_spec, losses),
        "taught otherwise": (PRESETS["tiny_camera"], teacher_spec, varied),
        "taught by others' losses": (PRESETS["tiny_camera"], teacher_spec, others),
        "taught by an image teacher": (PRESETS["tiny_camera"], None, of_images),
    }
    for name, (spec, taught_by, chosen) in cases.items():
        student, teacher = _filled(spec), _filled(taught_by) if taught_by else None
        if chosen is varied:
            inherit(student, teacher)
        objective = Objective(student, teacher, chosen).double().train()
        if chosen in (others, of_images):
            _fill(objective.terms)
        batch = _batch(taught_by or spec)
        schedule = ScheduleSpec(steps=STEPS, lr=1e-3)
        optimizer = optimizer_of(objective.parameters(), schedule)
        course = learning_rate(optimizer, schedule)
        for step in range(STEPS):
            output = objective(batch, ramp=1.0 if chosen is not varied else (step + 1) / STEPS)
            optimizer.zero_grad()
            output.total.backward()
            for term, value in output.raw.items():
                found[f"{name}/{step}/{term}"] = value.item()
            if step == 0:
                squares = sum(p.grad.square().sum() for p in student.parameters() if p.grad is not None)
                found[f"{name}/gradient"] = squares.sqrt().item()
            torch.nn.utils.clip_grad_norm_(objective.parameters(), schedule.clip_norm)
            optimizer.step()
            course.step()
    return found


def _filled(spec):
    """A detector with weights that no processor draws otherwise: torch's own draws differ with its instructions."""
    return _fill(spec.build().double())


def _fill(module):
    rng = np.random.default_rng(7)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1 or name.endswith("bias"):  # the other weights are ones, of norms
                width = parameter[0].numel() if parameter.dim() > 1 else 100
                parameter.copy_(torch.from_numpy(rng.uniform(-1, 1, parameter.shape) * (3 / width) ** 0.5))
    return module


def _batch(spec):
    """An example in double precision; images stay bytes, and where cameras hang stays single precision."""
    from detectors.cost import example_batch

    batch = example_batch(spec, 2)
    rng = np.random.default_rng(7)
    velocity = torch.from_numpy(rng.normal(size=batch.boxes.velocity.shape))
    parts = {name: _double(getattr(batch, name)) for name in ("lidar", "radar", "boxes")}
    if batch.views is not None:
        parts["instances"] = _labels(batch.views.images)
    return replace(batch, **parts | {"boxes": replace(parts["boxes"], velocity=velocity)})


def _labels(images):
    """Two instances in every view, one before the other."""
    from detectors.batch import Instances

    owner = torch.zeros(images[:, :, 0].shape, dtype=torch.uint8)
    owner[..., 10:52, 16:97] = 1
    owner[..., 30:60, 80:130] = 2
    views = owner.shape[:2]
    return Instances(owner, torch.tensor([2, 7]).expand(*views, 2), torch.tensor([0.9, 0.4]).expand(*views, 2))


def _double(part):
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
