"""Analyses one result or two: metrics, cost of errors, and AP by properties of objects."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.data_classes import DetectionConfig

from harness.evaluate.bands import counts_by_band, precision_by_band, strata
from harness.evaluate.bootstrap import draws, resampled
from harness.evaluate.breakdown import costs
from harness.evaluate.intervals import CLASSES, COSTS, METRICS, Analysis, Count
from harness.evaluate.metrics import ERRORS, Matched
from harness.runs.folder import atomic_write


def analyse(
    results: list[Matched],
    config: DetectionConfig,
    resamples: int,
    threads: int = 1,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> list[Analysis]:
    """Analyse results of one split in the same draws of scenes.

    Args:
        results: Each matched with the annotations of the split.
        config: Of the metrics.
        resamples: Number of draws of scenes.
        threads: Parts are counted side by side.
        show: Called with the number of finished parts and of all parts.
    """
    scenes = results[0].split.scenes
    copies = draws(scenes, resamples)
    parts: dict[tuple[int, str], Callable[[], dict[str, np.ndarray]]] = {}
    ways = [strata(matched, config) for matched in results]
    for number, matched in enumerate(results):
        parts[number, METRICS] = partial(resampled, matched, config, copies)
        parts[number, COSTS] = partial(costs, matched, config, copies)
        for by in ways[number]:
            parts[number, by.name] = partial(precision_by_band, matched, config, copies, by)
    with ThreadPoolExecutor(threads) as pool:
        waiting = {pool.submit(part): key for key, part in parts.items()}
        for done, _ in enumerate(as_completed(waiting), start=1):
            show(done, len(waiting))
        counted = {key: future.result() for future, key in waiting.items()}
    analyses = []
    for number, matched in enumerate(results):
        groups = {name: counted[key, name] for key, name in parts if key == number}
        metrics = groups.pop(METRICS)
        classes = {name[3:]: values for name, values in metrics.items() if name.startswith("AP/")}
        scene = matched.split.scene[matched.truth.sample]
        labels = {name: matched.truth.label == DETECTION_NAMES.index(name) for name in classes}
        counts = {CLASSES: {name: Count.of(scene[mask]) for name, mask in labels.items()}}
        counts |= {by.name: counts_by_band(matched, by) for by in ways[number]}
        plain = {name: values for name, values in metrics.items() if not name.startswith("AP/")}
        analyses.append(Analysis(scenes, {METRICS: plain, CLASSES: classes, **groups}, counts))
    return analyses


def is_error(group: str, name: str) -> bool:
    """Whether a number is an error, in the devkit's units, rather than a precision, as a fraction."""
    return group == METRICS and name in ERRORS


def write_analysis(path: Path, analyses: dict[str, Analysis], resamples: int) -> None:
    """Write the numbers of one result or two, and then of their difference, as JSON; null where nothing is known."""
    first, *others = analyses.values()
    content = {
        "scenes": first.scenes,
        "resamples": resamples,
        "counts": first.counts,
        "results": {title: analysis.estimates() for title, analysis in analyses.items()},
        "difference": (first - others[0]).estimates() if others else None,
    }
    # NaN becomes null.
    atomic_write(path, msgspec.json.format(msgspec.json.encode(content, enc_hook=float), indent=2))
