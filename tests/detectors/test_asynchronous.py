"""Constants are made once, and indices are those that the library's own functions find."""

import pytest
import torch

from detectors.asynchronous import constant, places, sent, unravelled


def test_a_constant_is_made_once_for_each_type():
    like = torch.zeros(3)
    assert constant((1.0, 2.5), like).tolist() == [1.0, 2.5]
    assert constant((1.0, 2.5), like) is constant((1.0, 2.5), torch.ones(1))
    assert constant((1.0, 2.5), like.double()).dtype == torch.float64
    assert constant((1, 2), like, torch.long).dtype == torch.long


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4, 5)])
def test_unravelled_indices_are_torchs(shape):
    index = torch.arange(torch.Size(shape).numel())
    for mine, theirs in zip(unravelled(index, shape), torch.unravel_index(index, shape), strict=True):
        assert torch.equal(mine, theirs)


def test_places_are_those_of_nonzero(rng):
    mask = torch.rand(50, generator=rng) < 0.3
    assert torch.equal(places(mask, int(mask.sum())), mask.nonzero()[:, 0])
    assert places(torch.zeros(4, dtype=torch.bool), 0).tolist() == []


def test_a_tensor_that_stays_is_the_same():
    tensor = torch.zeros(2)
    assert sent(tensor, "cpu") is tensor
