"""Fusion listens to every map, whatever its scale."""

import torch
from torch.testing import assert_close

from detectors.encoders.fusion import FusionSpec


def test_every_map_matters_and_none_by_its_scale(rng):
    torch.manual_seed(0)
    fusion = FusionSpec(channels=6).build((3, 4))
    maps = [torch.randn(2, c, 5, 7, generator=rng, requires_grad=True) for c in (3, 4)]
    fused = fusion(maps)
    assert fused.shape == (2, 6, 5, 7)
    for gradient in torch.autograd.grad(fused.square().sum(), maps):
        assert gradient.abs().sum() > 0
    # In training each map is normalised by its own statistics: a thousandfold map says the same.
    assert_close(fusion([maps[0] * 1000, maps[1]]), fused, atol=1e-3, rtol=1e-3)
