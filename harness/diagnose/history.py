"""Averages the log of a training over a few equal parts: losses, shares and cosines of gradients."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat

import numpy as np

BINS = 20
UNKNOWN = -1
_WANTED = ("raw/", "share/", "weight_")


@dataclass(frozen=True)
class History:
    """Means over parts of a training."""

    ends: np.ndarray
    """int64 (bins + 1,): first step of each part, and the number of steps."""
    means: dict[str, np.ndarray]
    """float64 (bins,) by the name in ``metrics.jsonl``; NaN where a part has none."""
    batches: np.ndarray
    """int64 (bins,): hash of the names of each part's batches, equal where two trainings saw the same; UNKNOWN of a log
    that does not name them."""

    @property
    def terms(self) -> list[str]:
        """The terms of the objective."""
        return [name.removeprefix("share/") for name in self.means if name.startswith("share/")]


def summarize(lines: Sequence[dict[str, float | int]], bins: int = BINS) -> History | None:
    """What is logged of a training in parts of equal length, of fewer where it has fewer steps; None of no step.

    A cosine to a gradient of zero is no cosine: what the log has as 0 there does not count.
    """
    if not lines:
        return None
    ends = np.linspace(0, len(lines), min(bins, len(lines)) + 1).round().astype(np.int64)
    names = dict.fromkeys(name for line in (lines[0], lines[-1]) for name in line if name.startswith(_WANTED))
    values = {
        name: np.fromiter(map(dict.get, lines, repeat(name), repeat(np.nan)), np.float64, len(lines)) for name in names
    }
    for name in names:
        place, _, term = name.partition("_cosine/")
        if term:
            values[name][values[f"{place}_gradient/{term}"] == 0] = np.nan
    means = {name: _mean(array, ends) for name, array in values.items()}
    seen = np.array([line.get("batch", UNKNOWN) for line in lines], dtype=np.int64)
    parts = (seen[first:last] for first, last in pairwise(ends))
    batches = [UNKNOWN if UNKNOWN in part else zlib.crc32(part.tobytes()) for part in parts]
    return History(ends, means, np.array(batches, dtype=np.int64))


def _mean(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The mean of each part, without what is NaN."""
    known = ~np.isnan(values)
    total = np.add.reduceat(np.where(known, values, 0.0), ends[:-1])
    count = np.add.reduceat(known.astype(np.float64), ends[:-1])
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
