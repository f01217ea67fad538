"""Folders of a teacher's maps: what a detector outside of this project has left, one safetensors file a sample."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from detectors.geometry.boxes import CLASSES
from detectors.geometry.grid import BevGrid
from detectors.heads.center import BOX_CODE, TASK_GROUPS
from distill.maps import MapsSpec
from harness.errors import InputError, first_mistake, input_error_on_os_error, unknown

METADATA = "crossbev_maps"
"""Key of a file's metadata, with JSON: grid, bev_frame, sensors, and, if you like, classes."""
FEATURES = ("bev_low", "bev_high")
HEAD = ("heatmap", "box_codes")
BOXES = {"center": (3,), "size": (3,), "yaw": (), "velocity": (2,), "label": (), "score": ()}
"""Fields of boxes, and the shape of one box; the tensor is called ``boxes.center``."""
_KEYS = (*FEATURES, *HEAD, *(f"boxes.{name}" for name in BOXES))
_BLOCKS, _BLOCK = 16, 4096


def file_of(folder: Path, token: str) -> Path:
    """The file of a sample."""
    return folder / f"{token}.safetensors"


def maps_spec(folder: Path) -> MapsSpec:
    """What the maps of a folder are like, by its first file; raises InputError without one."""
    return _described(_files(folder)[0])


def check_maps(folder: Path, spec: MapsSpec, tokens: Iterable[str]) -> None:
    """Raise InputError unless each of these samples has a file of such maps."""
    for token in tokens:
        file = file_of(folder, token)
        if not file.is_file():
            raise InputError(f"maps {folder} has no file of the training sample {token}: {file.name} is missing")
        if (other := _described(file)) != spec:
            name = next(name for name in MapsSpec.model_fields if getattr(other, name) != getattr(spec, name))
            values = (json.dumps(each.model_dump(mode="json")[name]) for each in (other, spec))
            raise InputError("maps {}: {} is {} here, {} in other files of the folder".format(file, name, *values))


def maps_hash(folder: Path) -> str:
    """Hash of the files' names, sizes, headers and 16 blocks of each.

    Maps of a large dataset are some hundred gigabytes, which no plan can read. Other weights, another layer or another
    order of classes change values all over a file, so that a block here and there tells.
    """
    digest = hashlib.sha256()
    for file in _files(folder):
        stat = file.stat()
        digest.update(f"{file.name} {_sampled(file, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@cache
def _sampled(file: Path, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with input_error_on_os_error(f"maps {file} cannot be read"), file.open("rb") as content:
        header = int.from_bytes(content.read(8), "little")
        digest.update(content.read(min(header, size)))
        begin = content.tell()
        for number in range(_BLOCKS):
            content.seek(begin + number * max(size - begin - _BLOCK, 0) // (_BLOCKS - 1))
            digest.update(content.read(_BLOCK))
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    # Names with a dot before them are a Mac's, about another file.
    files = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("."))
    if not files:
        raise InputError(f"{folder} is not a folder with a .safetensors file of maps for each sample")
    return files


def _described(file: Path) -> MapsSpec:
    """What the header of a file says, without the values of its tensors."""
    try:
        with safe_open(file, framework="np") as content:
            metadata = content.metadata() or {}
            slices = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118
            shapes = {name: tuple(each.get_shape()) for name, each in slices.items()}
            kinds = {name: str(each.get_dtype()) for name, each in slices.items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"maps {file} cannot be read as safetensors: {error}") from error
    written = _metadata(file, metadata)
    for name, kind in kinds.items():
        if name not in _KEYS:
            raise InputError(f"maps {file}: {unknown('tensor', name, _KEYS)}")
        allowed = ("I64", "I32", "I16", "I8", "U8") if name == "boxes.label" else ("F16", "BF16", "F32", "F64")
        if kind not in allowed:
            raise InputError(f"maps {file}: tensor {name} is {kind}; allowed: {', '.join(allowed)}")
    try:
        described = MapsSpec.model_validate(
            {
                **written,
                **{f"{name.removeprefix('bev_')}_channels": shapes[name][0] for name in FEATURES if shapes.get(name)},
                "boxes": _boxes(file, shapes),
            }
        )
    except ValidationError as error:
        raise InputError(f"maps {file}, metadata {METADATA}: {first_mistake(error)}") from error
    _check_shapes(file, shapes, described.grid)
    return described


def _metadata(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    wanted = f"JSON with grid, bev_frame and sensors under the key {METADATA}"
    try:
        written = json.loads(metadata[METADATA])
    except (KeyError, ValueError) as error:
        reason = "there is no such key" if isinstance(error, KeyError) else error
        raise InputError(f"maps {file}: the metadata need {wanted}: {reason}") from error
    if not isinstance(written, dict):
        raise InputError(f"maps {file}: the metadata need {wanted}, not {written!r}")
    classes = written.pop("classes", list(CLASSES))
    if classes != list(CLASSES):
        raise InputError(f"maps {file}: its classes are {classes}; allowed: {', '.join(CLASSES)}, in this order")
    if unasked := written.keys() - {"grid", "bev_frame", "sensors"}:
        text = unknown("key", min(unasked), ("grid", "bev_frame", "sensors", "classes"))
        raise InputError(f"maps {file}, metadata {METADATA}: {text}")
    return written


def _boxes(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Which form the boxes have."""
    forms = {"maps": HEAD, "list": tuple(f"boxes.{name}" for name in BOXES)}
    present = {form: [name for name in names if name in shapes] for form, names in forms.items()}
    if present["maps"] and present["list"]:
        raise InputError(f"maps {file} has both {present['maps'][0]} and {present['list'][0]}; leave one of them out")
    for form, names in forms.items():
        if present[form] and (missing := [name for name in names if name not in shapes]):
            raise InputError(f"maps {file}: tensor {missing[0]} is missing beside {present[form][0]}")
    return next((form for form in forms if present[form]), None)


def _check_shapes(file: Path, shapes: Mapping[str, tuple[int, ...]], grid: BevGrid) -> None:
    if not shapes:
        raise InputError(f"maps {file} contains no tensor; allowed: {', '.join(_KEYS)}")
    cells = (grid.rows, grid.columns)
    wanted: dict[str, tuple[int, ...]] = {
        "heatmap": (len(CLASSES), *cells),
        "box_codes": (len(TASK_GROUPS), len(BOX_CODE), *cells),
    }
    count = next(iter(shapes.get("boxes.center", ())), 0)
    wanted |= {f"boxes.{name}": (count, *shape) for name, shape in BOXES.items()}
    for name, shape in shapes.items():
        if name in FEATURES:
            # A feature map may be finer or coarser than the grid, if it covers the same ground.
            fits = len(shape) == 3 and shape[1] * cells[1] == shape[2] * cells[0]
            expected = f"channels, {cells[0]} rows and {cells[1]} columns, or both so many times more or fewer"
        else:
            fits, expected = shape == wanted[name], str(list(wanted[name]))
        if not fits:
            raise InputError(f"maps {file}: tensor {name} is {list(shape)}; expected {expected}, by its grid")
