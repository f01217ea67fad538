"""The learning rate takes the course that the schedule names."""

import pytest
import torch

from harness.study.schedule import ScheduleSpec
from harness.train.optim import learning_rate, optimizer_of


def _rates(**schedule):
    spec = ScheduleSpec(steps=20, lr=0.1, **schedule)
    optimizer = optimizer_of([torch.nn.Parameter(torch.zeros(1))], spec)
    course = learning_rate(optimizer, spec)
    rates = []
    for _ in range(spec.steps):
        rates.append(course.get_last_lr()[0])
        optimizer.step()
        course.step()
    return rates


def test_one_cycle_rises_to_its_peak_and_falls_below_its_start():
    rates = _rates(policy="one_cycle")
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.1)
    assert rates == [*sorted(rates[:peak]), *sorted(rates[peak:], reverse=True)]
    assert rates[-1] < rates[0] < 0.1


def test_multi_step_falls_to_a_tenth_at_each_milestone():
    rates = _rates(policy="multi_step", milestones=(0.5, 0.8))
    assert rates == pytest.approx([0.1] * 10 + [0.01] * 6 + [0.001] * 4)
