"""SECOND's neck: stages one after the other, brought to one resolution."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch.testing import assert_close

from detectors.encoders.second_neck import SecondNeckSpec

VOXELS = {"widths": (4, 6), "strides": (1, 2), "convs": (2, 3), "up_widths": (5, 7), "up_factors": (1.0, 2.0)}
PILLARS = {
    "widths": (4, 6, 8),
    "strides": (2, 2, 2),
    "convs": (1, 2, 2),
    "up_widths": (5, 5, 5),
    "up_factors": (0.5, 1.0, 2.0),
}


def _norm(x, module):
    return F.batch_norm(
        x, module.running_mean, module.running_var, module.weight, module.bias, training=False, eps=module.eps
    )


@pytest.mark.parametrize("fields", [VOXELS, PILLARS])
def test_it_is_convolutions_and_a_pyramid(rng, fields):
    spec = SecondNeckSpec(**fields)
    torch.manual_seed(0)
    neck = spec.build(3).eval()
    for module in neck.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(generator=rng)
            module.running_var.uniform_(0.5, 2, generator=rng)
    bev = torch.randn(2, 3, 16, 24, generator=rng)
    level, maps = bev, []
    for block, deblock, stride, factor in zip(neck.blocks, neck.deblocks, spec.strides, spec.up_factors, strict=True):
        for i in range(0, len(block), 3):
            level = F.conv2d(level, block[i].weight, stride=stride if i == 0 else 1, padding=1)
            level = _norm(level, block[i + 1]).relu()
        weight = deblock[0].weight
        if factor > 1:
            up = F.conv_transpose2d(level, weight, stride=2)
        else:
            up = F.conv2d(level, weight, stride=round(1 / factor))
        maps.append(_norm(up, deblock[1]).relu())
    refined = neck(bev)
    assert refined.shape == (2, spec.out_channels, 16 // spec.stride, 24 // spec.stride)
    assert_close(refined, torch.cat(maps, dim=1), atol=1e-5, rtol=1e-5)


def test_an_odd_number_of_cells_stays_odd():
    assert SecondNeckSpec(**VOXELS).build(3)(torch.zeros(2, 3, 7, 9)).shape == (2, 12, 7, 9)


def test_its_norms_have_the_constants_of_second():
    norms = [m for m in SecondNeckSpec(**VOXELS).build(3).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"convs": (2,)}, "1 convs for 2 widths"),
        ({"up_factors": (1.0, 1.0)}, "the stages end at different strides: 1, 2"),
        ({"up_factors": (0.7, 1.4)}, "neither whole numbers nor 1 divided by one"),
    ],
)
def test_stages_that_do_not_meet_are_refused(change, words):
    with pytest.raises(ValidationError, match=words):
        SecondNeckSpec(**(VOXELS | change))
