"""The numbers of RESULTS_VERSION: losses, gradients and a few steps, in double precision, to 1e-9.

Where this fails by intention, raise RESULTS_VERSION, so that no run of the old numbers is taken for one of the new, and
write the new numbers: ``python -m tests.harness.train.test_golden``.

A loss has numbers of its own, taken with no other loss beside it. A new one changes no number that is there, so it
leaves RESULTS_VERSION as it is and adds its own: ``python -m tests.harness.train.test_golden NAME``, where NAME is its
key in LOSSES.
"""

import json
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detectors.batch import Instances
from detectors.cost import example_batch
from detectors.heads.center import CenterHeadSpec
from detectors.presets import TINY_PRESETS
from distill.loss import DetectorLossSpec
from distill.objective import LOSSES, Objective
from distill.warm_start import inherit
from harness.data.loader import batch_indices
from harness.study.jobs import RESULTS_VERSION
from harness.study.schedule import ScheduleSpec
from harness.train.optim import learning_rate, optimizer_of
from harness.train.streams import stream_seed


def _former(spec):
    """A preset as it was when its numbers were taken: who changes a preset asks another question of the same code."""
    lidar = spec.lidar and spec.lidar.model_copy(update={"age_unit": 1.0})
    return spec.model_copy(update={"head": CenterHeadSpec(width=40), "lidar": lidar})


FORMER = {name: _former(spec) for name, spec in TINY_PRESETS.items()}
GOLDEN = Path(__file__).with_suffix(".json")
STEPS = 3


def _numbers():
    """Numbers by name: of all presets without a teacher, and of a camera that is taught by UniDistill's losses."""
    found = {"results_version": RESULTS_VERSION}
    found["order"] = batch_indices(1000, 4, 300, stream_seed(7, "order"))
    found["augmentation"] = stream_seed(7, "augmentation")
    losses = {name: LOSSES[name](weight=0.5) for name in ("feature", "relation", "response")}
    varied = {
        "feature": LOSSES["feature"](weight=0.5, adapter="conv3x3", level="high", points="swapped"),
        "relation": LOSSES["relation"](weight=0.1, adapter="conv3x3", level="low"),
        "response": LOSSES["response"](weight=2.0, parts="split", teacher_temperature=2.0, min_overlap=0.5),
    }
    teacher_spec = FORMER["tiny_camera_lidar"]
    cases = {name: (spec, None, {}) for name, spec in FORMER.items()} | {
        f"{name} of today": (spec, None, {}) for name, spec in TINY_PRESETS.items()
    }
    cases |= {
        "taught": (FORMER["tiny_camera"], teacher_spec, losses),
        "taught otherwise": (FORMER["tiny_camera"], teacher_spec, varied),
    }
    for name, (spec, taught_by, chosen) in cases.items():
        student, teacher = _filled(spec), _filled(taught_by) if taught_by else None
        if chosen is varied:
            inherit(student, teacher)
        objective = Objective(student, teacher, chosen).double().train()
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


def _numbers_of_loss(name):
    """The loss between a camera and its teacher, and its gradients: the student's, and that of what it trains itself.

    What an optimizer makes of gradients, `_numbers` has.
    """
    loss = LOSSES[name](weight=0.5)
    taught_by = FORMER["tiny_camera_lidar"] if isinstance(loss, DetectorLossSpec) else None
    student, teacher = _filled(FORMER["tiny_camera"]), _filled(taught_by) if taught_by else None
    objective = Objective(student, teacher, {name: loss}).double().train()
    _fill(objective.terms)
    output = objective(_batch(taught_by or FORMER["tiny_camera"]))
    output.weighted[name].backward()
    return {
        f"loss {name}/value": output.raw[name].item(),
        f"loss {name}/gradient": _norm(student),
        f"loss {name}/gradient of its own": _norm(objective.terms),
    }


def _norm(module):
    """Of the gradients of all parameters together; 0 where there are none."""
    return sum((p.grad.square().sum().item() for p in module.parameters() if p.grad is not None), start=0.0) ** 0.5


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
    batch = example_batch(spec, 2)
    rng = np.random.default_rng(7)
    velocity = torch.from_numpy(rng.normal(size=batch.boxes.velocity.shape))
    parts = {name: _double(getattr(batch, name)) for name in ("lidar", "radar", "boxes")}
    if batch.views is not None:
        parts["instances"] = _labels(batch.views.images)
    return replace(batch, **parts | {"boxes": replace(parts["boxes"], velocity=velocity)})


def _labels(images):
    """Two instances in every view, one before the other."""
    owner = torch.zeros(images[:, :, 0].shape, dtype=torch.uint8)
    owner[..., 10:52, 16:97] = 1
    owner[..., 30:60, 80:130] = 2
    views = owner.shape[:2]
    return Instances(owner, torch.tensor([2, 7]).expand(*views, 2), torch.tensor([0.9, 0.4]).expand(*views, 2))


def _double(part):
    if part is None:
        return None
    tensors = {field.name: getattr(part, field.name) for field in fields(part)}
    floating = {name: t for name, t in tensors.items() if isinstance(t, torch.Tensor) and t.is_floating_point()}
    return replace(part, **{name: t.double() for name, t in floating.items()})


def test_numbers_are_those_of_this_results_version():
    golden, found = json.loads(GOLDEN.read_text()), _numbers()
    assert found.keys() == {name for name in golden if not name.startswith("loss ")}
    assert found["results_version"] == golden["results_version"], "write the new numbers: see the top of this file"
    for name, value in found.items():
        assert value == pytest.approx(golden[name], rel=1e-9), f"{name} changed: raise RESULTS_VERSION"


def test_every_loss_has_numbers_and_no_other():
    names = {name.removeprefix("loss ").partition("/")[0] for name in json.loads(GOLDEN.read_text()) if "loss " in name}
    assert names == set(LOSSES), "add the numbers of a new loss: see the top of this file"


@pytest.mark.parametrize("loss", LOSSES)
def test_numbers_of_a_loss_are_those_of_this_results_version(loss):
    golden = json.loads(GOLDEN.read_text())
    for name, value in _numbers_of_loss(loss).items():
        assert value == pytest.approx(golden[name], rel=1e-9), f"{name} changed: raise RESULTS_VERSION"


def main(names):
    """Write the numbers of some losses beside those that are there, or, without names, all numbers anew."""
    numbers = json.loads(GOLDEN.read_text()) if names else _numbers()
    for name in names or LOSSES:
        numbers |= _numbers_of_loss(name)
    GOLDEN.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
