"""How often a 95 % interval of a difference holds it: of two simulated detectors whose true difference is known."""

import numpy as np
import pytest
from nuscenes.eval.detection.constants import DETECTION_NAMES

from harness.evaluate.bootstrap import draws, resampled
from harness.evaluate.intervals import Estimate, difference
from harness.evaluate.metrics import compare
from tests.harness.evaluate.simulation import config, simulate

POPULATION = 20_000
"""Scenes, four times, that stand for all there are."""
DRAWS = 400


def _differences(split, truth, detected, copies):
    settings = config()
    first, second = (resampled(compare(split, truth, boxes, settings), settings, copies) for boxes in detected)
    return difference(second, first)


def _true_difference():
    parts = [
        _differences(*simulate(POPULATION, np.random.default_rng([1, part])), np.ones((1, POPULATION), dtype=np.int64))
        for part in range(4)
    ]
    return {name: float(np.mean([part[name][0] for part in parts])) for name in parts[0]}


def _covered(scenes, repetitions, true):
    """Share of the intervals that hold the true difference, by metric, and the fewest annotations of any split."""
    held, known, fewest = dict.fromkeys(true, 0), dict.fromkeys(true, 0), 10**9
    for repetition in range(repetitions):
        split, truth, detected = simulate(scenes, np.random.default_rng([2, scenes, repetition]))
        found = _differences(split, truth, detected, draws(scenes, DRAWS, seed=repetition))
        for name, values in found.items():
            label = DETECTION_NAMES.index(name[3:]) if name.startswith("AP/") else None
            having = truth if label is None else truth.where(truth.label == label)
            estimate = Estimate.of(values, len(np.unique(split.scene[having.sample])))
            known[name] += np.isfinite(estimate.low)
            held[name] += estimate.low <= true[name] <= estimate.high
        fewest = min(fewest, len(truth))
    return {name: held[name] / known[name] for name in held if known[name]}, fewest


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_intervals_hold_the_difference_as_often_as_they_say():
    true = _true_difference()
    print({name: round(value, 4) for name, value in true.items()})
    assert 0.03 < true["mAP"] < 0.15
    for scenes in (150, 54):  # of nuScenes' validation split, and of the embedded world's
        share, fewest = _covered(scenes, 1500, true)
        print(
            scenes, "scenes, at least", fewest, "annotations:", {name: round(value, 3) for name, value in share.items()}
        )
        if scenes == 150:
            assert fewest >= 1000
            assert 0.93 <= share["mAP"] <= 0.97
            assert 0.93 <= share["NDS"] <= 0.97


@pytest.mark.slow
def test_a_standard_error_is_about_as_large_as_results_differ():
    found = [
        Estimate.of(
            _differences(*simulate(60, np.random.default_rng([3, number])), draws(60, 50, seed=number))["NDS"], 60
        )
        for number in range(100)
    ]
    # The spread of a hundred values is known to 7 %.
    spread = np.std([estimate.value for estimate in found], ddof=1)
    assert np.mean([estimate.standard_error for estimate in found]) == pytest.approx(spread, rel=0.25)
