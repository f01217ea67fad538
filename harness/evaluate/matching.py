"""Which annotation each prediction finds: greedy by score within a sample and class, at several distances at once."""

import numpy as np

from harness.evaluate.box_loops import match_groups
from harness.evaluate.columns import BoxColumns


def best_first(score: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Predictions of a mask by score, best first; of equal ones the later first, as the devkit sorts."""
    later_first = mask.nonzero()[0][::-1]
    return later_first[np.argsort(-score[later_first], kind="stable")]


def match(
    truth: BoxColumns, predicted: BoxColumns, order: np.ndarray, thresholds: np.ndarray, classes: int
) -> np.ndarray:
    """The annotation that each prediction is matched with, at each threshold.

    Args:
        truth: Annotations, samples in order.
        predicted: Predictions.
        order: Indices of those that count, best first.
        thresholds: Distances in the ground plane under which a match counts, metres.
        classes: Number of classes.

    Returns:
        int64 (thresholds, predictions): index into `truth`, or -1.
    """
    samples = 1 + max(truth.sample.max(initial=-1), predicted.sample.max(initial=-1))
    matches = np.full((len(thresholds), len(predicted)), -1, dtype=np.int64)
    match_groups(
        truth.center,
        truth.sample * classes + truth.label,
        predicted.center,
        predicted.sample * classes + predicted.label,
        order,
        samples * classes,
        thresholds,
        matches,
    )
    return matches
