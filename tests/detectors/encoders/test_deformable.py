"""A deformable convolution is the sum over its taps of what lies where the offsets send them."""

import math

import torch
from torch.testing import assert_close

from detectors.encoders.deformable import DeformableConv, deformed


def _between(channel, row, column):
    """The value of a map at a place between its cells: each of the four around it by its share, zero outside."""
    total = torch.zeros((), dtype=channel.dtype)
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < channel.shape[0] and 0 <= c < channel.shape[1]:
                total = total + (1 - abs(row - r)) * (1 - abs(column - c)) * channel[r, c]
    return total


def _by_loops(x, offset, weight, groups):
    views, inputs, h, w = x.shape
    outputs = len(weight)
    result = torch.zeros(views, outputs, h, w, dtype=x.dtype)
    for v in range(views):
        for o in range(outputs):
            first = o // (outputs // groups) * (inputs // groups)
            for row in range(h):
                for column in range(w):
                    for tap in range(9):
                        down, right = offset[v, 2 * tap, row, column], offset[v, 2 * tap + 1, row, column]
                        at = row + tap // 3 - 1 + float(down), column + tap % 3 - 1 + float(right)
                        for i in range(inputs // groups):
                            read = _between(x[v, first + i], *at)
                            result[v, o, row, column] += weight[o, i, tap // 3, tap % 3] * read
    return result


def test_it_is_what_loops_over_taps_and_corners_give(rng):
    x = torch.randn(2, 4, 3, 4, generator=rng, dtype=torch.float64)
    # Up to three cells away: beyond the edges, too.
    offset = 2 * torch.randn(2, 18, 3, 4, generator=rng, dtype=torch.float64).clamp(-1.5, 1.5)
    weight = torch.randn(6, 2, 3, 3, generator=rng, dtype=torch.float64)
    assert_close(deformed(x, offset, weight, groups=2), _by_loops(x, offset, weight, groups=2))


def test_gradients_are_those_of_small_changes(rng):
    x = torch.randn(1, 2, 3, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    offset = (0.4 + 0.2 * torch.rand(1, 18, 3, 3, generator=rng, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(2, 1, 3, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *given: deformed(*given, groups=2), (x, offset, weight))


def test_at_first_it_is_a_plain_convolution(rng):
    torch.manual_seed(0)
    conv = DeformableConv(4, 8, groups=4)
    x = torch.randn(2, 4, 5, 1, generator=rng)
    assert_close(conv(x), torch.nn.functional.conv2d(x, conv.weight, padding=1, groups=4))


def test_offsets_learn():
    torch.manual_seed(0)
    conv = DeformableConv(2, 2)
    conv(torch.randn(1, 2, 4, 4)).square().sum().backward()
    assert conv.conv_offset.weight.grad.any()
    assert list(dict(conv.named_parameters())) == ["weight", "conv_offset.weight", "conv_offset.bias"]
