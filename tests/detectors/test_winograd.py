"""Winograd's convolution is the convolution, and so are its gradients, at every size of map."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detectors import winograd
from detectors.winograd import LEAST_CHANNELS, Conv3x3


def _both(conv, x, rng):
    """Result and gradients, by the module and by torch."""
    given = torch.randn(len(x), conv.out_channels, *x.shape[2:], generator=rng, dtype=x.dtype)
    wanted = [x, *conv.parameters()]
    return [(y, *torch.autograd.grad(y, wanted, given)) for y in (conv(x), F.conv2d(x, conv.weight, padding=1))]


# Whole tiles, tiles that stick out along either axis, and maps smaller than one.
@pytest.mark.parametrize("size", [(4, 8), (5, 11), (10, 6), (3, 2), (1, 1)])
def test_values_and_gradients_are_those_of_the_convolution(rng, size, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    conv = Conv3x3(LEAST_CHANNELS, LEAST_CHANNELS + 5).double()
    x = torch.randn(3, LEAST_CHANNELS, *size, generator=rng, dtype=torch.float64).requires_grad_()
    assert winograd.pays(x, conv.weight)
    mine, theirs = _both(conv, x, rng)
    assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


def test_single_precision_keeps_five_digits(rng, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    conv = Conv3x3(64, 40)
    x = torch.randn(2, 64, 9, 13, generator=rng).contiguous(memory_format=torch.channels_last).requires_grad_()
    mine, theirs = _both(conv, x, rng)
    for a, b in zip(mine, theirs, strict=True):
        assert (a - b).abs().max() < 2e-5 * b.abs().max()


def test_the_same_input_gives_the_same_bits(rng, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    conv = Conv3x3(32, 32)
    x = torch.randn(2, 32, 7, 9, generator=rng).requires_grad_()
    given = torch.randn(2, 32, 7, 9, generator=rng)
    runs = [torch.autograd.grad(conv(x), [x, *conv.parameters()], given) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_only_what_is_asked_for_is_computed(rng, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    conv = Conv3x3(32, 32)
    images = torch.randn(1, 32, 4, 4, generator=rng)
    conv(images).sum().backward()
    assert images.grad is None
    assert conv.weight.grad.any()


def test_where_it_does_not_pay_it_is_left_to_torch(rng, monkeypatch):
    x, weight = torch.randn(1, 32, 4, 4, generator=rng), torch.randn(32, 32, 3, 3, generator=rng).requires_grad_()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert winograd.pays(x, weight)
    with torch.no_grad():
        assert not winograd.pays(x, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not winograd.pays(x, weight)
    assert not winograd.pays(x, weight[:, :31])
    assert not winograd.pays(x.half(), weight.half())
    assert not winograd.pays(x, weight.detach())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert not winograd.pays(x, weight)
