"""Fusion listens to every map, whatever its scale."""

import pytest
import torch
import torch.nn.functional as F
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


def _maps(rng):
    return [torch.randn(2, c, 5, 7, generator=rng) for c in (3, 4)]


def _mixed(together, fusion):
    conv, norm = fusion.mix[0], fusion.mix[1]
    mixed = F.conv2d(together, conv.weight, padding=1)
    return F.batch_norm(mixed, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps).relu()


def test_maps_are_concatenated_and_convolved(rng):
    maps, fusion = _maps(rng), FusionSpec(channels=6, normed=False).build((3, 4)).eval()
    assert_close(fusion(maps), _mixed(torch.cat(maps, dim=1), fusion))


def test_a_channel_gate_weighs_channels_by_the_means_of_all(rng):
    maps, fusion = _maps(rng), FusionSpec(channels=6, normed=False, gate="channel").build((3, 4)).eval()
    together = torch.cat(maps, dim=1)
    conv = fusion.gate[1]
    weight = (together.mean(dim=(2, 3)) @ conv.weight[:, :, 0, 0].T + conv.bias).sigmoid()
    assert_close(fusion(maps), _mixed(together * weight[:, :, None, None], fusion))


def test_a_cell_gate_has_a_convolution_for_each_sensor(rng):
    # CRKD's form of it: one convolution of all maps for each sensor's weights.
    maps, fusion = _maps(rng), FusionSpec(channels=6, normed=False, gate="cell").build((3, 4)).eval()
    together, conv = torch.cat(maps, dim=1), fusion.gate[0]
    gated = [
        each * F.conv2d(together, conv.weight[part], conv.bias[part], padding=1).sigmoid()
        for each, part in zip(maps, (slice(0, 3), slice(3, 7)), strict=True)
    ]
    assert_close(fusion(maps), _mixed(torch.cat(gated, dim=1), fusion))


@pytest.mark.parametrize(("gate", "parameters"), [("channel", 262_656), ("cell", 9 * 512 * 512 + 512)])
def test_gates_of_published_widths(gate, parameters):
    with torch.device("meta"):
        fusion = FusionSpec(channels=256, normed=False, gate=gate).build((256, 256))
    assert sum(each.numel() for each in fusion.gate.parameters()) == parameters
