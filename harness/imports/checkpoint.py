"""Reads a checkpoint that somebody else's program wrote, as plain tensors and plain values, and nothing that runs."""

import hashlib
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from harness.errors import InputError, input_error_on_os_error

WEIGHTS = ("state_dict", "model_state", "model_state_dict", "model", "net", "module")
"""Keys under which programs keep the weights that they train."""
AVERAGES = ("ema_state_dict", "state_dict_ema", "ema_state", "model_ema", "ema_model", "ema")
"""Keys under which they keep their exponential moving average."""
PREFIXES = ("module.", "model.", "ema_model.", "ema.")
"""Of wrappers such as DistributedDataParallel and Lightning, in front of every name."""
_META = ("meta", "dataset_meta")


@dataclass(frozen=True)
class Checkpoint:
    """Weights by the names of the program that wrote them, without prefixes."""

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    """What the file says of itself; empty if it says nothing."""
    averaged: bool
    """Whether the tensors are a moving average."""


def read_checkpoint(path: Path, averaged: bool | None = None) -> Checkpoint:
    """Read a file of torch or safetensors.

    Args:
        path: The file.
        averaged: Whether to take the moving average of the weights, or the weights; by default what there is, and the
            weights of a file with both.

    Raises:
        InputError: It cannot be read, holds more than tensors and plain values, or lacks what is asked for.
    """
    with input_error_on_os_error(f"checkpoint {path} cannot be read"):
        content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if reason := _no_checkpoint(content):
        raise InputError(f"checkpoint {path} is {reason}")
    stored = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    plain, average = (_container(stored, keys) for keys in (WEIGHTS, AVERAGES))
    if plain is None and average is None and _is_state(stored):
        plain = stored
    if plain is not None:
        # mmdetection's hook keeps the average beside the weights, as buffers whose names have no dots.
        beside = {name.removeprefix("ema_"): name for name in plain if name.startswith("ema_") and "." not in name}
        if beside and average is None:
            known = {name.replace(".", "_"): name for name in plain if name not in beside.values()}
            average = {**plain, **{known[short]: plain[name] for short, name in beside.items() if short in known}}
            average = {name: tensor for name, tensor in average.items() if name not in beside.values()}
        plain = {name: tensor for name, tensor in plain.items() if name not in beside.values()}
    wants_average = averaged if averaged is not None else plain is None and average is not None
    chosen = average if wants_average else plain
    if chosen is None:
        kind, keys = ("moving average", AVERAGES) if wants_average else ("weights", WEIGHTS)
        raise InputError(
            f"checkpoint {path} has no {kind}: none of {', '.join(keys)} is among its keys, which are "
            f"{', '.join(sorted(map(str, stored))[:8])}"
        )
    meta = {name: stored[name] for name in _META if name in stored} if isinstance(stored, dict) else {}
    return Checkpoint(path, digest, without_prefixes(chosen), meta, wants_average)


def without_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the prefixes that all of their names have."""
    names = dict(tensors)
    while names and (prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in names)), None)):
        names = {name.removeprefix(prefix): tensor for name, tensor in names.items()}
    return names


def _no_checkpoint(content: bytes) -> str:
    """What a file is that can be no checkpoint, by its first bytes; empty if it may be one."""
    begin = content[:512].lstrip().lower()
    if not content:
        return "empty"
    if begin.startswith((b"<!doctype html", b"<html", b"<?xml")) or b"<head>" in begin:
        return "a web page, not a checkpoint; the download asked for a login or a confirmation"
    if begin.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not a checkpoint; git lfs pull fetches the file"
    if begin.startswith((b"{", b"[")) and b"\x80" not in begin:
        return "a text file, not a checkpoint"
    return ""


def _torch(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        if needed := _global(str(error)):
            raise InputError(
                f"checkpoint {path} holds more than tensors and plain values: {needed} would have to run to read it. "
                "Where you trust its author, write its weights alone: torch.save({'state_dict': torch.load(FILE, "
                "weights_only=False)['state_dict']}, 'weights.pth')"
            ) from error
        # What torch says of it is advice for files that are whole.
        raise InputError(
            f"checkpoint {path} is damaged, or was written neither by torch.save nor as safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"checkpoint {path} is truncated or damaged: {_first_line(error)}") from error


def _safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"checkpoint {path} cannot be read as safetensors: {error}") from error


def _global(message: str) -> str:
    """The class or function that a file asks for, in torch's words of its refusal."""
    named = re.search(r"GLOBAL (\S+)", message)
    return named[1] if named else ""


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _container(stored: Any, keys: Iterable[str]) -> dict[str, Tensor] | None:
    """The state under the first of these keys that has one."""
    if not isinstance(stored, dict):
        return None
    return next((dict(stored[key]) for key in keys if key in stored and _is_state(stored[key])), None)


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(each, Tensor) for name, each in value.items())
    )
