"""Everything there is to say of a result or of two: metrics, what its errors cost, and AP by what objects are like."""

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.data_classes import DetectionConfig

from harness.evaluate.bootstrap import draws, resampled
from harness.evaluate.breakdown import costs
from harness.evaluate.intervals import Estimate, difference, estimates
from harness.evaluate.metrics import ERRORS, Matched
from harness.evaluate.strata import precision_by_band, strata, truths_by_band
from harness.store import atomic_write

METRICS, CLASSES, COSTS = "metrics", "class", "what errors cost"


@dataclass(frozen=True)
class Analysis:
    """Numbers in each draw of scenes, by group: METRICS, CLASSES, COSTS and the strata."""

    scenes: int
    groups: dict[str, dict[str, np.ndarray]]
    truths: dict[str, dict[str, int]]
    """Annotations that a number is about, in the groups that tell them apart."""

    def __sub__(self, other: "Analysis") -> "Analysis":
        """The difference, draw by draw: both have to be of one split and of the same draws."""
        groups = {name: difference(group, other.groups[name]) for name, group in self.groups.items()}
        return Analysis(self.scenes, groups, self.truths)

    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """Each number with its standard error and 95 % interval."""
        return {name: estimates(group, self.scenes) for name, group in self.groups.items()}


def analyse(
    results: list[Matched],
    config: DetectionConfig,
    resamples: int,
    threads: int = 1,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> list[Analysis]:
    """Analyses of results of one split, in the same draws.

    Args:
        results: Each matched with the annotations of the split.
        config: Of the metrics.
        resamples: Number of draws of scenes.
        threads: Parts are counted side by side.
        show: Is told how many parts are done, and how many there are.
    """
    scenes = results[0].split.scenes
    copies = draws(scenes, resamples)
    parts: dict[tuple[int, str], Callable[[], dict[str, np.ndarray]]] = {}
    for number, matched in enumerate(results):
        parts[number, METRICS] = partial(resampled, matched, config, copies)
        parts[number, COSTS] = partial(costs, matched, config, copies)
        for by in strata(matched, config):
            parts[number, by.name] = partial(precision_by_band, matched, config, copies, by)
    with ThreadPoolExecutor(threads) as pool:
        waiting = {pool.submit(part): key for key, part in parts.items()}
        for done, _ in enumerate(as_completed(waiting), start=1):
            show(done, len(waiting))
        counted = {key: future.result() for future, key in waiting.items()}
    analyses = []
    for number, matched in enumerate(results):
        groups = {name: counted[key, name] for key, name in parts if key == number}
        groups = {
            METRICS: {name: values for name, values in groups[METRICS].items() if not name.startswith("AP/")},
            CLASSES: {name[3:]: values for name, values in groups[METRICS].items() if name.startswith("AP/")},
        } | {name: group for name, group in groups.items() if name != METRICS}
        labels = np.bincount(matched.truth.label, minlength=len(DETECTION_NAMES))
        truths = {CLASSES: dict(zip(DETECTION_NAMES, labels.tolist(), strict=True))}
        truths |= {by.name: truths_by_band(by) for by in strata(matched, config)}
        analyses.append(Analysis(scenes, groups, truths))
    return analyses


def is_error(group: str, name: str) -> bool:
    """Whether a number is an error, in the devkit's units, rather than a precision, as a fraction."""
    return group == METRICS and name in ERRORS


def write_analysis(path: Path, analyses: dict[str, Analysis], resamples: int) -> None:
    """Write all numbers with standard errors and intervals as JSON; null where nothing is known."""
    first = next(iter(analyses.values()))
    content = {
        "scenes": first.scenes,
        "resamples": resamples,
        "annotations": first.truths,
        **{
            title: {
                group: {name: _plain(estimate) for name, estimate in numbers.items()}
                for group, numbers in analysis.estimates().items()
            }
            for title, analysis in analyses.items()
        },
    }
    atomic_write(path, json.dumps(content, indent=2).encode())


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in asdict(estimate).items()}
