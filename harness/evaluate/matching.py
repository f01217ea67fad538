"""Which annotation each prediction finds: greedy by score within a sample and class, at several distances at once."""

import numpy as np

from harness.evaluate.columns import BoxColumns
from harness.evaluate.compiled import match_groups


def ranked(boxes: BoxColumns) -> np.ndarray:
    """Order of predictions by score, best first; of equal ones the later first, as the devkit sorts."""
    return np.lexsort((-np.arange(len(boxes)), -boxes.score))


def match(truth: BoxColumns, predicted: BoxColumns, thresholds: np.ndarray, classes: int) -> np.ndarray:
    """The annotation that each prediction is matched with, at each threshold.

    Args:
        truth: Annotations, samples in order.
        predicted: Predictions, best first (`ranked`).
        thresholds: Distances in the ground plane under which a match counts, metres.
        classes: Number of classes.

    Returns:
        int64 (thresholds, predictions): index into `truth`, or -1.
    """
    samples = 1 + max(truth.sample.max(initial=-1), predicted.sample.max(initial=-1))
    group_of_truth = truth.sample * classes + truth.label
    group_of_predicted = predicted.sample * classes + predicted.label
    # Stable: within a group annotations keep the order of the table, predictions that of their rank.
    truth_order = np.argsort(group_of_truth, kind="stable")
    predicted_order = np.argsort(group_of_predicted, kind="stable")
    groups = np.arange(samples * classes + 1)
    found = np.full((len(thresholds), len(predicted)), -1, dtype=np.int64)
    match_groups(
        np.ascontiguousarray(truth.center[truth_order, :2]),
        np.searchsorted(group_of_truth[truth_order], groups),
        truth_order,
        np.ascontiguousarray(predicted.center[predicted_order, :2]),
        np.searchsorted(group_of_predicted[predicted_order], groups),
        predicted_order,
        thresholds,
        found,
    )
    return found
