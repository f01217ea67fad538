"""Checks the indices of operations that do not check them, if the environment has CROSSBEV_CHECK=1.

An index past the end of a table reads or writes whatever lies behind it: a wrong number, or a crash somewhere else. The
checks cost a pass over every index, so they are off in trainings and on in tests.
"""

import os

from jaxtyping import Int
from torch import Tensor


def checking() -> bool:
    """Whether indices are checked; any value of CROSSBEV_CHECK but 0 and nothing asks for it."""
    return os.environ.get("CROSSBEV_CHECK", "0") not in ("", "0")


def check_indices(name: str, indices: Int[Tensor, " p"], count: int) -> None:
    """Raise IndexError where one of the indices names none of `count` rows."""
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= count):
        raise IndexError(f"{name}: indices {int(indices.min())} to {int(indices.max())} into {count} rows")
