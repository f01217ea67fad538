"""A checkpoint goes into exactly the detector it came from, whole, or not at all."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from detectors.presets import PRESETS
from harness.errors import InputError
from harness.train import checkpoint
from harness.train.checkpoint import load_model, save_model


@pytest.fixture
def saved(tmp_path):
    detector = PRESETS["tiny_lidar"].build()
    path = tmp_path / "model.safetensors"
    save_model(path, detector)
    return path, detector


def test_saved_detector_returns_bit_for_bit(saved):
    path, detector = saved
    torch.manual_seed(1)
    again = load_model(path, detector.spec)
    assert again.state_dict().keys() == detector.state_dict().keys()
    for name, tensor in detector.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_a_file_of_the_former_names_of_the_image_backbone_loads(tmp_path):
    detector = PRESETS["tiny_camera"].build()
    path = tmp_path / "model.safetensors"
    former = {
        "backbone.conv1.": "backbone.embedder.embedder.convolution.",
        "backbone.bn1.": "backbone.embedder.embedder.normalization.",
    }
    for level in range(4):
        now, then = f"backbone.layer{level + 1}.0.", f"backbone.encoder.stages.{level}.layers.0."
        former |= {f"{now}downsample.0.": f"{then}shortcut.convolution."}
        former |= {f"{now}downsample.1.": f"{then}shortcut.normalization."}
        for i in range(2):
            former |= {f"{now}conv{i + 1}.": f"{then}layer.{i}.convolution."}
            former |= {f"{now}bn{i + 1}.": f"{then}layer.{i}.normalization."}
    tensors = {}
    for name, tensor in detector.state_dict().items():
        (start,) = [start for start in former if start in name] or [""]
        tensors[name.replace(start, former.get(start, ""))] = tensor.contiguous()
    assert sum("backbone.layer" in name or "backbone.conv1" in name for name in tensors) == 0
    save_file(tensors, path)
    again = load_model(path, detector.spec).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in detector.state_dict().items())


def test_other_preset_is_refused_by_the_field_that_differs(saved):
    with pytest.raises(InputError, match=r"another preset: spec\.camera"):
        load_model(saved[0], PRESETS["tiny_camera"])


@pytest.mark.parametrize("damage", ["missing", "misshapen", "extra"])
def test_tensor_that_does_not_fit_is_named(saved, damage):
    path, detector = saved
    tensors = load_file(path)
    name = sorted(tensors)[0]
    if damage == "missing":
        del tensors[name]
    elif damage == "misshapen":
        tensors[name] = torch.zeros(3, 1)
    else:
        name = "aaa"
        tensors[name] = torch.zeros(1)
    save_file(tensors, path)
    with pytest.raises(InputError, match=f"tensor {name} is"):
        load_model(path, detector.spec)


def _first_set(value):
    def change(tensor):
        tensor.view(-1)[0] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("head.heatmap.weight", _first_set(float("nan")), "contains NaN or infinity"),
        ("head.heatmap.bias", _first_set(float("-inf")), "contains NaN or infinity"),
        ("head.shared.1.running_var", _first_set(float("inf")), "contains NaN or infinity"),
        ("head.shared.1.running_var", _first_set(-1.0), "contains a negative variance"),
        ("head.heatmap.weight", lambda tensor: tensor.double().fill_(1e300), "contains NaN or infinity"),
        ("head.heatmap.weight", lambda tensor: tensor.to(torch.int32), "is int32; allowed: floating point"),
        ("head.heatmap.weight", lambda tensor: tensor > 0, "is bool; allowed: floating point"),
        ("head.heatmap.weight", lambda tensor: tensor.to(torch.complex64), "is complex64; allowed: floating point"),
        ("head.shared.1.num_batches_tracked", lambda tensor: tensor.float(), "is float32; allowed: whole numbers"),
    ],
)
def test_tensor_that_holds_no_weights_is_named(saved, name, change, why):
    path, detector = saved
    tensors = load_file(path)
    save_file({**tensors, name: change(tensors[name].clone())}, path)
    with pytest.raises(InputError, match=rf"model\.safetensors: tensor {name} {why}"):
        load_model(path, detector.spec)


def test_weights_of_less_precision_are_weights(saved):
    path, detector = saved
    tensors = load_file(path)
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file(half, path)
    again = load_model(path, detector.spec).state_dict()
    assert all(torch.equal(again[name], tensor.to(again[name].dtype)) for name, tensor in half.items())


@pytest.mark.parametrize("keep", [0, 5, 1000])
def test_truncated_file_is_refused_by_name(saved, keep):
    path, detector = saved
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        load_model(path, detector.spec)


def test_file_with_other_classes_is_refused(saved, monkeypatch):
    from detectors.geometry.boxes import CLASSES

    path, detector = saved
    monkeypatch.setattr(checkpoint, "CLASSES", (CLASSES[1], CLASSES[0], *CLASSES[2:]))
    with pytest.raises(InputError, match="other classes or another order"):
        checkpoint.load_model(path, detector.spec)
