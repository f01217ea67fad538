"""The ResNet is that of transformers, drawn alike and computing alike, under torchvision's names."""

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close
from transformers import ResNetBackbone, ResNetConfig

from detectors.encoders.resnet import ResNetSpec, current_name


@pytest.fixture(params=["basic", "bottleneck"])
def spec(request):
    return ResNetSpec(stem_width=8, widths=(12, 16, 20, 24), depths=(2, 1, 2, 1), block=request.param)


def _former(spec):
    """What the backbone was before it was ours."""
    return ResNetBackbone(
        ResNetConfig(
            embedding_size=spec.stem_width,
            hidden_sizes=list(spec.widths),
            depths=list(spec.depths),
            layer_type=spec.block,
            out_features=["stage2", "stage3", "stage4"],
        )
    )


def test_a_seed_draws_the_weights_that_it_drew_before(spec):
    torch.manual_seed(3)
    former, then = _former(spec), torch.get_rng_state()
    torch.manual_seed(3)
    backbone = spec.build()
    assert torch.equal(torch.get_rng_state(), then)
    weights = list(backbone.named_parameters())
    for (name, weight), (former_name, former_weight) in zip(weights, former.named_parameters(), strict=True):
        assert name == current_name(former_name)
        assert torch.equal(weight, former_weight), name


def test_weights_of_former_names_load_and_give_the_same_maps(spec, rng):
    former = _former(spec).eval()
    with torch.no_grad():
        for tensor in former.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=rng))
    backbone = spec.build().eval()
    backbone.load_state_dict(former.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 96, generator=rng)
    for ours, theirs in zip(backbone(images).feature_maps, former(images).feature_maps, strict=True):
        assert_close(ours, theirs)


def test_names_are_those_of_torchvision():
    names = set(ResNetSpec(stem_width=4, widths=(4, 8, 8, 8), depths=(1, 1, 1, 1)).build().state_dict())
    blocks = {"layer1.0": False, "layer2.0": True, "layer3.0": True, "layer4.0": True}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    wanted = {"conv1.weight", *(f"bn1.{tensor}" for tensor in norm)}
    for block, has_shortcut in blocks.items():
        wanted |= {f"{block}.conv{i}.weight" for i in (1, 2)} | {f"{block}.bn{i}.{t}" for i in (1, 2) for t in norm}
        if has_shortcut:
            wanted |= {f"{block}.downsample.0.weight", *(f"{block}.downsample.1.{tensor}" for tensor in norm)}
    assert names == wanted


def test_a_current_name_stays():
    for name in (
        "camera.image.backbone.layer1.0.conv1.weight",
        "lidar.encoder.stages.0.weight",
        "head.shared.0.weight",
    ):
        assert current_name(name) == name


def test_basic_blocks_are_what_stored_specs_mean():
    spec = ResNetSpec(stem_width=4, widths=(4, 8, 8, 8), depths=(1, 1, 1, 1))
    assert "block" not in spec.model_dump()
    assert spec.block == "basic"


def test_bottlenecks_without_whole_channels_are_refused():
    with pytest.raises(ValidationError, match="not in whole multiples of 4"):
        ResNetSpec(stem_width=4, widths=(4, 8, 10, 12), depths=(1, 1, 1, 1), block="bottleneck")


def test_any_levels_come_out(spec):
    torch.manual_seed(0)
    backbone = spec.build((4, 16)).eval()
    maps = backbone(torch.randn(1, 3, 64, 96)).feature_maps
    assert [tuple(level.shape[1:]) for level in maps] == [(12, 16, 24), (20, 4, 6)]
    assert backbone.channels == [12, 20]
    # The last level is there, as its weights are in a file, and not computed.
    assert "layer4.0.conv1.weight" in backbone.state_dict()


def test_a_frozen_stem_stays_as_it_begins(rng):
    spec = ResNetSpec(stem_width=4, widths=(4, 8, 8, 8), depths=(1, 1, 1, 1), frozen_stem=True)
    torch.manual_seed(0)
    backbone = spec.build().train()
    stem = {name: value.clone() for name, value in backbone.state_dict().items() if name.startswith(("conv1", "bn1"))}
    trained = [weight for weight in backbone.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    images = 3 + torch.randn(2, 3, 64, 64, generator=rng)
    sum(level.square().sum() for level in backbone(images).feature_maps).backward()
    optimizer.step()
    after = backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in stem.items())
    assert backbone.layer1[0].bn1.num_batches_tracked == 1
    assert not backbone.bn1.training
    assert backbone.layer1[0].bn1.training


def test_a_stem_that_learns_is_what_stored_specs_mean():
    assert "frozen_stem" not in ResNetSpec(stem_width=4, widths=(4, 8, 8, 8), depths=(1, 1, 1, 1)).model_dump()


@pytest.mark.parametrize(("depths", "parameters"), [((3, 4, 6, 3), 23_508_032), ((3, 4, 23, 3), 42_500_160)])
def test_resnet_50_and_101_have_torchvisions_parameters(depths, parameters):
    with torch.device("meta"):
        backbone = ResNetSpec(stem_width=64, widths=(256, 512, 1024, 2048), depths=depths, block="bottleneck").build()
    assert sum(weight.numel() for weight in backbone.parameters()) == parameters
