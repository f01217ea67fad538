"""Saves and loads models as safetensors with their spec. Loading is strict and names each mismatch."""

import json
from pathlib import Path
from typing import Any, overload

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from detectors.detector import Detector, DetectorSpec
from detectors.encoders.resnet import current_name
from detectors.geometry.boxes import CLASSES
from detectors.segmenter import Segmenter, SegmenterSpec
from harness.errors import InputError
from harness.runs.folder import atomic_write


def save_model(path: Path, model: Detector | Segmenter) -> None:
    """Write weights, running statistics and spec."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    # One entry: safetensors keeps several in an order that changes from call to call.
    written = json.dumps({"classes": CLASSES, "spec": model.spec.model_dump(mode="json")})
    atomic_write(path, save(tensors, metadata={"detector": written}))


def check_checkpoint(path: Path, spec: DetectorSpec | SegmenterSpec) -> None:
    """Raise InputError if the file does not contain exactly the tensors of this model with finite numbers."""
    metadata, shapes = _header(path)
    if difference := _difference(metadata.get("classes", list(CLASSES)), list(CLASSES), "classes"):
        raise InputError(f"checkpoint {path} has other classes or another order of classes: {difference}")
    wanted_spec = spec.model_dump(mode="json")
    if difference := _difference(metadata.get("spec", wanted_spec), wanted_spec):
        raise InputError(f"checkpoint {path} is of another preset: {difference}")
    tensors = spec.build().state_dict()
    wanted = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | shapes.keys()):
        if wanted.get(name) != shapes.get(name):
            raise InputError(
                f"checkpoint {path} does not fit the detector: tensor {name} is "
                f"{shapes.get(name, 'missing')} in the file, {wanted.get(name, 'not there')} in the detector"
            )
    for name, tensor in _tensors(path).items():
        if wrong := _what_is_wrong(name, tensor, tensors[name]):
            raise InputError(f"checkpoint {path}: tensor {name} {wrong}")


@overload
def load_model(path: Path, spec: DetectorSpec) -> Detector: ...
@overload
def load_model(path: Path, spec: SegmenterSpec) -> Segmenter: ...
def load_model(path: Path, spec: DetectorSpec | SegmenterSpec) -> Detector | Segmenter:
    """Build the model and fill every tensor of it from the file, or raise InputError."""
    check_checkpoint(path, spec)
    model = spec.build()
    model.load_state_dict(_tensors(path), strict=True)
    return model


def open_detector(path: Path) -> Detector:
    """The detector of a file that `save_model` wrote, built to the spec that is written in it."""
    metadata, _ = _header(path)
    try:
        spec = DetectorSpec.model_validate(metadata.get("spec"))
    except ValidationError as error:
        raise InputError(
            f"checkpoint {path} contains no valid spec of a detector: {error.errors()[0]['msg']}"
        ) from error
    return load_model(path, spec)


def _header(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """What `save_model` wrote of the detector (empty in files from elsewhere), and the tensors' shapes."""
    try:
        with safe_open(path, framework="pt") as file:
            written = json.loads((file.metadata() or {}).get("detector", "{}"))
            if not isinstance(written, dict):
                raise ValueError(f"its metadata 'detector' is {type(written).__name__}, not what crossbev writes there")
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return written, {current_name(name): shape for name, shape in shapes.items()}
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"checkpoint {path} cannot be read as safetensors: {error}") from error


def _tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, by the names that models have today."""
    return {current_name(name): tensor for name, tensor in load_file(path).items()}


def _what_is_wrong(name: str, tensor: Tensor, like: Tensor) -> str:
    """Why a tensor of a file cannot stand for one of a model; empty where it can."""
    if tensor.is_floating_point() != like.is_floating_point() or tensor.is_complex():
        return f"is {str(tensor.dtype).removeprefix('torch.')}; allowed: {_KINDS[like.is_floating_point()]}"
    # As the model will have it: what is finite in float64 may be none in float32.
    values = tensor.to(like.dtype)
    if not values.isfinite().all():
        return "contains NaN or infinity; the training or the writing failed"
    if name.endswith("running_var") and (values < 0).any():
        return "contains a negative variance; the training or the writing failed"
    return ""


_KINDS = {True: "floating point numbers, as weights are", False: "whole numbers, as counts are"}


def _difference(stored: object, wanted: object, at: str = "spec") -> str:
    """The first place where two specs differ, for people; empty where they agree."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in wanted | stored:
            if text := _difference(stored.get(key), wanted.get(key), f"{at}.{key}"):
                return text
        return ""
    return "" if stored == wanted else f"{at} is {json.dumps(stored)[:80]} there, {json.dumps(wanted)[:80]} here"
