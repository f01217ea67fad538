"""Loops over boxes for numba, which cannot compile functions with checked types."""

from typing import NamedTuple

import numpy as np

from detectors.compiled import compiled


class Places(NamedTuple):
    """Where boxes are, and what."""

    center: np.ndarray
    """float64 (n, 3); only the ground plane counts."""
    sample: np.ndarray
    """int64 (n,): number of the sample of each."""
    label: np.ndarray
    """int64 (n,): number of the class of each."""


@compiled
def match_groups(
    truth: Places, predicted: Places, order: np.ndarray, samples: int, classes: int, thresholds: np.ndarray
) -> np.ndarray:
    """The annotation that each prediction finds: the nearest of its sample and class that no better one has.

    Args:
        truth: The annotations.
        predicted: The predictions.
        order: Indices of the predictions that count, the best first.
        samples: How many there are.
        classes: How many there are.
        thresholds: Distances under which a match counts, each matched on its own.

    Returns:
        int64 (thresholds, predictions): indices of annotations, or -1.
    """
    matches = np.full((len(thresholds), len(predicted.label)), -1, dtype=np.int64)
    groups = samples * classes
    every = np.arange(len(truth.label))
    truth_start, truth_order = grouped(truth.sample * classes + truth.label, every, groups)
    predicted_start, predicted_order = grouped(predicted.sample * classes + predicted.label, order, groups)
    longest = 0
    for group in range(groups):
        longest = max(longest, truth_start[group + 1] - truth_start[group])
    distance = np.empty(longest)
    taken = np.zeros((len(thresholds), longest), dtype=np.bool_)
    for group in range(groups):
        first, count = truth_start[group], truth_start[group + 1] - truth_start[group]
        if count == 0:
            continue
        taken[:, :count] = False
        for row in predicted_order[predicted_start[group] : predicted_start[group + 1]]:
            for candidate in range(count):
                dx = predicted.center[row, 0] - truth.center[truth_order[first + candidate], 0]
                dy = predicted.center[row, 1] - truth.center[truth_order[first + candidate], 1]
                distance[candidate] = np.sqrt(dx * dx + dy * dy)
            for number in range(len(thresholds)):
                best, nearest = -1, np.inf
                for candidate in range(count):
                    if not taken[number, candidate] and distance[candidate] < nearest:
                        best, nearest = candidate, distance[candidate]
                if nearest < thresholds[number]:
                    taken[number, best] = True
                    matches[number, row] = truth_order[first + best]
    return matches


@compiled
def find_nearest(truth: Places, predicted: Places, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest annotation of a prediction's own class, and the nearest of any other, in its sample.

    Args:
        truth: The annotations.
        predicted: The predictions.
        samples: How many there are.

    Returns:
        int64 (2, predictions): indices of annotations, of its own class first, or -1; and how far they are, metres.
    """
    nearest = np.full((2, len(predicted.label)), -1, dtype=np.int64)
    distance = np.full((2, len(predicted.label)), np.inf)
    start, members = grouped(truth.sample, np.arange(len(truth.sample)), samples)
    for i in range(len(predicted.sample)):
        sample = predicted.sample[i]
        for candidate in members[start[sample] : start[sample + 1]]:
            other = int(truth.label[candidate] != predicted.label[i])
            dx = predicted.center[i, 0] - truth.center[candidate, 0]
            dy = predicted.center[i, 1] - truth.center[candidate, 1]
            gap = np.sqrt(dx * dx + dy * dy)
            if gap < distance[other, i]:
                nearest[other, i], distance[other, i] = candidate, gap
    return nearest, distance


@compiled
def grouped(group: np.ndarray, order: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each group begins and the last one ends, int64 (groups + 1,), and its members, group after group.

    Only those that `order` names are members, and within a group they are in its order.
    """
    start = np.zeros(groups + 1, dtype=np.int64)
    for i in order:
        start[group[i] + 1] += 1
    for number in range(groups):
        start[number + 1] += start[number]
    members = np.empty(len(order), dtype=np.int64)
    at = start.copy()
    for i in order:
        members[at[group[i]]] = i
        at[group[i]] += 1
    return start, members


@compiled
def _last_present(i: int, scene: np.ndarray, copies: np.ndarray) -> int:
    """The last prediction up to i whose scene is there; the first one where there is none."""
    while i > 0 and copies[scene[i]] == 0:
        i -= 1
    return max(i, 0)


class Ranking(NamedTuple):
    """The predictions of one class, best first, and what they found at one threshold: what curves are made of."""

    hits: np.ndarray
    """int64 (true positives,): which of them are true positives."""
    score: np.ndarray
    """float64 (n,)."""
    scene: np.ndarray
    """int32 (n,): number of its scene."""
    errors: np.ndarray
    """float64 (true positives, 5 or 0): in the order of the devkit's TP_METRICS; NaN is left out of means."""
    truths: np.ndarray
    """int64 (scenes,): annotations of each scene."""


@compiled
def curve(
    ranked: Ranking, copies: np.ndarray, truths: int, share: float, recalls: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, confidence and mean errors over recall as the devkit has them, had scenes been there several times.

    The devkit interpolates between the points that the predictions make one by one; one pass needs only the last point
    and the present one.

    Args:
        ranked: The predictions.
        copies: int64 (scenes,): how often each scene is there.
        truths: Annotations, copies counted.
        share: What a false positive counts; 1 for the devkit's precision.
        recalls: float64 (g,): where the curves are asked for, ascending.

    Returns:
        float64 (g,), (g,) and (e, g).
    """
    hits, score, scene, errors, _ = ranked
    kinds = errors.shape[1]
    precision, confidence = np.zeros(len(recalls)), np.zeros(len(recalls))
    means = np.ones((kinds, len(recalls)))
    # Mean error after the first and after the last true positive of each score: the devkit interpolates over scores.
    levels = np.empty(len(errors) if kinds else 0)
    first = np.empty((len(levels), kinds))
    last = np.empty((len(levels), kinds))
    level = -1
    total = np.zeros(kinds)
    known = np.zeros(kinds, dtype=np.int64)
    false, true, at, after = 0, 0, 0, 0
    for row in range(len(hits)):
        i = hits[row]
        times = copies[scene[i]]
        if times == 0:
            continue
        # What lies between two true positives is false; most of the work is here, and there is no branch in it.
        for j in range(after, i):
            false += copies[scene[j]]
        after = i + 1
        for copy in range(times):
            recall = (true + 1) / truths
            if at < len(recalls) and recalls[at] < recall:
                sharp = (true + 1) / (share * false + true + 1)
                old_recall, old_sharp = true / truths, true / (share * false + true) if true else 0.0
                before = score[_last_present(i if copy else i - 1, scene, copies)]
                while at < len(recalls) and recalls[at] < recall:
                    if false + true == 0:
                        precision[at], confidence[at] = sharp, score[i]
                    elif recalls[at] == old_recall:
                        precision[at], confidence[at] = old_sharp, before
                    else:
                        step = recalls[at] - old_recall
                        precision[at] = (sharp - old_sharp) / (recall - old_recall) * step + old_sharp
                        confidence[at] = (score[i] - before) / (recall - old_recall) * step + before
                    at += 1
            true += 1
            if kinds:
                fresh = level < 0 or levels[level] != score[i]
                level += fresh
                levels[level] = score[i]
                for kind in range(kinds):
                    if not np.isnan(errors[row, kind]):
                        total[kind] += errors[row, kind]
                        known[kind] += 1
                    last[level, kind] = total[kind] / known[kind] if known[kind] else 0.0
                    if fresh:
                        first[level, kind] = last[level, kind]
    if true == 0:
        return precision, confidence, means
    for j in range(after, len(scene)):
        false += copies[scene[j]]
    before = score[_last_present(len(scene) - 1, scene, copies)]
    while at < len(recalls) and recalls[at] <= true / truths:
        precision[at], confidence[at] = true / (share * false + true), before
        at += 1
    for at in range(len(recalls) if kinds else 0):
        # The lowest level above this confidence, and the highest one that is not.
        low, high = 0, level + 1
        while low < high:
            middle = (low + high) // 2
            if levels[middle] > confidence[at]:
                low = middle + 1
            else:
                high = middle
        for kind in range(kinds):
            if known[kind] == 0:
                continue
            if low > level:
                means[kind, at] = last[level, kind]
            elif low == 0 or levels[low] == confidence[at]:
                means[kind, at] = first[low, kind]
            else:
                slope = (last[low - 1, kind] - first[low, kind]) / (levels[low - 1] - levels[low])
                means[kind, at] = slope * (confidence[at] - levels[low]) + first[low, kind]
    return precision, confidence, means


@compiled
def resample(
    ranked: Ranking, share: np.ndarray, copies: np.ndarray, recalls: np.ndarray, begin: int, min_precision: float
) -> tuple[np.ndarray, np.ndarray]:
    """AP and true-positive errors of one class at one threshold, for many draws of scenes.

    Args:
        ranked: The predictions.
        share: float64 (draws,): as for `curve`.
        copies: int64 (draws, scenes).
        recalls: As for `curve`.
        begin: First recall that counts.
        min_precision: What is taken off precisions.

    Returns:
        float64 (draws,) and (e, draws).
    """
    ap, means = np.zeros(len(copies)), np.ones((ranked.errors.shape[1], len(copies)))
    for draw in range(len(copies)):
        positives = 0
        for number in range(len(ranked.truths)):
            positives += copies[draw, number] * ranked.truths[number]
        if positives == 0:
            continue
        precision, confidence, curves = curve(ranked, copies[draw], positives, share[draw], recalls)
        total = 0.0
        for at in range(begin, len(recalls)):
            total += max(precision[at] - min_precision, 0.0)
        ap[draw] = total / (len(recalls) - begin) / (1.0 - min_precision)
        end = len(recalls)
        while end > 0 and confidence[end - 1] == 0.0:
            end -= 1
        for kind in range(len(curves)):
            means[kind, draw] = curves[kind, begin:end].mean() if end > begin else 1.0
    return ap, means
