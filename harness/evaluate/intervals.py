"""Computes standard errors and intervals from draws of scenes, and stores the draws for tables and figures.

A 95 % interval is the value plus and minus the standard error times the quantile of Student's distribution for this
number of scenes. docs/evaluation.md shows the coverage of such intervals.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import special

from harness.runs.folder import Damaged
from harness.runs.small_files import keep_arrays, kept_arrays, read_arrays, write_arrays

METRICS, CLASSES, COSTS = "metrics", "class", "what errors cost"
"""Groups of an analysis, in addition to those of `harness.evaluate.bands`."""
LEVEL = 0.95
MIN_SCENES = 10
"""Fewest scenes with something to count for which an interval is computed; with fewer, it would be too short."""
_ANALYSIS_FORM = 1


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
    """A value with its standard error and interval; NaN if there are too few scenes."""

    value: float
    low: float
    """Lower end of the 95 % interval."""
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
        reach = special.stdtrit(scenes - 1, (1 + LEVEL) / 2) * error
        return cls(value, value - reach, value + reach, error)


def difference(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A less B, draw by draw: both have to be of the same draws of the same split."""
    return {name: a[name] - b[name] for name in a}


def write_draws(path: Path, values: Mapping[str, np.ndarray], scenes: int) -> None:
    """Keep metrics in draws (`harness.evaluate.bootstrap.resampled`)."""
    # Half as long: intervals have no eighth digit.
    single = {name: array.astype(np.float32) for name, array in values.items()}
    write_arrays(path, {"scenes": np.array(scenes), **single})


def read_draws(path: Path) -> tuple[dict[str, np.ndarray], int] | None:
    """What `write_draws` kept, and the number of scenes; None where there is nothing. Raises Damaged."""
    arrays = read_arrays(path, "draws of metrics")
    if arrays is None:
        return None
    try:
        scenes = int(arrays.pop("scenes"))
        values = {name: array.astype(np.float64) for name, array in arrays.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(path, f"no draws of metrics can be read from it: {error}") from error
    if scenes < 0 or len({array.shape for array in values.values()}) > 1 or any(a.ndim != 1 for a in values.values()):
        raise Damaged(path, "its arrays are not the same draws of several metrics")
    return values, scenes


@dataclass(frozen=True)
class Analysis:
    """Numbers in each draw of scenes, by group: METRICS, CLASSES, COSTS and the strata."""

    scenes: int
    groups: dict[str, dict[str, np.ndarray]]
    counts: dict[str, dict[str, Count]]
    """What a number is about, in the groups that tell annotations apart."""

    def __sub__(self, other: "Analysis") -> "Analysis":
        """The difference, draw by draw: both have to be of one split and of the same draws."""
        groups = {name: difference(group, other.groups[name]) for name, group in self.groups.items()}
        return Analysis(self.scenes, groups, self.counts)

    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """Each number with its standard error and 95 % interval."""
        estimated: dict[str, dict[str, Estimate]] = {}
        for group, numbers in self.groups.items():
            counts = self.counts.get(group, {})
            scenes = {name: counts[name].scenes if name in counts else self.scenes for name in numbers}
            estimated[group] = {name: Estimate.of(drawn, scenes[name]) for name, drawn in numbers.items()}
        return estimated


def keep_analysis(path: Path, analysis: Analysis) -> None:
    """Keep an analysis but for the metrics, which a run has in its draws; in single precision, as those are."""
    groups = {group: numbers for group, numbers in analysis.groups.items() if group != METRICS}
    header = {
        "scenes": analysis.scenes,
        "numbers": [[group, name] for group, numbers in groups.items() for name in numbers],
        "counts": {g: {name: asdict(count) for name, count in named.items()} for g, named in analysis.counts.items()},
    }
    values = np.stack([values for numbers in groups.values() for values in numbers.values()])
    keep_arrays(path, _ANALYSIS_FORM, header, values=values.astype(np.float32))


def kept_analysis(path: Path) -> Analysis | None:
    """What `keep_analysis` left; None where there is nothing, or nothing that can be read."""
    stored = kept_arrays(path, _ANALYSIS_FORM)
    if stored is None:
        return None
    header, arrays = stored
    groups: dict[str, dict[str, np.ndarray]] = {}
    for (group, name), values in zip(header["numbers"], arrays["values"].astype(np.float64), strict=True):
        groups.setdefault(group, {})[name] = values
    counts = {g: {name: Count(**count) for name, count in named.items()} for g, named in header["counts"].items()}
    return Analysis(header["scenes"], groups, counts)
