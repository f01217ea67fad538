"""The camera encoder returns a distribution over depth, and a BEV map of what its rays cross."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from detectors.batch import CameraViews
from detectors.encoders.camera import CameraSpec
from detectors.encoders.depth_net import CameraAwareDepthSpec
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


def _changed(**change):
    return SPEC.model_copy(update=change)


AWARE = {"depth_net": CameraAwareDepthSpec(width=8, dilations=(2,), groups=2, dropout=0.0)}


def test_stored_specs_mean_what_they_meant():
    assert set(SPEC.model_dump()) == {"image_size", "image", "depth_range", "depth_bins", "channels"}
    assert SPEC.out_channels == 5


def _two_keyframes(batch):
    """The first view of each sample as an earlier keyframe's, seen from two metres behind."""
    views = batch.views
    behind = views.ego_from_camera.clone()
    behind[:, 1] = behind[:, 0]
    behind[:, 1, 0, 3] -= 2.0
    return replace(views, ego_from_camera=behind)


@pytest.mark.parametrize("change", [{}, AWARE, {"aggregation": True}], ids=["plain", "aware", "aggregated"])
@pytest.mark.parametrize("history_gradient", [True, False])
def test_concatenated_keyframes_are_the_maps_of_each(change, history_gradient, tiny_batch, grid):
    """The newest first; each is what a camera without history makes of its views."""
    views = _two_keyframes(tiny_batch)
    torch.manual_seed(0)
    spec = _changed(keyframes=2, keyframe_join="concatenation", history_gradient=history_gradient, **change)
    encoder = spec.build(grid).eval()
    single = _changed(**change).build(grid).eval()
    single.load_state_dict(encoder.state_dict(), strict=True)
    with torch.no_grad():
        maps = encoder(views)
        # The calibration of an earlier view is that of the newest, but it is lifted from where it was taken.
        pose = views.ego_from_camera[:, :1]
        plans = [single._plan(views[:, part]) for part in (slice(0, 1), slice(1, 2))]
        alone = [
            single(replace(views[:, part], ego_from_camera=pose), plan)
            for part, plan in zip((slice(0, 1), slice(1, 2)), plans, strict=True)
        ]
    assert spec.out_channels == 10
    assert_close(maps.bev, torch.cat([each.bev for each in alone], dim=1))
    assert_close(maps.depth, torch.cat([each.depth for each in alone], dim=1))
    assert not torch.allclose(maps.bev[:, :5], maps.bev[:, 5:])


def test_history_without_gradient_teaches_nothing(tiny_batch, grid):
    """A loss on the earlier map alone has no gradient; one on the newest map has."""
    views = _two_keyframes(tiny_batch)
    torch.manual_seed(0)
    encoder = _changed(keyframes=2, keyframe_join="concatenation", history_gradient=False, **AWARE).build(grid)
    encoder(views).bev[:, 5:].sum().backward()
    assert not any(weight.grad is not None and weight.grad.any() for weight in encoder.parameters())
    bev = encoder(views).bev[:, :5]
    (bev * torch.randn_like(bev)).sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in encoder.image.parameters())


def test_history_without_gradient_has_batch_statistics_of_its_own(tiny_batch, grid):
    """What earlier keyframes show does not change what the newest one is normalised by."""
    views = _two_keyframes(tiny_batch)
    other = replace(views, images=torch.cat([views.images[:, :1], 255 - views.images[:, 1:]], dim=1))
    torch.manual_seed(0)
    encoder = _changed(keyframes=2, keyframe_join="concatenation", history_gradient=False).build(grid).train()
    maps, changed = encoder(views), encoder(other)
    assert torch.equal(maps.bev[:, :5], changed.bev[:, :5])
    assert not torch.equal(maps.bev[:, 5:], changed.bev[:, 5:])
    # Once a keyframe and a call.
    assert encoder.image.backbone.bn1.num_batches_tracked == 4


def test_the_calibration_changes_depths_and_nothing_else_of_a_plain_camera(tiny_batch, grid):
    views = tiny_batch.views
    lenses = replace(views, from_file=torch.diag(torch.tensor([2.0, 2.0, 1.0])).expand_as(views.intrinsics))
    for change, differs in (({}, False), (AWARE, True)):
        torch.manual_seed(0)
        encoder = _changed(**change).build(grid).eval()
        with torch.no_grad():
            assert torch.equal(encoder(views).depth, encoder(lenses).depth) != differs


@pytest.mark.parametrize("change", [{}, AWARE, {"aggregation": True}], ids=["plain", "aware", "aggregated"])
def test_every_weight_of_the_camera_learns(change, tiny_batch, grid):
    torch.manual_seed(0)
    encoder = _changed(**change).build(grid).train()
    bev = encoder(tiny_batch.views).bev
    (bev * torch.randn_like(bev)).sum().backward()
    assert [name for name, weight in encoder.named_parameters() if not weight.grad.any()] == []


def test_views_tell_how_they_were_changed_or_that_they_were_not(tiny_batch):
    views = tiny_batch.views
    assert torch.equal(views.from_file, torch.eye(3).expand(2, 2, 3, 3))
    assert torch.equal(views.moved, torch.eye(4).expand(2, 2, 4, 4))
    one = views[1, :1]
    assert isinstance(one, CameraViews)
    assert torch.equal(one.images, views.images[1, :1])
