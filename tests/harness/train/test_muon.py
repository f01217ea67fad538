"""Muon: the laws of its update, by hand where a matrix is simple."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from harness.study.schedule import ScheduleSpec
from harness.train.muon import Muon, is_matrix, orthogonalised
from harness.train.optim import learning_rate, optimizer_of


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 40), st.integers(8, 40), st.integers(0, 10**6))
def test_singular_values_become_alike_and_vectors_stay(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(columns, columns, generator=generator, dtype=torch.float64))
    count = min(rows, columns)
    values = torch.linspace(1.0, 0.1, count, dtype=torch.float64)
    made = orthogonalised(left[:, :count] * values @ right[:, :count].T)
    inside = left[:, :count].T @ made @ right[:, :count]
    assert ((inside.diagonal() > 0.6) & (inside.diagonal() < 1.3)).all()
    assert_close(inside, torch.diag(inside.diagonal()), atol=1e-9, rtol=0)
    assert_close(orthogonalised(3 * made), orthogonalised(made), atol=1e-6, rtol=0)


def test_update_of_a_diagonal_gradient_by_hand():
    layer = nn.Linear(8, 8, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    optimizer = Muon(layer.parameters(), lr=0.1, weight_decay=0.5)
    # All singular values of the gradient are alike; after the division by its norm each is 1 / sqrt(8).
    layer.weight.grad = 2 * torch.eye(8)
    optimizer.step()
    value = 1 / math.sqrt(8)
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    step = 0.1 * 0.2 * math.sqrt(8) * value
    assert_close(layer.weight.detach(), torch.full((8, 8), 0.95) - step * torch.eye(8))


def test_convolutions_of_any_kind_are_matrices_and_the_rest_is_not():
    model = nn.ModuleDict(
        {
            "image": nn.Conv2d(8, 8, 3),
            "few outputs": nn.Conv2d(8, 2, 3),
            "few inputs": nn.Conv2d(1, 8, 1),
            "linear": nn.Linear(9, 8),
            "norm": nn.BatchNorm2d(8),
        }
    )
    chosen = {name for name, parameter in model.named_parameters() if is_matrix(parameter)}
    assert chosen == {"image.weight", "linear.weight"}
    optimizer = Muon(model.parameters(), lr=0.1, weight_decay=0.0)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 8]


def _trained(model, optimizer, course, steps, start=0):
    for step in range(start, steps):
        x = torch.randn(16, 3, 9, 9, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x.mean((1, 2, 3), keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.step()
    return [p.detach().clone() for p in model.parameters()]


def _begun():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 1, 1))
    schedule = ScheduleSpec(steps=8, optimizer="muon", lr=1e-2)
    optimizer = optimizer_of(model.parameters(), schedule)
    return model, optimizer, learning_rate(optimizer, schedule)


def test_stopped_and_resumed_training_is_the_same_to_the_bit():
    whole = _trained(*_begun(), steps=8)
    model, optimizer, course = _begun()
    _trained(model, optimizer, course, steps=3)
    states = copy.deepcopy([each.state_dict() for each in (model, optimizer, course)])
    again = _begun()
    for each, state in zip(again, states, strict=True):
        each.load_state_dict(state)
    for one, other in zip(whole, _trained(*again, steps=8, start=3), strict=True):
        assert torch.equal(one, other)


def test_step_that_was_found_to_be_not_finite_changes_nothing():
    model, optimizer, course = _begun()
    before = _trained(model, optimizer, course, steps=2)
    momentum = [state["momentum"].clone() for state in optimizer.state.values() if "momentum" in state]
    assert momentum
    optimizer.zero_grad()
    model(torch.randn(2, 3, 9, 9)).sum().mul(math.nan).backward()
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    for one, other in zip(before, model.parameters(), strict=True):
        assert torch.equal(one, other)
    after = [state["momentum"] for state in optimizer.state.values() if "momentum" in state]
    for one, other in zip(momentum, after, strict=True):
        assert_close(one, other)


def test_optimizer_is_no_part_of_the_identity_of_older_schedules():
    assert "optimizer" not in ScheduleSpec(steps=1).model_dump(mode="json")
    assert ScheduleSpec(steps=1, optimizer="muon").model_dump(mode="json")["optimizer"] == "muon"


@pytest.mark.parametrize("name", ["sgd", "Muon"])
def test_other_optimizers_are_refused(name):
    with pytest.raises(ValueError, match="'adamw' or 'muon'"):
        ScheduleSpec(steps=1, optimizer=name)
