"""Image backbones begin with the weights of a file, by torchvision's names or transformers', all of them or none."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import ResNetBackbone, ResNetConfig

from detectors.encoders.image import SwinSpec
from detectors.presets import PRESETS
from harness.errors import InputError
from harness.train.image_weights import check_image_weights, fill_image_backbone

SPEC = PRESETS["tiny_camera"]
BACKBONE = SPEC.camera.image.backbone


@pytest.fixture
def tensors(rng):
    """A backbone of torchvision's names with its classifier."""
    state = BACKBONE.build().state_dict()
    state = {name: torch.rand(tensor.shape, generator=rng) + 0.5 for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    return state | {"fc.weight": torch.zeros(10, 128), "fc.bias": torch.zeros(10)}


@pytest.fixture
def built():
    torch.manual_seed(0)
    return SPEC.build()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_torchvision_fills_the_backbone_and_nothing_else(tmp_path, tensors, built, suffix):
    path = tmp_path / f"resnet{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tensors, path)
    before = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    fill_image_backbone(built, path)
    for name, tensor in built.state_dict().items():
        inside = name.removeprefix("camera.image.backbone.")
        if inside == name:
            assert torch.equal(tensor, before[name]), name
        elif inside.endswith("num_batches_tracked"):
            assert tensor == 0
        else:
            assert torch.equal(tensor, tensors[inside]), name


def test_names_of_transformers_are_known(tmp_path, built):
    theirs = ResNetBackbone(
        ResNetConfig(
            embedding_size=BACKBONE.stem_width,
            hidden_sizes=list(BACKBONE.widths),
            depths=list(BACKBONE.depths),
            layer_type=BACKBONE.block,
        )
    )
    path = tmp_path / "model.safetensors"
    save_file({f"resnet.{name}": tensor for name, tensor in theirs.state_dict().items()}, path)
    fill_image_backbone(built, path)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        ours = built.eval().camera.image.backbone(images).feature_maps[-1]
        assert torch.allclose(ours, theirs.eval()(images).feature_maps[-1], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1.0.conv1.weight": None}, r"layer1\.0\.conv1\.weight is missing in the file, \(24, 16, 3, 3\) in"),
        ({"layer4.7.bn1.bias": torch.zeros(3)}, r"layer4\.7\.bn1\.bias is \(3,\) in the file, not there in the"),
        (
            {"conv1.weight": torch.zeros(64, 3, 7, 7)},
            r"conv1\.weight is \(64, 3, 7, 7\) in the file, \(16, 3, 7, 7\) in",
        ),
        ({"bn1.bias": torch.full((16,), torch.nan)}, "bn1.bias contains NaN"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, tensors, change, message):
    path = tmp_path / "resnet.pth"
    torch.save({name: tensor for name, tensor in (tensors | change).items() if tensor is not None}, path)
    with pytest.raises(InputError, match=f"resnet.pth.*{message}"):
        check_image_weights(path, SPEC)


@pytest.mark.parametrize("content", [b"", b"<html>Sign in</html>", b"PK\x03\x04 and no more"])
def test_a_file_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "resnet.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"resnet\.pth are no file of tensors") as caught:
        check_image_weights(path, SPEC)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_would_have_to_run_is_refused(tmp_path):
    path = tmp_path / "resnet.pth"
    torch.save({"model": torch.nn.Linear(2, 2)}, path)
    with pytest.raises(InputError, match=r"resnet\.pth are no file of tensors"):
        check_image_weights(path, SPEC)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"missing\.pth cannot be read"):
        check_image_weights(tmp_path / "missing.pth", SPEC)


def test_other_backbones_are_named(tmp_path, tensors):
    path = tmp_path / "resnet.pth"
    torch.save(tensors, path)
    swin = SwinSpec(width=24, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=5)
    image = SPEC.camera.image.model_copy(update={"backbone": swin})
    camera = SPEC.camera.model_copy(update={"image": image})
    with pytest.raises(InputError, match="for a ResNet; the detector has a swin"):
        check_image_weights(path, SPEC.model_copy(update={"camera": camera}))
