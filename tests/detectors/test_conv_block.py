"""The block keeps the size of maps, halves it at a stride of 2, and puts out nothing negative."""

import pytest
import torch

from detectors.conv_block import conv_norm_relu


@pytest.mark.parametrize(("kernel", "stride", "size"), [(1, 1, (5, 8)), (3, 1, (5, 8)), (3, 2, (3, 4))])
def test_size_of_maps(kernel, stride, size, rng):
    out = conv_norm_relu(4, 6, kernel, stride)(torch.randn(2, 4, 5, 8, generator=rng))
    assert out.shape == (2, 6, *size)
    assert (out >= 0).all()
    assert out.any()


def test_a_bias_before_the_norm_would_be_wasted():
    assert [name for name, _ in conv_norm_relu(4, 6).named_parameters()] == ["0.weight", "1.weight", "1.bias"]
