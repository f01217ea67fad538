"""Reads and writes small files of numbers in run folders and in the cache, always as a whole."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from harness.runs.folder import Damaged, atomic_write

# What reading a torn or a foreign file comes to depends on where it is torn.
_TORN = (OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)
_UNREADABLE = (*_TORN, ValueError, KeyError, TypeError, AttributeError)
Model = TypeVar("Model", bound=BaseModel)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, so that a reader finds all of them or the previous ones."""
    content = BytesIO()
    np.savez_compressed(content, **arrays)
    atomic_write(path, content.getvalue())


def read_arrays(path: Path, what: str) -> dict[str, np.ndarray] | None:
    """What `write_arrays` left; None where there is no file.

    Raises:
        Damaged: It cannot be read; `what` names what should be in it.
    """
    if not path.is_file():
        return None
    try:
        # Opened here, for numpy leaves what it cannot read open.
        with path.open("rb") as raw, np.load(raw) as file:
            return {name: file[name] for name in file.files}
    except _UNREADABLE as torn:
        raise Damaged(path, f"it does not contain readable {what}: {' '.join(str(torn).split())}") from torn


def keep_arrays(path: Path, form: int, header: dict[str, Any], **arrays: np.ndarray) -> None:
    """Write arrays with a JSON header; `form` is the number of their layout."""
    write_arrays(path, {"header": np.array(json.dumps({"form": form, **header})), **arrays})


def kept_arrays(path: Path, form: int) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Read header and arrays that `keep_arrays` wrote; None if there are none of this form."""
    try:
        arrays = read_arrays(path, "arrays")
        if arrays is None:
            return None
        header = json.loads(str(arrays.pop("header")))
        return (header, arrays) if header.pop("form") == form else None
    except (Damaged, *_UNREADABLE):
        return None


def keep_model(path: Path, content: BaseModel) -> None:
    """Write a model as JSON."""
    atomic_write(path, content.model_dump_json(indent=1).encode())


def kept_model(path: Path, kind: type[Model]) -> Model | None:
    """Read the model that `keep_model` wrote; None if there is none of this kind."""
    try:
        return kind.model_validate_json(path.read_bytes()) if path.is_file() else None
    except _UNREADABLE:
        return None
