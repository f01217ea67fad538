"""Small files of numbers in run folders: written whole, and read as nothing where they are broken."""

import json
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from harness.runs.folder import atomic_write

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
Model = TypeVar("Model", bound=BaseModel)


def keep_arrays(path: Path, form: int, header: dict[str, Any], **arrays: np.ndarray) -> None:
    """Arrays with a header that JSON can say; `form` is the number of their layout."""
    content = BytesIO()
    np.savez_compressed(content, header=np.array(json.dumps({"form": form, **header})), **arrays)
    atomic_write(path, content.getvalue())


def kept_arrays(path: Path, form: int) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Header and arrays that `keep_arrays` left; None where there are none of this form."""
    if not path.is_file():
        return None
    try:
        # Opened here, for numpy leaves what it cannot read open.
        with path.open("rb") as raw, np.load(raw) as file:
            header = json.loads(str(file["header"]))
            if header.pop("form") != form:
                return None
            return header, {name: file[name] for name in file.files if name != "header"}
    except _UNREADABLE:
        return None


def keep_model(path: Path, content: BaseModel) -> None:
    """As JSON."""
    atomic_write(path, content.model_dump_json(indent=1).encode())


def kept_model(path: Path, kind: type[Model]) -> Model | None:
    """What `keep_model` left; None where there is nothing of this kind."""
    try:
        return kind.model_validate_json(path.read_bytes()) if path.is_file() else None
    except _UNREADABLE:
        return None
