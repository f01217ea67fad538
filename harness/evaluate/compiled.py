"""Loops over boxes that numba compiles; nothing else, as it cannot compile functions whose types the tests check."""

import numpy as np
from numba import njit


@njit(cache=True)
def match_groups(
    truth_xy: np.ndarray,
    truth_starts: np.ndarray,
    truth_order: np.ndarray,
    predicted_xy: np.ndarray,
    predicted_starts: np.ndarray,
    predicted_order: np.ndarray,
    thresholds: np.ndarray,
    found: np.ndarray,
) -> None:
    """Give each prediction the nearest annotation of its group that no better one has, if it is near enough.

    Args:
        truth_xy: Centres of the annotations, group after group.
        truth_starts: Where each group begins, and where the last one ends.
        truth_order: What each of them is called in `found`.
        predicted_xy: Centres of the predictions, group after group, in each the best first.
        predicted_starts: As of the annotations.
        predicted_order: Column of `found` of each.
        thresholds: Distances under which a match counts, each matched on its own.
        found: int64 (thresholds, predictions), all -1; filled.
    """
    longest = 0
    for group in range(len(truth_starts) - 1):
        longest = max(longest, truth_starts[group + 1] - truth_starts[group])
    distance = np.empty(longest)
    taken = np.zeros((len(thresholds), longest), dtype=np.bool_)
    for group in range(len(truth_starts) - 1):
        first, last = truth_starts[group], truth_starts[group + 1]
        if first == last:
            continue
        taken[:, : last - first] = False
        for row in range(predicted_starts[group], predicted_starts[group + 1]):
            for candidate in range(last - first):
                dx = predicted_xy[row, 0] - truth_xy[first + candidate, 0]
                dy = predicted_xy[row, 1] - truth_xy[first + candidate, 1]
                distance[candidate] = np.sqrt(dx * dx + dy * dy)
            for number in range(len(thresholds)):
                best, nearest = -1, np.inf
                for candidate in range(last - first):
                    if not taken[number, candidate] and distance[candidate] < nearest:
                        best, nearest = candidate, distance[candidate]
                if nearest < thresholds[number]:
                    taken[number, best] = True
                    found[number, predicted_order[row]] = truth_order[first + best]
