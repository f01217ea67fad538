"""An adapter gives the student's map the teacher's width and changes nothing else before it has learnt."""

import pytest
import torch
from torch.testing import assert_close

from distill.adapters import build_adapter


@pytest.fixture
def build():
    return build_adapter


def test_none_is_the_identity(build, rng):
    maps = torch.randn(2, 3, 5, 7, generator=rng)
    assert build("none", 3, 3)(maps) is maps


def test_none_refuses_maps_of_different_width_and_names_both(build):
    with pytest.raises(ValueError, match=r"student map of 3 channels.*teacher map of 8"):
        build("none", 3, 8)


@pytest.mark.parametrize("kind", ["conv1x1", "conv3x3", "mlp3"])
@pytest.mark.parametrize(("narrow", "wide"), [(3, 6), (6, 3)])
def test_it_changes_the_width_and_keeps_the_resolution(build, rng, kind, narrow, wide):
    assert build(kind, narrow, wide)(torch.randn(2, narrow, 5, 7, generator=rng)).shape == (2, wide, 5, 7)


@pytest.mark.parametrize("kind", ["conv1x1", "conv3x3"])
def test_untrained_conv_copies_channels_and_pads_with_zero(build, rng, kind):
    maps = torch.randn(2, 3, 5, 7, generator=rng)
    adapted = build(kind, 3, 4)(maps)
    assert_close(adapted[:, :3], maps)
    assert not adapted[:, 3].any()


def test_conv_trains(build, rng):
    conv = build("conv3x3", 3, 4)
    conv(torch.randn(2, 3, 5, 7, generator=rng)).square().sum().backward()
    assert conv.weight.grad.any()


@pytest.mark.parametrize("kind", ["conv1x1", "mlp3"])
def test_a_cell_is_adapted_by_itself(build, rng, kind):
    torch.manual_seed(1)  # of some weights, rectified units hide the change
    adapter, maps = build(kind, 3, 4), torch.randn(2, 3, 5, 7, generator=rng)
    changed = maps.clone()
    changed[0, :, 2, 3] += 1.0
    differs = (adapter(maps) != adapter(changed)).any(dim=1)
    assert differs.nonzero().tolist() == [[0, 2, 3]]


@pytest.mark.parametrize("kind", ["conv1x1", "conv3x3"])
def test_building_a_conv_draws_no_random_number(build, kind):
    before = torch.get_rng_state()
    build(kind, 3, 4)
    assert torch.equal(torch.get_rng_state(), before)
