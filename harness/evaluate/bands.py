"""AP by properties of the annotations: distance, visibility, LiDAR points and speed.

All boxes are matched together, once. A band counts its annotations, the boxes that match one of them, and the false
positives whose own value lies in the band. A box has a distance and a speed, but no visibility and no number of points.
For these two, each band gets a share of the false positives in proportion to its share of the annotations, as in
the normalised precision of Hoiem et al. (Diagnosing Error in Object Detectors, ECCV 2012). Otherwise a band with few
annotations would get all false positives. AP is computed at the threshold of the true-positive errors, 2 m in nuScenes'
configurations, and averaged over the classes that occur in the band.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from nuscenes.eval.detection.data_classes import DetectionConfig

from harness.evaluate.bootstrap import recounted
from harness.evaluate.breakdown import at_one_threshold, rankings, without
from harness.evaluate.columns import BoxColumns, ego_distance
from harness.evaluate.intervals import Count
from harness.evaluate.metrics import Matched

EVERY = -1
"""Band of a box that could be in any; of an annotation: in none."""


@dataclass(frozen=True)
class Strata:
    """A way to tell boxes apart."""

    name: str
    bands: tuple[str, ...]
    truth: np.ndarray
    """int64: the number of the band of each annotation, or EVERY."""
    predicted: np.ndarray
    """int64: the number of the band of each prediction, or EVERY."""
    shared: bool = False
    """Bands share the false positives."""


def strata(matched: Matched, config: DetectionConfig) -> list[Strata]:
    """Distance from the car, visibility, LiDAR points, and speed."""
    truth, predicted = matched.truth, matched.predicted
    every = np.full(len(predicted), EVERY)
    reach = max(config.class_range.values())
    # At most five bands, of a round width.
    width = next((w for w in (1, 2, 4, 5, 10, 20, 50) if reach <= 5 * w), reach / 5)
    edges = [float(width * n) for n in range(1, 5) if width * n < reach]
    ends = [0, *edges, reach]
    return [
        Strata(
            "distance",
            tuple(f"{a:g}-{b:g} m" for a, b in pairwise(ends)),
            _band(ego_distance(truth, matched.split), edges),
            _band(ego_distance(predicted, matched.split), edges),
        ),
        Strata("visibility", ("0-40 %", "40-60 %", "60-80 %", "80-100 %"), truth.visibility - 1, every, shared=True),
        Strata(
            "LiDAR points",
            ("0", "1-5", "6-20", "21-100", "> 100"),
            _band(truth.lidar_points.astype(float), [1.0, 6.0, 21.0, 101.0]),
            every,
            shared=True,
        ),
        Strata("speed", ("< 0.5 m/s", "0.5-3 m/s", "3-8 m/s", ">= 8 m/s"), _speed(truth), _speed(predicted)),
    ]


def precision_by_band(
    matched: Matched, config: DetectionConfig, copies: np.ndarray, by: Strata
) -> dict[str, np.ndarray]:
    """Mean AP of each band that has annotations, float64 (draws,) each, as a fraction; NaN in draws without any."""
    base = at_one_threshold(matched, config)
    matches = base.matches[0]
    band_of = np.where(matches >= 0, by.truth[matches] if len(by.truth) else EVERY, by.predicted)
    # An annotation of no band takes the box that finds it with it.
    outside = (matches >= 0) & (band_of == EVERY)
    all_rankings = rankings(base, config)
    precision = {}
    for number, band in enumerate(by.bands):
        inside = by.truth == number
        if not inside.any():
            continue
        total, classes = np.zeros(len(copies)), np.zeros(len(copies))
        part = rankings(without(base, outside | ((band_of != number) & (band_of != EVERY)), ~inside), config)
        for ranked, every in zip(part, all_rankings, strict=True):
            if ranked.truths.any():
                total += recounted(ranked, config, copies, every.truths if by.shared else None)[0]
                classes += copies @ ranked.truths > 0
        precision[band] = np.divide(total, classes, out=np.full(len(copies), np.nan), where=classes > 0)
    return precision


def counts_by_band(matched: Matched, by: Strata) -> dict[str, Count]:
    """What there is in each band that has annotations."""
    scene = matched.split.scene[matched.truth.sample]
    masks = {band: by.truth == number for number, band in enumerate(by.bands)}
    return {band: Count.of(scene[mask]) for band, mask in masks.items() if mask.any()}


def _speed(boxes: BoxColumns) -> np.ndarray:
    return _band(np.sqrt((boxes.velocity**2).sum(axis=1)), [0.5, 3.0, 8.0])


def _band(values: np.ndarray, edges: list[float]) -> np.ndarray:
    """Number of the band of each value; EVERY of NaN."""
    return np.where(np.isnan(values), EVERY, np.searchsorted(edges, values, side="right"))
