"""The bootstrap over scenes, which estimates the uncertainty of metrics. Samples of a scene resemble each other.

A draw takes as many scenes as the split has, with replacement. Its metrics are those that the devkit would compute for
the drawn scenes, with each copy as a separate scene. Matching never crosses samples, so no box is matched again; a copy
counts its matches once more. Two results that are drawn with the same scenes can be subtracted draw by draw.
"""

import numpy as np
from nuscenes.eval.detection.constants import DETECTION_NAMES, TP_METRICS
from nuscenes.eval.detection.data_classes import DetectionConfig

from harness.evaluate.box_loops import Ranking, resample
from harness.evaluate.metrics import ERRORS, RECALLS, UNDEFINED, Matched, ranking

DRAWS = 1000


def draws(scenes: int, count: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each scene is in each draw, int64 (1 + count, scenes); the first draw is the split itself."""
    drawn = np.random.default_rng(seed).multinomial(scenes, np.full(scenes, 1 / scenes), size=count)
    return np.concatenate([np.ones((1, scenes), dtype=np.int64), drawn])


def resampled(matched: Matched, config: DetectionConfig, copies: np.ndarray) -> dict[str, np.ndarray]:
    """mAP, NDS, the five errors and ``AP/CLASS`` in each draw.

    Args:
        matched: A result.
        config: Of the metrics.
        copies: The draws (`draws`).

    Returns:
        float64 (draws,) each; fractions and the devkit's units.
    """
    tp = list(config.dist_ths).index(config.dist_th_tp)
    labels = [DETECTION_NAMES.index(name) for name in config.class_names]
    counted = {
        (label, number): recounted(ranking(matched, label, matches, with_errors=number == tp), config, copies)
        for label in labels
        for number, matches in enumerate(matched.matches)
    }
    precision = {
        name: np.mean([counted[label, number][0] for number in range(len(config.dist_ths))], axis=0)
        for name, label in zip(config.class_names, labels, strict=True)
    }
    errors = {}
    for metric, key in ERRORS.items():
        defined = [label for label in labels if key not in UNDEFINED.get(DETECTION_NAMES[label], ())]
        errors[metric] = np.mean([counted[label, tp][1][TP_METRICS.index(key)] for label in defined], axis=0)
    mean = np.mean(list(precision.values()), axis=0)
    scores = sum(np.maximum(0.0, 1.0 - values) for values in errors.values())
    nds = (config.mean_ap_weight * mean + scores) / (config.mean_ap_weight + len(errors))
    return {"mAP": mean, "NDS": nds, **errors, **{f"AP/{name}": values for name, values in precision.items()}}


def recounted(
    ranked: Ranking, config: DetectionConfig, copies: np.ndarray, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """AP, (draws,), and the ranking's mean errors, (errors, draws), in each draw.

    Args:
        ranked: The predictions of a class.
        config: Of the metrics.
        copies: The draws.
        among: int64 (scenes,): annotations that share the false positives with these; if None, these have them alone.
    """
    share = np.ones(len(copies))
    if among is not None:
        share = (copies @ ranked.truths) / np.maximum(copies @ among, 1)
    return resample(ranked, share, copies, RECALLS, round(100 * config.min_recall) + 1, config.min_precision)
