"""How far features are apart once both are normalised, worked by hand and by laws."""

import pytest
import torch
from torch.testing import assert_close

from distill.gap import feature_gap
from distill.regions import mean_over_region

EVERYWHERE = torch.ones(1, 1, 2)


def _maps(*places):
    """A map of one sample with one row: a list of channels for each place."""
    return torch.tensor(places, dtype=torch.float64).T[None, :, None, :]


def _gaps(student, teacher, *how, region=EVERYWHERE):
    return feature_gap(student, teacher, region.double(), 1, *how)


def test_divided_by_the_size_of_the_teacher_at_the_same_place():
    student, teacher = _maps([1.0, 7.0], [0.0, 0.0]), _maps([3.0, -4.0], [10.0, 0.0])
    # Root mean squares of the teacher: 5 / sqrt 2 and 10 / sqrt 2. Mean over channels of the squares is FSD-BEV's sum:
    # ((1 - 3)^2 + (7 + 4)^2) / 25 at the first place, and 1 at the second.
    gaps = _gaps(student, teacher, "l2", "teacher").mean(dim=1)
    assert_close(gaps, torch.tensor([[[125 / 25, 1.0]]], dtype=torch.float64))


def test_a_place_where_the_teacher_is_silent_does_not_rule():
    student, teacher = _maps([1.0, 1.0], [1.0, 1.0]), _maps([2.0, 2.0], [0.0, 0.0])
    # The sizes are 2 and 0, in the mean 1, of which the second place counts a tenth: (1 / 0.1)^2.
    gaps = _gaps(student, teacher, "l2", "teacher").mean(dim=1)
    assert_close(gaps, torch.tensor([[[0.25, 100.0]]], dtype=torch.float64))


def test_standardised_channels_differ_by_their_correlation(rng):
    student, teacher = (torch.randn(2, 3, 4, 5, generator=rng, dtype=torch.float64) for _ in "st")
    region = torch.rand(2, 4, 5, generator=rng, dtype=torch.float64)
    loss = mean_over_region(_gaps(student, teacher, "l2", "channels", region=region).mean(dim=1), region)
    correlations = []
    for channel in range(3):
        both = torch.stack([student[:, channel].flatten(), teacher[:, channel].flatten()])
        covariance = torch.cov(both, aweights=region.flatten(), correction=0)
        correlations.append(covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt())
    assert_close(loss, 2 * (1 - sum(correlations) / 3), atol=1e-5, rtol=1e-5)


def test_neither_scale_nor_shift_of_a_channel_matters_once_standardised(rng):
    student, teacher = (torch.randn(2, 3, 4, 5, generator=rng, dtype=torch.float64) for _ in "st")
    region = torch.ones(2, 4, 5)
    scale = torch.tensor([2.0, 30.0, 5.0], dtype=torch.float64)[:, None, None]
    one, other = (_gaps(student, each, "l1", "channels", region=region) for each in (teacher, scale * teacher + 7.0))
    assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_one_minus_the_cosine():
    student, teacher = _maps([1.0, 0.0], [2.0, 2.0]), _maps([0.0, 5.0], [1.0, 1.0])
    assert_close(_gaps(student, teacher, "cosine"), torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64))
    student, teacher = _maps([3.0, 4.0], [0.0, 0.0]), _maps([-3.0, -4.0], [0.0, 0.0])
    assert_close(_gaps(student, teacher, "cosine"), torch.tensor([[[[2.0, 0.0]]]], dtype=torch.float64))


@pytest.mark.parametrize("how", [("l1", "none"), ("l2", "teacher"), ("l1", "channels"), ("cosine", "channels")])
def test_what_is_outside_the_region_changes_nothing_inside_it(rng, how):
    student, teacher = (torch.randn(1, 3, 4, 5, generator=rng, dtype=torch.float64) for _ in "st")
    region = torch.zeros(1, 4, 5, dtype=torch.float64)
    region[0, 1:3, 2:] = 1.0
    outside = 100 * torch.randn(1, 3, 4, 5, generator=rng, dtype=torch.float64) * (1 - region)[:, None]
    one = region[:, None] * _gaps(student, teacher, *how, region=region)
    other = region[:, None] * _gaps(student + outside, teacher - outside, *how, region=region)
    assert_close(one, other)


@pytest.mark.parametrize("how", [("l2", "teacher"), ("l2", "channels"), ("cosine", "none")])
def test_the_gradient_is_finite_where_both_are_nothing(how):
    student = torch.zeros(1, 2, 1, 2, requires_grad=True)
    _gaps(student, torch.zeros(1, 2, 1, 2), *how).sum().backward()
    assert not student.grad.any()
