"""Of a batch that is computed in parts, what the parts add up to is what the whole batch gives, of every loss."""

from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from detectors.batch import Batch, Instances, Points
from detectors.cost import example_batch
from detectors.heads.center import CenterHeadSpec
from detectors.presets import PRESETS
from detectors.shares import shares_of
from distill.objective import LOSSES, Objective, loss_spec
from tests.distill.test_losses import CASES

MEANS = {
    name: given
    for name, given in (CASES | {"depth": {}, "instance": {}}).items()
    if name != "contrastive" and "normalise" not in given
}
"""Losses that are quotients of sums over a batch."""
CUTS = ((3, 1), (2, 2), (1, 1, 1, 1))


def example(spec, counts=(30, 7, 0, 13)):
    """A batch in double precision with so many objects a sample."""
    drawn = example_batch(spec, len(counts))
    is_box = torch.arange(drawn.is_box.shape[1]) < torch.tensor(counts)[:, None]
    parts = {name: _double(getattr(drawn, name)) for name in ("lidar", "radar", "boxes")}
    return replace(drawn, is_box=is_box, lifts={}, **parts)


def _double(part):
    if part is None:
        return None
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
    return replace(part, **{name: each.double() for name, each in tensors.items() if each.is_floating_point()})


def labelled(batch):
    """The batch with other numbers of instances in every view."""
    b, n, _, h, w = batch.views.images.shape
    owner = torch.zeros(b, n, h, w, dtype=torch.uint8)
    owner[..., 10:52, 16:97] = 1
    owner[..., 30:60, 80:130] = 2
    label = torch.tensor([2, 7]).repeat(b, n, 1)
    label[1:, ::2, 1] = -1
    return replace(batch, instances=Instances(owner, label, torch.full(label.shape, 0.9)))


def part_of(batch, first, last):
    """The samples of a batch from the first to before the last."""
    chosen = slice(first, last)

    def points(cloud):
        is_here = (cloud.sample >= first) & (cloud.sample < last)
        return Points(cloud.values[is_here], cloud.sample[is_here] - first)

    instances = batch.instances
    return Batch(
        tokens=batch.tokens[chosen],
        views=None if batch.views is None else batch.views[chosen],
        lidar=None if batch.lidar is None else points(batch.lidar),
        radar=None if batch.radar is None else points(batch.radar),
        boxes=batch.boxes[chosen],
        is_box=batch.is_box[chosen],
        instances=None
        if instances is None
        else Instances(instances.owner[chosen], instances.label[chosen], instances.score[chosen]),
    )


def freeze_norms(module):
    """Let norms use, and keep, the statistics that they have."""
    for each in module.modules():
        if isinstance(each, torch.nn.modules.batchnorm._BatchNorm):
            each.eval()


def _gradients(objective):
    return {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}


def assert_parts_add_up(objective, batch, cut, tolerance=1e-6):
    """Terms and gradients of a batch are those of its parts, added up."""
    objective.double().train()
    freeze_norms(objective)
    whole = objective(batch)
    whole.total.backward()
    wanted = _gradients(objective)
    objective.zero_grad(set_to_none=True)

    bounds = torch.tensor([0, *cut]).cumsum(0).tolist()
    parts = [part_of(batch, *bound) for bound in pairwise(bounds)]
    counts = [objective.counts(part) for part in parts]
    every = {name: sum(count[name] for count in counts) for name in counts[0]}
    outputs = [objective(p, shares=shares_of(c, every)) for p, c in zip(parts, counts, strict=True)]
    for output in outputs:
        output.total.backward()
    for name, value in whole.raw.items():
        assert_close(sum(output.raw[name] for output in outputs), value, rtol=tolerance, atol=1e-9)
    found = _gradients(objective)
    assert found.keys() == wanted.keys()
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, gradient in wanted.items():
        assert_close(found[name], gradient, rtol=tolerance, atol=tolerance * largest)


@pytest.fixture(scope="module")
def batch():
    return labelled(example(PRESETS["tiny_camera_lidar"]))


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(1)
    spec = PRESETS["tiny_lidar"]
    # Sure enough of something to teach boxes.
    return spec.model_copy(update={"head": spec.head.model_copy(update={"prior": 0.5})}).build().double()


@pytest.mark.parametrize("cut", [CUTS[0], *(pytest.param(cut, marks=pytest.mark.slow) for cut in CUTS[1:])], ids=str)
def test_parts_of_a_batch_add_up_in_every_loss_that_is_a_mean(cut, batch, teacher):
    torch.manual_seed(0)
    losses = {case: loss_spec(case, {"weight": 0.7, **given}) for case, given in MEANS.items()}
    assert_parts_add_up(Objective(PRESETS["tiny_camera"].build(), teacher, losses), batch, cut)


@pytest.mark.parametrize("preset", ["tiny_radar", "tiny_camera_lidar"])
def test_parts_of_a_batch_add_up_without_a_teacher(preset):
    torch.manual_seed(0)
    assert_parts_add_up(Objective(PRESETS[preset].build(), None, {}), example(PRESETS[preset]), (3, 1))


def test_parts_add_up_where_losses_are_averaged_by_task_with_learned_weights():
    torch.manual_seed(0)
    head = CenterHeadSpec(width=16, branches="separate", average="task", iou=True, learned_weights=True)
    spec = PRESETS["tiny_radar"].model_copy(update={"head": head})
    assert_parts_add_up(Objective(spec.build(), None, {}), example(spec), (3, 1))


def test_every_loss_is_a_mean_or_said_to_be_none():
    names = {name.split(",")[0] for name in MEANS} | {"contrastive"}
    assert names == set(LOSSES)
