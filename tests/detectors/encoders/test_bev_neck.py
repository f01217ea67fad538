"""The neck keeps the map's resolution, odd or even."""

import pytest
import torch

from detectors.encoders.bev_neck import BevNeckSpec


@pytest.mark.parametrize(("rows", "columns"), [(12, 16), (9, 14), (7, 5)])
def test_resolution_is_kept(rows, columns):
    spec = BevNeckSpec(fine_width=6, coarse_width=8)
    refined = spec.build(in_channels=5)(torch.zeros(2, 5, rows, columns))
    assert refined.shape == (2, spec.out_channels, rows, columns)


def test_both_scales_see_the_input(rng):
    torch.manual_seed(0)
    spec = BevNeckSpec(fine_width=6, coarse_width=8)
    bev_low = torch.randn(1, 5, 12, 16, generator=rng, requires_grad=True)
    refined = spec.build(in_channels=5).eval()(bev_low)
    reach = []
    for half in refined[:, :, 6, 8].split(6, dim=1):
        (grad,) = torch.autograd.grad(half.sum(), bev_low, retain_graph=True)
        reach.append(int(grad.abs().sum(dim=(0, 1)).count_nonzero()))
    fine, coarse = reach
    assert 0 < fine <= 9
    assert coarse > fine
