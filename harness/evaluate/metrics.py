"""Matches to the devkit's metrics, to the last bit of every AP: the same sums in the same order, of columns."""

from dataclasses import dataclass

import numpy as np
from nuscenes.eval.detection.algo import calc_ap, calc_tp
from nuscenes.eval.detection.constants import DETECTION_NAMES, TP_METRICS
from nuscenes.eval.detection.data_classes import (
    DetectionConfig,
    DetectionMetricData,
    DetectionMetricDataList,
    DetectionMetrics,
)

from harness.evaluate.columns import BoxColumns, Split, filtered
from harness.evaluate.matching import match, ranked

UNDEFINED = {"traffic_cone": ("attr_err", "vel_err", "orient_err"), "barrier": ("attr_err", "vel_err")}
"""Errors that a class does not have."""


@dataclass(frozen=True)
class Matched:
    """A result held against its split: all that any metric needs, and nothing of it is ever matched again."""

    truth: BoxColumns
    predicted: BoxColumns
    """Best first."""
    found: np.ndarray
    """int64 (thresholds, predictions): index into `truth`, or -1."""


def compare(split: Split, truth: BoxColumns, predicted: BoxColumns, config: DetectionConfig) -> Matched:
    """Filter both as the devkit does, and match."""
    if config.dist_fcn != "center_distance":
        raise ValueError(f"only center_distance is known, not {config.dist_fcn!r}")
    truth, predicted = filtered(truth, split, config), filtered(predicted, split, config)
    predicted = predicted.where(ranked(predicted))
    return Matched(truth, predicted, match(truth, predicted, np.array(config.dist_ths, float), len(DETECTION_NAMES)))


def measure(matched: Matched, config: DetectionConfig) -> tuple[DetectionMetrics, DetectionMetricDataList]:
    """The devkit's metrics and curves."""
    curves, metrics = DetectionMetricDataList(), DetectionMetrics(config)
    for name in config.class_names:
        label = DETECTION_NAMES.index(name)
        positives = int((matched.truth.label == label).sum())
        rows = (matched.predicted.label == label).nonzero()[0]
        score = matched.predicted.score[rows]
        for number, threshold in enumerate(config.dist_ths):
            data = _curve(matched, label, rows, score, matched.found[number, rows], positives)
            curves.set(name, threshold, data)
            metrics.add_label_ap(name, threshold, calc_ap(data, config.min_recall, config.min_precision))
        for metric in TP_METRICS:
            at = curves[name, config.dist_th_tp]
            undefined = metric in UNDEFINED.get(name, ())
            metrics.add_label_tp(name, metric, np.nan if undefined else calc_tp(at, config.min_recall, metric))
    return metrics, curves


def _curve(
    matched: Matched, label: int, rows: np.ndarray, score: np.ndarray, truth: np.ndarray, positives: int
) -> DetectionMetricData:
    """Precision, confidence and errors at 101 recalls, of one class at one threshold."""
    hit = truth >= 0
    if not hit.any():
        return DetectionMetricData.no_predictions()
    tp, fp = np.cumsum(hit).astype(float), np.cumsum(~hit).astype(float)
    precision, recall = tp / (fp + tp), tp / float(positives)
    grid = np.linspace(0, 1, DetectionMetricData.nelem)
    confidence = np.interp(grid, recall, score, right=0)
    errors = {}
    for name, values in _errors(matched, label, rows[hit], truth[hit]).items():
        mean = _running_mean(values)
        errors[name] = np.interp(confidence[::-1], score[hit][::-1], mean[::-1])[::-1]
    return DetectionMetricData(
        recall=grid, precision=np.interp(grid, recall, precision, right=0), confidence=confidence, **errors
    )


def _errors(matched: Matched, label: int, rows: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """The five errors of matched pairs."""
    found, wanted = matched.predicted.where(rows), matched.truth.where(truth)
    smaller = np.minimum(found.size, wanted.size).prod(axis=1)
    union = wanted.size.prod(axis=1) + found.size.prod(axis=1) - smaller
    # A barrier looks the same from both ends.
    period = np.pi if DETECTION_NAMES[label] == "barrier" else 2 * np.pi
    turn = (wanted.yaw - found.yaw + period / 2) % period - period / 2
    return {
        "trans_err": np.sqrt(((found.center - wanted.center)[:, :2] ** 2).sum(axis=1)),
        "vel_err": np.sqrt(((found.velocity - wanted.velocity) ** 2).sum(axis=1)),
        "scale_err": 1 - smaller / union,
        "orient_err": np.abs(np.where(turn > np.pi, turn - 2 * np.pi, turn)),
        "attr_err": np.where(wanted.attribute < 0, np.nan, found.attribute != wanted.attribute),
    }


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the first, the first two, ...; NaN is left out, and nothing but NaN is 1 throughout, as the devkit's."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    count = np.cumsum(known)
    total = np.nancumsum(values)
    return np.divide(total, count, out=np.zeros_like(total), where=count != 0)
