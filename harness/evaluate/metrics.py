"""Computes the devkit's metrics from matches in columns; every AP is equal in every bit."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from nuscenes.eval.detection.algo import calc_ap, calc_tp
from nuscenes.eval.detection.constants import DETECTION_NAMES, TP_METRICS
from nuscenes.eval.detection.data_classes import (
    DetectionConfig,
    DetectionMetricData,
    DetectionMetricDataList,
    DetectionMetrics,
)

from harness.evaluate.box_loops import Ranking, curve, grouped, match_groups
from harness.evaluate.columns import Annotations, BoxColumns, Split, scored

ERRORS = {
    "mATE": "trans_err",
    "mASE": "scale_err",
    "mAOE": "orient_err",
    "mAVE": "vel_err",
    "mAAE": "attr_err",
}
"""The devkit's names of the five true-positive errors."""
UNDEFINED = {"traffic_cone": ("attr_err", "vel_err", "orient_err"), "barrier": ("attr_err", "vel_err")}
"""Errors that a class does not have."""


@dataclass(frozen=True)
class Matched:
    """A result held against its split: all that any metric needs, and nothing of it is ever matched again."""

    split: Split
    truth: Annotations
    predicted: BoxColumns
    """All, also those that do not count."""
    matches: np.ndarray
    """int64 (thresholds, predictions): index into `truth`, or -1."""
    order: np.ndarray
    """int64: indices of the predictions that count, best first."""

    @cached_property
    def of_class(self) -> list[np.ndarray]:
        """Of each class the indices of its predictions that count, best first."""
        start, members = grouped(self.predicted.label, self.order, len(DETECTION_NAMES))
        return np.split(members, start[1:-1])


def compare(split: Split, truth: Annotations, predicted: BoxColumns, config: DetectionConfig) -> Matched:
    """Filter both as the devkit does, and match."""
    if config.dist_fcn != "center_distance":
        raise ValueError(f"dist_fcn {config.dist_fcn!r} is not supported; allowed: center_distance")
    truth = truth.where(scored(truth, split, config))
    # Of equal scores the later first, as the devkit sorts.
    later_first = scored(predicted, split, config).nonzero()[0][::-1]
    order = later_first[np.argsort(-predicted.score[later_first], kind="stable")]
    samples, classes, thresholds = len(split.tokens), len(DETECTION_NAMES), np.array(config.dist_ths, dtype=np.float64)
    matches = match_groups(truth.places, predicted.places, order, samples, classes, thresholds)
    return Matched(split, truth, predicted, matches, order)


def ranking(matched: Matched, label: int, matches: np.ndarray, with_errors: bool = False) -> Ranking:
    """The ranking of a class.

    Args:
        matched: Boxes.
        label: Number of the class.
        matches: int64 (predictions,): index of the annotation that each prediction finds, or -1.
        with_errors: Otherwise the ranking has none.
    """
    rows = matched.of_class[label]
    wanted = matches[rows]
    hits = (wanted >= 0).nonzero()[0]
    errors = _errors(matched, label, rows[hits], wanted[hits]) if with_errors else np.empty((0, 0))
    scene = matched.split.scene
    truth = matched.truth.sample[matched.truth.label == label]
    return Ranking(
        hits=hits,
        score=matched.predicted.score[rows],
        scene=scene[matched.predicted.sample[rows]].astype(np.int32),
        errors=errors,
        truths=np.bincount(scene[truth], minlength=matched.split.scenes),
    )


def measure(matched: Matched, config: DetectionConfig) -> tuple[DetectionMetrics, DetectionMetricDataList]:
    """The devkit's metrics and curves."""
    curves, metrics = DetectionMetricDataList(), DetectionMetrics(config)
    for name in config.class_names:
        for number, threshold in enumerate(config.dist_ths):
            data = _curve(ranking(matched, DETECTION_NAMES.index(name), matched.matches[number], with_errors=True))
            curves.set(name, threshold, data)
            metrics.add_label_ap(name, threshold, calc_ap(data, config.min_recall, config.min_precision))
        for metric in TP_METRICS:
            at = curves[name, config.dist_th_tp]
            undefined = metric in UNDEFINED.get(name, ())
            metrics.add_label_tp(name, metric, np.nan if undefined else calc_tp(at, config.min_recall, metric))
    return metrics, curves


RECALLS = np.linspace(0, 1, DetectionMetricData.nelem)
"""Where the devkit has its curves."""


def _curve(ranked: Ranking) -> DetectionMetricData:
    """Precision, confidence and errors at 101 recalls, of one class at one threshold."""
    copies = np.ones(len(ranked.truths), dtype=np.int64)
    precision, confidence, means = curve(ranked, copies, ranked.truths.sum(), 1.0, RECALLS)
    errors = dict(zip(TP_METRICS, means, strict=True))
    return DetectionMetricData(recall=RECALLS, precision=precision, confidence=confidence, **errors)


def _errors(matched: Matched, label: int, rows: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The five errors of matched pairs, (pairs, 5)."""
    a, b = matched.predicted, matched.truth
    predicted_size, wanted_size = a.size[rows], b.size[truth]
    smaller = np.minimum(predicted_size, wanted_size).prod(axis=1)
    union = wanted_size.prod(axis=1) + predicted_size.prod(axis=1) - smaller
    gap = a.center[rows, :2] - b.center[truth, :2]
    wanted_attribute = b.attribute[truth]
    # A barrier looks the same from both ends.
    period = np.pi if DETECTION_NAMES[label] == "barrier" else 2 * np.pi
    # To the devkit a rotation without length is none.
    turn = (np.nan_to_num(b.yaw[truth]) - np.nan_to_num(a.yaw[rows]) + period / 2) % period - period / 2
    errors = {
        "trans_err": np.sqrt((gap**2).sum(axis=1)),
        "vel_err": np.sqrt(((a.velocity[rows] - b.velocity[truth]) ** 2).sum(axis=1)),
        "scale_err": 1 - smaller / union,
        "orient_err": np.abs(np.where(turn > np.pi, turn - 2 * np.pi, turn)),
        "attr_err": np.where(wanted_attribute < 0, np.nan, a.attribute[rows] != wanted_attribute),
    }
    return np.stack([errors[name] for name in TP_METRICS], axis=1)
