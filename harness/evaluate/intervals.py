"""Metrics in draws of scenes to standard errors and intervals, and the file that keeps them for tables.

A 95 % interval is the value and as many standard errors to both sides as Student's distribution says for that many
scenes; docs/evaluation.md shows how often such intervals hold what they should.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile
from zlib import error

import numpy as np
from scipy import stats

from harness.runs.folder import Damaged, atomic_write

LEVEL = 0.95
MIN_SCENES = 10
"""With fewer scenes that have anything to count, an interval is not to be trusted, and there is none."""


@dataclass(frozen=True)
class Count:
    """How much a number is about."""

    annotations: int
    scenes: int
    """That have any of them."""

    @classmethod
    def of(cls, scene: np.ndarray) -> "Count":
        """From the number of the scene of each annotation."""
        return cls(len(scene), len(np.unique(scene)))


@dataclass(frozen=True)
class Estimate:
    """A value with what is known of its error; NaN where there are too few scenes to know anything."""

    value: float
    low: float
    """Of the 95 % interval."""
    high: float
    standard_error: float

    @classmethod
    def of(cls, values: np.ndarray, scenes: int) -> "Estimate":
        """From a metric, or the difference of two, in each draw, the first of which is the split itself.

        Args:
            values: In each draw; NaN in those that have nothing to count.
            scenes: Of the split, those that have anything to count.
        """
        value, drawn = float(values[0]), values[1:][~np.isnan(values[1:])]
        if scenes < MIN_SCENES or len(drawn) < 2:
            return cls(value, np.nan, np.nan, np.nan)
        # Draws of n scenes vary like a mean divided by n, not by n - 1.
        error = float(drawn.std(ddof=1)) * np.sqrt(scenes / (scenes - 1))
        reach = stats.t.ppf((1 + LEVEL) / 2, scenes - 1) * error
        return cls(value, value - reach, value + reach, error)


def difference(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A less B, draw by draw: both have to be of the same draws of the same split."""
    return {name: a[name] - b[name] for name in a}


def write_draws(path: Path, values: Mapping[str, np.ndarray], scenes: int) -> None:
    """Keep metrics in draws (`harness.evaluate.bootstrap.resampled`)."""
    content = BytesIO()
    # Half as long: intervals have no eighth digit.
    np.savez_compressed(content, scenes=scenes, **{name: array.astype(np.float32) for name, array in values.items()})
    atomic_write(path, content.getvalue())


def read_draws(path: Path) -> tuple[dict[str, np.ndarray], int] | None:
    """What `write_draws` kept, and the number of scenes; None where there is nothing. Raises Damaged."""
    if not path.is_file():
        return None
    try:
        # Opened here, for np.load leaves a torn file open.
        with path.open("rb") as content, np.load(content) as file:
            values = {name: file[name].astype(np.float64) for name in file.files if name != "scenes"}
            scenes = int(file["scenes"])
    # What reading a torn or a foreign file comes to depends on where it is torn.
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, MemoryError, BadZipFile, error) as torn:
        raise Damaged(path, f"no draws of metrics can be read from it: {' '.join(str(torn).split())}") from torn
    if scenes < 0 or len({array.shape for array in values.values()}) > 1 or any(a.ndim != 1 for a in values.values()):
        raise Damaged(path, "its arrays are not the same draws of several metrics")
    return values, scenes
