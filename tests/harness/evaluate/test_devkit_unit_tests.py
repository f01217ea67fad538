"""The devkit's own unit tests of its detection metrics, run against our matching and averaging."""

import random
import unittest

import pytest
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.tests import test_algo

from harness.evaluate.columns import columns
from harness.evaluate.metrics import compare, measure
from tests.harness.evaluate.sets import annotations_of, results_of, split_of

FIELDS = ("translation", "size", "rotation", "velocity", "detection_name", "detection_score", "attribute_name")


def _accumulate(gt_boxes, pred_boxes, class_name, dist_fcn, dist_th, verbose=False):
    """The devkit's signature of `accumulate`, in columns."""
    config = config_factory("detection_cvpr_2019")
    config.class_range = dict.fromkeys(config.class_range, 1e9)
    config.dist_ths, config.dist_th_tp = [dist_th], dist_th
    tokens = gt_boxes.sample_tokens
    split = split_of([0] * len(tokens))
    truth, found = (
        [[{name: getattr(box, name) for name in FIELDS} for box in boxes[token]] for token in tokens]
        for boxes in (gt_boxes, pred_boxes)
    )
    sample_of = [number for number, listed in enumerate(found) for _ in listed]
    # Not through `predictions`: these boxes have rotations of no length, which no result may have.
    boxes = [box for listed in results_of(found, split).values() for box in listed]
    predicted = columns(sample_of, boxes, split.tokens)
    _, curves = measure(compare(split, annotations_of(truth, split), predicted, config), config)
    return curves[class_name, dist_th]


@pytest.mark.parametrize("case", ["TestAlgo", "TestAPSimple", "TestTPSimple"])
def test_the_devkits_own_tests_pass(case, monkeypatch):
    calls = []

    def accumulate(*args, **kwargs):
        calls.append(args)
        state = random.getstate()  # the checks of types draw from the global generator, which the devkit's tests seed
        found = _accumulate(*args, **kwargs)
        random.setstate(state)
        return found

    monkeypatch.setattr(test_algo, "accumulate", accumulate)
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(getattr(test_algo, case))
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun >= 2
    assert not result.skipped
    assert not result.failures + result.errors, result.failures + result.errors
    assert len(calls) >= 4
