"""X-FD predicts the teacher's activity; X-AT pulls the student to where the discriminator errs."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from distill.activation import ActivationSpec
from distill.adversarial import AdversarialSpec


@pytest.fixture
def maps(scene, rng, detector_spec):
    return tuple(scene.output(rng, detector_spec.low_channels, detector_spec.high_channels) for _ in "st")


def _activation(detector_spec, **fields):
    torch.manual_seed(0)
    return ActivationSpec(weight=1.0, **fields).build(detector_spec, detector_spec).double()


@pytest.mark.parametrize(("norm", "power"), [("l1", 1), ("l2", 2)])
def test_activity_is_the_mean_size_over_channels(maps, scene, detector_spec, norm, power):
    student, teacher = maps
    term = _activation(detector_spec, norm=norm)
    decoded = term.decoder(student.bev_low)
    assert decoded.shape[1] == 1
    gaps = [
        abs(decoded[b, 0, y, x] - sum(abs(v) for v in teacher.bev_low[b, :, y, x]) / detector_spec.low_channels)
        ** power
        for b in range(2)
        for y in range(scene.grid.rows)
        for x in range(scene.grid.columns)
    ]
    assert_close(term(student, teacher, scene.batch), sum(gaps) / len(gaps))


def test_all_channels_of_a_level_can_be_predicted(maps, scene, detector_spec):
    student, teacher = maps
    term = _activation(detector_spec, target="channels", level="high")
    assert_close(term(student, teacher, scene.batch), ((term.decoder(student.bev_high) - teacher.bev_high) ** 2).mean())


def test_the_decoder_learns_what_there_is_to_predict(maps, scene, detector_spec):
    student, _ = maps
    teacher = replace(student, bev_low=2.0 * student.bev_low)
    term = _activation(detector_spec)
    optimizer = torch.optim.Adam(term.parameters(), lr=0.01)
    first = None
    for _ in range(150):
        loss = term(student, teacher, scene.batch)
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * first


def _adversarial(detector_spec, **fields):
    torch.manual_seed(0)
    return AdversarialSpec(weight=1.0, **fields).build(detector_spec, detector_spec).double()


def test_discriminator_at_chance_costs_two_ln_two(maps, scene, detector_spec):
    term = _adversarial(detector_spec)
    for parameter in term.parameters():
        parameter.data.zero_()
    assert term(*maps, scene.batch).item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("judges", ["cells", "map"])
@pytest.mark.parametrize("reversal", [1.0, 0.25])
def test_the_student_gets_the_discriminators_gradient_reversed(maps, scene, detector_spec, judges, reversal):
    student, teacher = maps
    term = _adversarial(detector_spec, judges=judges, reversal=reversal)
    student.bev_low.requires_grad_()
    own = student.bev_low if judges == "cells" else student.bev_low.mean(dim=(2, 3), keepdim=True)
    wanted = teacher.bev_low if judges == "cells" else teacher.bev_low.mean(dim=(2, 3), keepdim=True)
    logits_own, logits_wanted = term.discriminator(own), term.discriminator(wanted)
    plain = -F.logsigmoid(logits_wanted).mean() - F.logsigmoid(-logits_own).mean()
    loss = term(student, teacher, scene.batch)
    assert_close(loss, plain)
    weights = list(term.discriminator.parameters())
    assert_close(
        torch.autograd.grad(loss, weights, retain_graph=True), torch.autograd.grad(plain, weights, retain_graph=True)
    )
    (reversed_gradient,) = torch.autograd.grad(loss, student.bev_low, retain_graph=True)
    (gradient,) = torch.autograd.grad(plain, student.bev_low)
    assert gradient.any()
    assert_close(reversed_gradient, -reversal * gradient)


def test_playing_against_each_other_brings_the_student_to_the_teacher(scene, rng, detector_spec):
    """Features that can move freely end where the teacher's are."""
    term = _adversarial(detector_spec)
    widths = detector_spec.low_channels, detector_spec.high_channels
    shift = torch.nn.Parameter(torch.zeros(widths[0], dtype=torch.float64))
    shift.data[:2] = torch.tensor([3.0, -2.0])
    optimizer = torch.optim.Adam([{"params": term.parameters(), "lr": 0.01}, {"params": [shift], "lr": 0.02}])
    for _ in range(600):
        own, teacher = (scene.output(rng, *widths) for _ in "st")
        student = replace(own, bev_low=own.bev_low + shift[:, None, None])
        loss = term(student, teacher, scene.batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert shift.detach()[:2].abs().max() < 1.0  # it was 3 and -2


def test_maps_of_other_widths_need_an_adapter(detector_spec):
    camera = detector_spec.camera.model_copy(update={"channels": detector_spec.camera.channels + 1})
    wide = detector_spec.model_copy(update={"camera": camera})
    with pytest.raises(ValueError, match="use adapter 'conv1x1', 'conv3x3' or 'mlp3'"):
        AdversarialSpec(weight=1.0).build(detector_spec, wide)
    AdversarialSpec(weight=1.0, adapter="conv3x3").build(detector_spec, wide)


@pytest.mark.parametrize(("values", "won"), [([1.2, 0.9], False), ([0.01, 0.05], True), ([0.01, 0.5], False)])
def test_a_discriminator_that_has_won_is_told(values, won):
    assert ("has won" in AdversarialSpec(weight=1.0).warning(values)) == won
