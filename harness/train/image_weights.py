"""Weights that somebody else's ResNet was trained to, such as torchvision's on ImageNet, for an image backbone."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from detectors.detector import Detector, DetectorSpec
from detectors.encoders.resnet import ResNetSpec, current_name
from harness.errors import InputError, input_error_on_os_error

_PREFIXES = ("resnet.", "backbone.", "module.")
"""Of transformers' classifier, of detection frameworks and of distributed trainings."""
_CLASSIFIER = ("fc.", "classifier.")


def check_image_weights(path: Path, spec: DetectorSpec) -> None:
    """Raise InputError for a file that does not hold exactly the tensors of the detector's image backbone."""
    _fitting(path, spec)


def fill_image_backbone(detector: Detector, path: Path) -> None:
    """Give the image backbone the weights and running statistics of a file, or raise InputError.

    The file is torchvision's (``resnet50-0676ba61.pth``) or holds the same tensors as safetensors, by torchvision's or
    by transformers' names; its classifier is left out.
    """
    assert detector.camera is not None
    detector.camera.image.backbone.load_state_dict(_fitting(path, detector.spec), strict=True)


def _fitting(path: Path, spec: DetectorSpec) -> dict[str, Tensor]:
    """The tensors of a file by our names, all of those that the backbone has and no others."""
    backbone = None if spec.camera is None else spec.camera.image.backbone
    if not isinstance(backbone, ResNetSpec):
        raise InputError(f"image weights {path}: they are for a ResNet; the detector has {_described(spec)}")
    with torch.device("meta"):
        wanted = backbone.build().state_dict()
    tensors = {_name(name): tensor for name, tensor in _read(path).items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_CLASSIFIER)}
    for name in wanted:
        # torch counts batches since 2017; older files do not have it.
        if name.endswith("num_batches_tracked"):
            tensors.setdefault(name, torch.zeros((), dtype=torch.long))
    for name in sorted(wanted.keys() | tensors.keys()):
        there, here = (tuple(each[name].shape) if name in each else None for each in (tensors, wanted))
        if there != here:
            raise InputError(
                f"image weights {path} do not fit the backbone: tensor {name} is {there or 'missing'} in the file, "
                f"{here or 'not there'} in the backbone"
            )
        if not tensors[name].isfinite().all():
            raise InputError(f"image weights {path}: tensor {name} contains NaN or infinity")
    return tensors


def _described(spec: DetectorSpec) -> str:
    return "no camera" if spec.camera is None else f"a {spec.camera.image.backbone.kind}"


def _name(name: str) -> str:
    while prefix := next((each for each in _PREFIXES if name.startswith(each)), ""):
        name = name.removeprefix(prefix)
    return current_name(name)


def _read(path: Path) -> dict[str, Tensor]:
    with input_error_on_os_error(f"image weights {path} cannot be read"):
        try:
            stored: Any = (
                load_file(path)
                if path.suffix == ".safetensors"
                else torch.load(path, weights_only=True, map_location="cpu")
            )
        except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"image weights {path} are no file of tensors: {reason}") from error
    if isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict):
        stored = stored["state_dict"]
    if not isinstance(stored, dict) or not all(isinstance(each, Tensor) for each in stored.values()):
        raise InputError(f"image weights {path} hold no tensors by name")
    return stored
