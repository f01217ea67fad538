"""Loops over voxels for numba, which cannot compile functions with checked types; for CPUs.

They compute what the library has several passes, a sort or a search for. Nothing is added in another order from one
call to the next.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

_DIGIT = 11
"""Bits by which keys are sorted at a time: as many counters as stay in the cache."""


def _compiled(loop: Callable[..., Any]) -> Any:
    """The loop, to be compiled on its first call; once for all calls of programs, where there is a place to keep it."""
    try:
        return njit(cache=True, nogil=True)(loop)
    except RuntimeError:
        # Neither beside the code nor in the home folder may this user write: each program compiles anew.
        return njit(nogil=True)(loop)


@_compiled
def add_rows(total: np.ndarray, rows: np.ndarray, terms: np.ndarray) -> None:
    """Add each row of `terms` (p, c) to the row of `total` (v, c) that `rows` (p,) names, one after the other."""
    for p in range(len(rows)):
        row = rows[p]
        for c in range(total.shape[1]):
            total[row, c] += terms[p, c]


@_compiled
def stable_order(keys: np.ndarray, limit: int) -> np.ndarray:
    """Indices that sort keys from 0 to below a limit; equal ones stay in their order.

    Args:
        keys: int64 (n,).
        limit: Decides how many passes there are.

    Returns:
        int64 (n,).
    """
    order, sorted_further = np.arange(len(keys)), np.empty(len(keys), dtype=np.int64)
    shift = 0
    while (limit - 1) >> shift > 0:
        place = np.zeros((1 << _DIGIT) + 1, dtype=np.int64)
        for key in keys:
            place[((key >> shift) & ((1 << _DIGIT) - 1)) + 1] += 1
        for digit in range(1 << _DIGIT):
            place[digit + 1] += place[digit]
        for i in order:
            digit = (keys[i] >> shift) & ((1 << _DIGIT) - 1)
            sorted_further[place[digit]] = i
            place[digit] += 1
        order, sorted_further = sorted_further, order
        shift += _DIGIT
    return order


@_compiled
def distinct(keys: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The different keys, sorted, and for each key which of them it is; int64 (d,) and (n,)."""
    values, number = np.empty(len(keys), dtype=np.int64), np.empty(len(keys), dtype=np.int64)
    count = 0
    for i in stable_order(keys, limit):
        if count == 0 or values[count - 1] != keys[i]:
            values[count] = keys[i]
            count += 1
        number[i] = count - 1
    return values[:count].copy(), number


@_compiled
def pairs_before(keys: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which key lies a shift before which: rows of the former and of the latter, shift by shift, and their numbers.

    Args:
        keys: int64 (v,), sorted, each one once.
        shifts: int64 (s,), all negative.

    Returns:
        int64 (p,), (p,) and (s,).
    """
    former = np.empty(len(shifts) * len(keys), dtype=np.int64)
    latter = np.empty(len(shifts) * len(keys), dtype=np.int64)
    counts = np.zeros(len(shifts), dtype=np.int64)
    end = 0
    for s in range(len(shifts)):
        # As the keys are sorted, so are those that are looked for: no search begins anew.
        at, begin = 0, end
        for row in range(len(keys)):
            wanted = keys[row] + shifts[s]
            while keys[at] < wanted:
                at += 1
            if keys[at] == wanted:
                former[end], latter[end] = at, row
                end += 1
        counts[s] = end - begin
    return former[:end].copy(), latter[:end].copy(), counts


@_compiled
def windows(
    index: np.ndarray,
    shape: tuple[int, int, int],
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
    padding: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The output cells that see an input site, and which site it is, kernel offset by kernel offset; their numbers.

    Args:
        index: int64 (v, 4): sample, z, y, x of the input sites.
        shape: Cells of the output.
        kernel: Its extents.
        stride: In input cells.
        padding: In input cells.

    Returns:
        Cells counted over all samples, rows of sites, int64 (p,) each, and int64 (offsets,).
    """
    counts = np.zeros(kernel[0] * kernel[1] * kernel[2], dtype=np.int64)
    end = np.zeros(len(counts), dtype=np.int64)
    cells, rows = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for counting in (True, False):
        for row in range(len(index)):
            for kz in range(kernel[0]):
                z = index[row, 1] + padding[0] - kz
                if z < 0 or z % stride[0] or z // stride[0] >= shape[0]:
                    continue
                for ky in range(kernel[1]):
                    y = index[row, 2] + padding[1] - ky
                    if y < 0 or y % stride[1] or y // stride[1] >= shape[1]:
                        continue
                    for kx in range(kernel[2]):
                        x = index[row, 3] + padding[2] - kx
                        if x < 0 or x % stride[2] or x // stride[2] >= shape[2]:
                            continue
                        offset = (kz * kernel[1] + ky) * kernel[2] + kx
                        if counting:
                            counts[offset] += 1
                            continue
                        plane = index[row, 0] * shape[0] + z // stride[0]
                        cells[end[offset]] = (plane * shape[1] + y // stride[1]) * shape[2] + x // stride[2]
                        rows[end[offset]] = row
                        end[offset] += 1
        if counting:
            end[1:] = np.cumsum(counts)[:-1]
            cells, rows = np.empty(counts.sum(), dtype=np.int64), np.empty(counts.sum(), dtype=np.int64)
    return cells, rows, counts
