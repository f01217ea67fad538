"""compiled: makes a loop over numpy arrays fast, by numba."""

from collections.abc import Callable
from typing import Any

from numba import njit

ANY_ORDER = {"reassoc", "contract", "nsz"}
"""Sums over channels may be taken in vectors, the same ones on each call."""


def compiled(loop: Callable[..., Any], **options: Any) -> Any:
    """The loop, to be compiled on its first call; once for all calls of programs, where there is a place to keep it."""
    try:
        return njit(cache=True, nogil=True, **options)(loop)
    except RuntimeError:
        # Neither beside the code nor in the home folder may this user write: each program compiles anew.
        return njit(nogil=True, **options)(loop)
