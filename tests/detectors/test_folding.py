"""A folded model computes what the model computes, without its batch norms, and leaves the model alone."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectors.cost import example_batch
from detectors.encoders.bev_trunk import ResNetFpnTrunkSpec, ResNetUpTrunkSpec
from detectors.encoders.depth_net import CameraAwareDepthSpec
from detectors.encoders.image_neck import SecondFpnSpec
from detectors.encoders.resnet import ResNetSpec
from detectors.folding import folded
from detectors.presets import PRESETS


def _lived_in(model, rng):
    """The model with statistics and weights of norms as a training leaves them."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_var, module.weight, module.running_mean, module.bias):
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=rng))
    return model.eval()


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_folded_backbone_has_no_norm_and_the_same_maps(rng, block):
    spec = ResNetSpec(stem_width=4, widths=(4, 8, 12, 16), depths=(1, 2, 1, 1), block=block)
    backbone = _lived_in(spec.build().double(), rng)
    quick = folded(backbone)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    images = torch.randn(2, 3, 32, 64, generator=rng, dtype=torch.float64)
    assert_close(quick(images).feature_maps, backbone(images).feature_maps, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("preset", ["tiny_camera_lidar", "tiny_radar"])
def test_a_folded_detector_has_the_same_maps(rng, preset):
    spec = PRESETS[preset]
    detector, batch = _lived_in(spec.build(), rng), example_batch(spec, 1)
    before = copy.deepcopy(detector.state_dict())
    with torch.no_grad():
        output, quick = detector(batch), folded(detector)(batch)
    assert_close(quick.bev_low, output.bev_low, rtol=1e-4, atol=1e-4)
    assert_close(quick.head.boxes, output.head.boxes, rtol=1e-3, atol=1e-3)
    after = detector.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


TRUNKS = {
    "resnet_fpn": ResNetFpnTrunkSpec(stem_width=6, widths=(6, 8), depths=(1, 1), strides=(1, 2), up_width=5),
    "resnet_up": ResNetUpTrunkSpec(widths=(4, 6), depths=(1, 1), strides=(2, 2), channels=3),
}


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_folded_camera_with_all_its_parts_has_the_same_maps(rng, trunk):
    tiny = PRESETS["tiny_camera"]
    image = tiny.camera.image.model_copy(update={"neck": SecondFpnSpec()})
    parts = {
        "image_size": (64, 96),
        "image": image,
        "keyframes": 2,
        "keyframe_join": "concatenation",
        "history_gradient": False,
        "depth_net": CameraAwareDepthSpec(width=16, dilations=(2,)),
        "aggregation": True,
    }
    spec = tiny.model_copy(update={"camera": tiny.camera.model_copy(update=parts), "neck": TRUNKS[trunk]})
    torch.manual_seed(0)
    detector, batch = _lived_in(spec.build(), rng), example_batch(spec, 1)
    quick = folded(detector)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    with torch.no_grad():
        output, folded_output = detector(batch), quick(batch)
    assert_close(folded_output.bev_low, output.bev_low, rtol=1e-3, atol=1e-3 * output.bev_low.abs().max().item())
    assert_close(folded_output.bev_high, output.bev_high, rtol=1e-3, atol=1e-3 * output.bev_high.abs().max().item())


def test_a_norm_that_pads_with_what_it_adds_is_not_folded(rng):
    # The zeros beyond the border are those of the normalised map.
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)).eval()
    assert isinstance(folded(_lived_in(model, rng))[0], nn.BatchNorm2d)


def test_statistics_of_a_batch_are_not_folded():
    with pytest.raises(AssertionError, match="cannot be folded"):
        folded(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train())
