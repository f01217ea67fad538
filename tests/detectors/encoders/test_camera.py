"""The camera encoder returns a distribution over depth, and a BEV map of what its rays cross."""

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from detectors.encoders.camera import CameraSpec
from detectors.encoders.image import ImageEncoder, ImageSpec, SwinSpec
from detectors.encoders.resnet import ResNetSpec

IMAGE = ImageSpec(backbone=ResNetSpec(stem_width=4, widths=(4, 6, 8, 10), depths=(1, 1, 1, 1)), channels=12)
SWIN = ImageSpec(backbone=SwinSpec(width=4, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=3), channels=12)
SPEC = CameraSpec(image_size=(32, 48), image=IMAGE, depth_range=(1.0, 13.0), depth_bins=7, channels=5)


@pytest.fixture
def maps(tiny_batch, grid):
    torch.manual_seed(0)
    return SPEC.build(grid)(tiny_batch.views)


def test_maps_have_the_sizes_of_the_spec(maps):
    assert maps.image_features.shape == (2, 2, 12, 4, 6)
    assert maps.depth.shape == (2, 2, 7, 4, 6)
    assert maps.bev.shape == (2, 5, 12, 16)


def test_depth_sums_to_one(maps):
    assert_close(maps.depth.sum(dim=2), torch.ones(2, 2, 4, 6))


def test_cells_that_no_ray_crosses_are_zero(maps):
    # The two cameras stand at the origin and look along +x and -x: nothing reaches the far right of the origin.
    assert not maps.bev[:, :, 0, 4].any()
    assert maps.bev.any()


@pytest.mark.parametrize("spec", [IMAGE, SWIN], ids=["resnet", "swin"])
@pytest.mark.parametrize("size", [(32, 48), (40, 56), (64, 176)])
def test_the_pyramid_has_a_stride_of_8_whatever_the_coarser_levels_round_to(spec, size):
    h, w = size
    features = ImageEncoder(spec)(torch.zeros(2, 3, h, w, dtype=torch.uint8))
    assert features.shape == (2, 12, h // 8, w // 8)


def test_images_are_normalised_to_the_statistics_of_pretrained_backbones():
    encoder = ImageEncoder(IMAGE)
    seen = []
    encoder.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.zeros(1, 3, 32, 48, dtype=torch.uint8)
    images[0, 1] = 255
    encoder(images)
    # ImageNet: mean 0.485, 0.456, 0.406 and deviation 0.229, 0.224, 0.225 of red, green, blue in [0, 1].
    assert_close(seen[0][0, :, 0, 0], torch.tensor([-0.485 / 0.229, 0.544 / 0.224, -0.406 / 0.225]))


@pytest.mark.parametrize("spec", [IMAGE, SWIN], ids=["resnet", "swin"])
def test_every_weight_of_the_image_encoder_learns(spec):
    encoder = ImageEncoder(spec).train()
    encoder(torch.randint(256, (2, 3, 32, 48), dtype=torch.uint8)).square().sum().backward()
    idle = [name for name, weight in encoder.named_parameters() if weight.grad is None or not weight.grad.any()]
    # A softmax does not see a shift that all keys have in common; transformers' Swin has a last norm for another use.
    unread = ("key.bias", "backbone.swin.layernorm.weight", "backbone.swin.layernorm.bias")
    assert [name for name in idle if not name.endswith(unread)] == []


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValidationError, match="3 heads do not divide the 8 channels of level 1"):
        SwinSpec(width=4, depths=(1, 1, 1, 1), heads=(1, 3, 4, 8))


@pytest.mark.parametrize(
    "change", [{"image_size": (30, 48)}, {"image_size": (0, 48)}, {"depth_range": (5.0, 1.0)}, {"depth_bins": 0}]
)
def test_an_impossible_camera_is_refused(change):
    with pytest.raises(ValidationError):
        CameraSpec(**(SPEC.model_dump() | change))
