"""Image necks bring levels of a backbone to one stride: by sums from coarse to fine, or side by side."""

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from detectors.encoders.image import ImageSpec, SwinSpec
from detectors.encoders.image_neck import FpnSpec, PyramidSpec, SecondFpnSpec
from detectors.encoders.resnet import ResNetSpec

BACKBONE = ResNetSpec(stem_width=4, widths=(4, 6, 8, 10), depths=(1, 1, 1, 1))
SWIN = SwinSpec(width=4, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=3)


def test_the_default_is_what_stored_specs_mean():
    assert "neck" not in ImageSpec(backbone=BACKBONE, channels=12).model_dump()
    assert ImageSpec(backbone=BACKBONE, channels=12).neck == PyramidSpec()


@pytest.mark.parametrize("backbone", [BACKBONE, SWIN], ids=["resnet", "swin"])
@pytest.mark.parametrize(
    ("neck", "stride"), [(PyramidSpec(), 8), (FpnSpec(), 16), (SecondFpnSpec(), 16), (SecondFpnSpec(stride=8), 8)]
)
def test_features_have_the_stride_and_the_channels(backbone, neck, stride):
    spec = ImageSpec(backbone=backbone, channels=12, neck=neck)
    features = spec.build()(torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    assert spec.stride == stride
    assert features.shape == (2, 12, 64 // stride, 96 // stride)


def test_second_fpn_puts_levels_side_by_side(rng):
    """A finer level in windows that do not overlap, an equal one pixel by pixel, a coarser one spread out."""
    widths = (2, 3, 4, 5)
    lateral = SecondFpnSpec().lateral(widths, 8).double().eval()
    levels = [
        torch.randn(1, c, 16 // 2**i, 24 // 2**i, generator=rng, dtype=torch.float64) for i, c in enumerate(widths)
    ]
    merged = SecondFpnSpec().merge([side(level) for side, level in zip(lateral, levels, strict=True)])
    assert merged.shape == (1, 8, 4, 6)
    row, column = 3, 4
    wanted = []
    for i, (level, (conv, norm, _)) in enumerate(zip(levels, lateral, strict=True)):
        assert (norm.eps, norm.momentum) == (1e-3, 0.01)
        size = (4, 2, 1, 2)[i]
        for o in range(2):
            if i < 3:  # strides 4, 8 and 16
                window = level[0, :, row * size : (row + 1) * size, column * size : (column + 1) * size]
                value = (conv.weight[o] * window).sum()
            else:
                value = (conv.weight[:, o, row % 2, column % 2] * level[0, :, row // 2, column // 2]).sum()
            wanted.append(torch.relu(value / (1 + norm.eps) ** 0.5))
    assert_close(merged[0, :, row, column], torch.stack(wanted))


def test_fpn_sums_levels_and_has_biases(rng):
    neck = FpnSpec()
    fine, coarse = torch.randn(1, 3, 2, 4, generator=rng), torch.randn(1, 3, 1, 2, generator=rng)
    merged = neck.merge([fine, coarse])
    assert_close(merged[0, :, 1, 3], fine[0, :, 1, 3] + coarse[0, :, 0, 1])
    encoder = ImageSpec(backbone=BACKBONE, channels=4, neck=neck).build()
    names = {name for name in encoder.state_dict() if not name.startswith("backbone")}
    assert names == {
        f"{part}.{tensor}" for part in ("lateral.0", "lateral.1", "smooth") for tensor in ("weight", "bias")
    }
    assert encoder.lateral[0].in_channels == 8


@pytest.mark.parametrize("neck", [FpnSpec(), SecondFpnSpec()])
def test_every_weight_of_the_levels_that_are_read_learns(neck):
    torch.manual_seed(0)
    encoder = ImageSpec(backbone=BACKBONE, channels=12, neck=neck).build().train()
    output = encoder(torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8))
    (output * torch.randn_like(output)).sum().backward()
    assert [name for name, weight in encoder.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_levels_that_cannot_share_the_channels_are_refused():
    with pytest.raises(ValidationError, match="4 levels cannot share 10 channels"):
        ImageSpec(backbone=BACKBONE, channels=10, neck=SecondFpnSpec())


@pytest.mark.parametrize(("neck", "multiple"), [(PyramidSpec(), 8), (FpnSpec(), 16), (SecondFpnSpec(), 32)])
def test_images_whose_levels_do_not_fit_are_refused(neck, multiple):
    spec = ImageSpec(backbone=BACKBONE, channels=12, neck=neck)
    spec.require_size((multiple, 3 * multiple))
    for size in ((multiple, multiple + multiple // 2), (0, multiple)):
        with pytest.raises(ValueError, match=f"not in whole multiples of {multiple}"):
            spec.require_size(size)
