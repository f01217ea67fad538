"""Cost of each kind of error: TIDE's breakdown (Bolya et al., ECCV 2020), with centre distances instead of overlaps.

The threshold is that of the true-positive errors, 2 m in nuScenes' configurations. Annotations farther from a box than
twice the threshold are ignored. A false positive belongs to the first of these kinds whose condition holds:

- duplicate, if an annotation of its class is within the threshold, which a better box has matched;
- classification, if an annotation of another class is within the threshold;
- localisation, if an annotation of its class is within twice the threshold;
- both, if an annotation of another class is within twice the threshold;
- background.

An annotation is missed if no box finds it, and no classification or localisation error is nearest to it. What a kind
costs is the AP at that threshold that is gained where it is mended and nothing else: the class or the place of a box is
made right if that lets it find an annotation that was not found (one box for each, the best); every other box of the
kind is taken away, and so are missed annotations.
"""

from dataclasses import replace

import numpy as np
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.data_classes import DetectionConfig

from harness.evaluate.bootstrap import recounted
from harness.evaluate.box_loops import Ranking, find_nearest
from harness.evaluate.metrics import Matched, ranking

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")


def costs(matched: Matched, config: DetectionConfig, copies: np.ndarray) -> dict[str, np.ndarray]:
    """What each of KINDS costs in mean AP, float64 (draws,) each, as a fraction."""
    base = at_one_threshold(matched, config)
    before = rankings(base, config)
    precision = [recounted(ranked, config, copies)[0] for ranked in before]
    cost_of = {}
    for kind, mended in _mended(base, config).items():
        gains = []
        for ap, old, new in zip(precision, before, rankings(mended, config), strict=True):
            # Where all of a class were missed, nothing is left to be missed.
            emptied = (copies @ new.truths == 0) & (copies @ old.truths > 0)
            gains.append(np.where(emptied, 1.0, recounted(new, config, copies)[0]) - ap)
        cost_of[kind] = np.mean(gains, axis=0)
    return cost_of


def at_one_threshold(matched: Matched, config: DetectionConfig) -> Matched:
    """The result, matched with the threshold of the true-positive errors alone."""
    return replace(matched, matches=matched.matches[[list(config.dist_ths).index(config.dist_th_tp)]])


def without(matched: Matched, boxes: np.ndarray, truths: np.ndarray) -> Matched:
    """A result without the predictions and annotations of two masks; what found such an annotation has to go, too."""
    number = np.where(truths, -1, np.cumsum(~truths) - 1)
    return replace(
        matched,
        truth=matched.truth.where(~truths),
        order=matched.order[~boxes[matched.order]],
        matches=np.where(matched.matches >= 0, number[matched.matches] if len(number) else -1, -1),
    )


def error_kinds(matched: Matched, config: DetectionConfig) -> tuple[np.ndarray, np.ndarray]:
    """Kind of each prediction (index in KINDS; -1 of true positives and of what does not count), and what it is near.

    Returns:
        int64 (predictions,), and int64 (2, predictions): the nearest annotation of its class, and of another; or -1.
    """
    truth, predicted = matched.truth, matched.predicted
    nearest, distance = find_nearest(truth.places, predicted.places, len(matched.split.tokens))
    near = distance < config.dist_th_tp
    close = distance < 2 * config.dist_th_tp
    conditions = {"duplicate": near[0], "classification": near[1], "localisation": close[0], "both": close[1]}
    numbers = [KINDS.index(kind) for kind in conditions]
    kind = np.select(list(conditions.values()), numbers, default=KINDS.index("background"))
    counts = np.zeros(len(predicted), dtype=bool)
    counts[matched.order] = True
    return np.where(counts & (matched.matches[0] < 0), kind, -1), nearest


def _mended(matched: Matched, config: DetectionConfig) -> dict[str, Matched]:
    """The result with each of KINDS mended."""
    kind, nearest = error_kinds(matched, config)
    no_truth = np.zeros(len(matched.truth), dtype=bool)
    missed = ~no_truth
    missed[matched.matches[0][matched.matches[0] >= 0]] = False
    free = missed.copy()
    results = {}
    for name, of in (("classification", nearest[1]), ("localisation", nearest[0])):
        mask = kind == KINDS.index(name)
        boxes = matched.order[mask[matched.order]]
        missed[of[boxes]] = False
        # The best box of each annotation that was not found.
        boxes = boxes[free[of[boxes]]]
        boxes = boxes[np.unique(of[boxes], return_index=True)[1]]
        label, matches = matched.predicted.label.copy(), matched.matches.copy()
        label[boxes], matches[0, boxes] = matched.truth.label[of[boxes]], of[boxes]
        mask[boxes] = False
        results[name] = without(
            replace(matched, predicted=replace(matched.predicted, label=label), matches=matches), mask, no_truth
        )
    for name in ("both", "duplicate", "background"):
        results[name] = without(matched, kind == KINDS.index(name), no_truth)
    return results | {"missed": without(matched, np.zeros(len(kind), dtype=bool), missed)}


def rankings(matched: Matched, config: DetectionConfig) -> list[Ranking]:
    """Of each class, of a result at one threshold."""
    return [ranking(matched, DETECTION_NAMES.index(name), matched.matches[0]) for name in config.class_names]
