"""Converts a checkpoint of another program to a detector of ours, strictly both ways."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detectors.budget import outline
from detectors.detector import Detector, DetectorSpec
from detectors.heads.center import TASK_GROUPS
from harness.errors import InputError
from harness.imports.checkpoint import Checkpoint
from harness.imports.rules import Fit, fit
from harness.imports.sources import RAW_INTENSITY, Boxes, Source, constants, stored_constants

ORDER = tuple(name for group in TASK_GROUPS for name in group)
"""The classes in the order of the tasks, which is the order of labels in all of these programs."""


@dataclass(frozen=True)
class Misfit:
    """A tensor that does not fit."""

    what: str
    """missing, extra or misshapen."""
    theirs: str
    ours: str
    detail: str


class Mismatch(InputError):
    """Weights of another network; carries every tensor that does not fit."""

    def __init__(self, message: str, misfits: list[Misfit]) -> None:
        super().__init__(message)
        self.misfits = misfits


def convert(
    checkpoint: Checkpoint,
    source: Source,
    spec: DetectorSpec,
    preset: str,
    boxes: Boxes | None = None,
    intensity: float = RAW_INTENSITY,
) -> Detector:
    """The detector with the checkpoint's weights.

    Args:
        checkpoint: Of the source.
        source: The program that wrote it.
        spec: What to build.
        preset: What this is called, for messages.
        boxes: The convention of its head, where the file does not tell or tells wrongly.
        intensity: The largest LiDAR intensity that the program reads.

    Raises:
        InputError: It is of other classes, another range or another head order, or is in another BEV frame.
        Mismatch: Its tensors are not those of the preset.
    """
    if spec.bev_frame not in source.frames:
        raise InputError(
            f"weights of {source.name} are in the {source.frames[0]} frame, and preset {preset} has bev_frame "
            f"{spec.bev_frame}; --set bev_frame={source.frames[0]} changes that"
        )
    _check_meta(checkpoint, source, spec, preset)
    known = _check_constants(checkpoint, source, spec, preset)
    known |= {name for name in checkpoint.tensors if any(re.fullmatch(each, name) for each in source.ignored)}
    wanted = outline(spec).state_dict()
    convention = boxes or _boxes(checkpoint, source)
    rules = source.rules(spec, convention, intensity)
    result = fit(rules, checkpoint.tensors, {name: _like(each) for name, each in wanted.items()}, known)
    if not result.is_complete:
        raise _mismatch(checkpoint, source, preset, result, len(wanted))
    for name, tensor in result.tensors.items():
        if not tensor.isfinite().all():
            raise InputError(f"checkpoint {checkpoint.path}: tensor {result.renamed[name]} contains NaN or infinity")
    detector = spec.build()
    detector.load_state_dict(result.tensors, strict=True)
    return detector.eval()


def _like(tensor: Tensor) -> Tensor:
    """A tensor of the same shape and type that takes no memory."""
    return torch.empty((), dtype=tensor.dtype).expand(tensor.shape)


def _boxes(checkpoint: Checkpoint, source: Source) -> Boxes:
    """By the version of mmdetection3d that wrote it, where it says so: the convention changed with 1.0."""
    if source.name in ("mmdet3d", "bevdet") and (version := _version(checkpoint.meta.get("meta"))):
        return "wlh" if int(version.partition(".")[0]) < 1 else "lwh"
    return source.boxes


def _version(meta: Any) -> str:
    version = meta.get("mmdet3d_version") if isinstance(meta, dict) else None
    return version if isinstance(version, str) and version[:1].isdigit() else ""


def _check_meta(checkpoint: Checkpoint, source: Source, spec: DetectorSpec, preset: str) -> None:
    """Raise InputError for classes, tasks and ranges that the file names and the preset does not have."""
    meta = checkpoint.meta.get("meta")
    described = meta if isinstance(meta, dict) else {}
    of_data = described.get("dataset_meta") or checkpoint.meta.get("dataset_meta")
    names = {**(of_data if isinstance(of_data, dict) else {}), **described}
    classes = tuple(map(str, names.get("CLASSES") or names.get("classes") or ORDER))
    if classes != ORDER:
        what = "another order of classes" if set(classes) == set(ORDER) else "other classes"
        raise InputError(
            f"checkpoint {checkpoint.path} has {what}: {', '.join(classes)}; allowed: {', '.join(ORDER)}, in this order"
        )
    config = described.get("config") or described.get("cfg")
    if isinstance(config, str):
        _check_config(checkpoint, config, spec, preset, has_height=not source.constants)


def _check_config(checkpoint: Checkpoint, config: str, spec: DetectorSpec, preset: str, has_height: bool) -> None:
    """The same for the text of a configuration; the range of a camera's says nothing of its heights."""
    tasks = tuple(
        tuple(re.findall(r"['\"](\w+)['\"]", listed))
        for listed in re.findall(r"dict\(\s*num_class=\d+,\s*class_names=\[([^\]]*)\]", config)
    )
    if tasks and tasks[: len(TASK_GROUPS)] != TASK_GROUPS:
        raise InputError(
            f"checkpoint {checkpoint.path} has another order of tasks: {_listed(tasks)}; "
            f"allowed: {_listed(TASK_GROUPS)}"
        )
    six = r",\s*".join([r"(-?[\d.]+)"] * 6)
    written = re.search(rf"\b(?:point_cloud_range|range)\s*=\s*\[\s*{six},?\s*\]", config)
    grid = spec.grid
    ranges = (grid.x_range, grid.y_range, grid.z_range)
    ours = [bounds[end] for end in (0, 1) for bounds in ranges]
    compared = [index for index in range(6) if has_height or index % 3 < 2]
    if written and any(float(written[index + 1]) != ours[index] for index in compared):
        raise InputError(
            f"checkpoint {checkpoint.path} is of another range: [{', '.join(written.groups())}] in its configuration, "
            f"{ours} in preset {preset}"
        )


def _listed(tasks: Any) -> str:
    return ", ".join(f"[{', '.join(group)}]" for group in tasks)


_MEANINGS = {
    "frustum": "bins, rows and columns of features, first and last depth, last row and column of pixels",
    "dx": "cells, metres",
    "voxel_size": "cells, metres",
    "bx": "the middle of the first cell, metres",
    "voxel_coord": "the middle of the first cell, metres",
    "nx": "the number of cells",
    "voxel_num": "the number of cells",
}


def _check_constants(checkpoint: Checkpoint, source: Source, spec: DetectorSpec, preset: str) -> set[str]:
    """The names of what is kept of grid and depth bins; InputError where these are not the preset's."""
    stored, ours = stored_constants(source, checkpoint.tensors.items()), constants(spec)
    for name, values in stored.items():
        short = name.rpartition(".")[2]
        if short not in ours:
            continue
        if values.shape != ours[short].shape or not torch.allclose(values, ours[short], atol=0.02, rtol=1e-4):
            raise InputError(
                f"checkpoint {checkpoint.path} is of another range: {name} ({_MEANINGS[short]}) is "
                f"{_numbers(values)} there, {_numbers(ours[short])} in preset {preset}"
            )
    return set(stored)


def _numbers(values: Tensor) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values.flatten().tolist()[:8]) + "]"


def _mismatch(checkpoint: Checkpoint, source: Source, preset: str, result: Fit, count: int) -> Mismatch:
    misfits = [Misfit("missing", there, name, "") for name, there in result.missing.items()]
    misfits += [Misfit("extra", name, "", str(list(checkpoint.tensors[name].shape))) for name in result.extra]
    there = {theirs: name for name, theirs in result.renamed.items()}
    misfits += [
        Misfit("misshapen", name, there[name], f"{list(theirs)} there, {list(ours)} needed")
        for name, (theirs, ours) in result.misshapen.items()
    ]
    counts = {"missing": len(result.missing), "extra": len(result.extra), "misshapen": len(result.misshapen)}
    counted = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    first = misfits[0]
    hint = ""
    if len(result.tensors) < count / 2:
        hint = "; most tensors do not fit, so that it is of another network or another program than --from says"
    elif any(re.fullmatch(r"head\.tasks\.\d\.heatmap\.3\..+", misfit.ours) for misfit in misfits):
        hint = f"; the head has other classes or another order of tasks than {_listed(TASK_GROUPS)}"
    return Mismatch(
        f"checkpoint {checkpoint.path} does not fit preset {preset} by the names of {source.name}: {counted} of its "
        f"{len(checkpoint.tensors)} tensors, such as {first.theirs or first.ours} ({first.what}){hint}",
        misfits,
    )
