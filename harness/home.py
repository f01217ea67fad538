"""Expands ~ where no shell does: in a study file, and after the = of a flag."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def expanded(path: Path) -> Path:
    """The path with the home folder in place of a ~ that it begins with; ValueError where there is no such home."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{path}: the home folder that ~ stands for is unknown; write the full path, starting with /"
        ) from error


HomePath = Annotated[Path, AfterValidator(expanded)]
"""Of a spec's field."""
