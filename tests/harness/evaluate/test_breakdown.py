"""Kinds of errors by hand, what mending each gains, and AP in bands of annotations."""

import numpy as np
import pytest
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.data_classes import DetectionConfig

from harness.evaluate.bands import counts_by_band, precision_by_band, strata
from harness.evaluate.breakdown import KINDS, at_one_threshold, costs, error_kinds
from harness.evaluate.columns import predictions
from harness.evaluate.metrics import compare
from tests.harness.evaluate.sets import annotations_of, random_box, results_of, split_of

ONE = np.ones((1, 1), dtype=np.int64)


@pytest.fixture(scope="module")
def config():
    return config_factory("detection_cvpr_2019")


def _box(name, x, score=-1.0, speed=0.0):
    return {
        "translation": (x, 0.0, 0.0),
        "size": (1.0, 1.0, 1.0),
        "rotation": (1.0, 0.0, 0.0, 0.0),
        "velocity": (speed, 0.0),
        "detection_name": name,
        "detection_score": score,
        "attribute_name": "",
    }


def _matched(truth, boxes, config, points=None, visibility=None):
    split = split_of([0])
    annotations = annotations_of(
        [truth], split, 5 if points is None else points, 4 if visibility is None else visibility
    )
    return compare(split, annotations, predictions(results_of([boxes], split), split, 500), config)


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        (_box("car", 0.5, 0.5), "duplicate"),
        (_box("car", 1.9, 0.5), "duplicate"),
        (_box("car", 20.5, 0.5), "classification"),
        (_box("car", 3.0, 0.5), "localisation"),
        (_box("car", 23.0, 0.5), "both"),
        (_box("car", 24.1, 0.5), "background"),
        (_box("bus", 0.5, 0.5), "classification"),
        (_box("car", 60.0, 0.5), None),  # out of range: does not count
    ],
)
def test_kind_of_an_error(config, box, kind):
    truth = [_box("car", 0.0), _box("bus", 20.0)]
    matched = at_one_threshold(_matched(truth, [_box("car", 0.1, 0.9), box], config), config)
    kinds, nearest = error_kinds(matched, config)
    assert kinds.tolist() == [-1, -1 if kind is None else KINDS.index(kind)]
    assert nearest[:, 0].tolist() == [0, 1]


def _ap(hits, truths):
    """AP of a ranking of true (1) and false (0) positives by the devkit's rule, at its 101 recalls, by hand."""
    recall, precision = np.cumsum(hits) / truths, np.cumsum(hits) / np.arange(1, len(hits) + 1)
    at = np.interp(np.linspace(0, 1, 101), recall, precision, right=0)[11:]
    return np.maximum(at - 0.1, 0).mean() / 0.9


def _costs(truth, boxes, config):
    return {kind: float(values[0]) for kind, values in costs(_matched(truth, boxes, config), config, ONE).items()}


def test_a_perfect_result_has_no_costs(config):
    truth = [_box("car", 0.0), _box("bus", 20.0)]
    boxes = [_box("car", 0.0, 0.9), _box("bus", 20.0, 0.8)]
    assert _costs(truth, boxes, config) == pytest.approx(dict.fromkeys(_costs(truth, boxes, config), 0.0))


def test_costs_by_hand(config):
    truth = [_box("car", x) for x in (0.0, 10.0, 20.0, 30.0)]
    boxes = [
        _box("car", 45.0, 0.95),  # background
        _box("car", 0.0, 0.9),  # found
        _box("car", 0.3, 0.8),  # duplicate
        _box("car", 13.0, 0.7),  # localisation
        _box("car", 12.5, 0.65),  # a second one, at the same annotation
        _box("bus", 20.1, 0.6),  # classification
    ]
    found = _costs(truth, boxes, config)
    base = _ap([0, 1, 0, 0, 0], 4)
    wanted = {
        "classification": _ap([0, 1, 0, 0, 0, 1], 4),  # the bus becomes a car, the last of them
        "localisation": _ap([0, 1, 0, 1], 4),  # the better one is moved, the other goes
        "both": base,
        "duplicate": _ap([0, 1, 0, 0], 4),
        "background": _ap([1, 0, 0, 0], 4),
        "missed": _ap([0, 1, 0, 0, 0], 3),  # that at 30 m: the others have a box near them
    }
    # Of ten classes.
    assert found == pytest.approx({kind: (ap - base) / 10 for kind, ap in wanted.items()})


def test_a_corrected_class_finds_nothing_that_was_found_before(config):
    truth = [_box("car", 0.0), _box("car", 10.0)]
    boxes = [_box("car", 0.0, 0.9), _box("bus", 0.2, 0.8), _box("car", 10.0, 0.1)]
    assert _costs(truth, boxes, config)["classification"] == pytest.approx(0)


def test_a_class_that_was_missed_as_a_whole_costs_all_of_its_precision(config):
    truth = [_box("car", 0.0), _box("bus", 30.0)]
    assert _costs(truth, [_box("car", 0.0, 0.9)], config)["missed"] == pytest.approx(0.1)


def test_mending_one_kind_never_costs(config):
    rng = np.random.default_rng(5)
    truth = [random_box(rng, name) for name in ["car", "bus", "pedestrian"] * 12]
    boxes = [random_box(rng, near=box) for box in truth * 2] + [random_box(rng) for _ in range(40)]
    found = _costs(truth, boxes, config)
    assert all(cost >= 0 for cost in found.values())
    assert found["background"] > 0


def _by_band(matched, config, name):
    (by,) = (by for by in strata(matched, config) if by.name == name)
    precision = {band: float(ap[0]) for band, ap in precision_by_band(matched, config, ONE, by).items()}
    return precision, {band: count.annotations for band, count in counts_by_band(matched, by).items()}


def test_a_false_positive_is_in_the_band_of_its_own_distance(config):
    truth = [_box("car", 5.0), _box("car", 15.0), _box("car", 45.0)]
    boxes = [_box("car", 5.0, 0.5), _box("car", 15.0, 0.5), _box("car", 12.0, 0.9)]
    precision, truths = _by_band(_matched(truth, boxes, config), config, "distance")
    assert truths == {"0-10 m": 1, "10-20 m": 1, "40-50 m": 1}
    assert precision == pytest.approx({"0-10 m": 1.0, "10-20 m": _ap([0, 1], 1), "40-50 m": 0.0})


def test_bands_without_false_positives_of_their_own_share_them(config):
    truth = [_box("car", 0.0), _box("car", 10.0), _box("car", 20.0), _box("car", 30.0)]
    boxes = [_box("car", 40.0, 0.9), *(_box("car", 10.0 * n, 0.5 - 0.1 * n) for n in range(4))]
    matched = _matched(truth, boxes, config, points=np.array([0, 3, 3, 3]))
    precision, truths = _by_band(matched, config, "LiDAR points")
    assert truths == {"0": 1, "1-5": 3}
    # One false positive before all: a quarter of it for one of four annotations, three quarters for three.
    alone = 1 / 1.25
    recall, sharp = np.array([0, 1, 2, 3]) / 3, np.array([0, 1 / 1.75, 2 / 2.75, 3 / 3.75])
    three = np.interp(np.linspace(0, 1, 101), recall, sharp)[11:]
    one = np.interp(np.linspace(0, 1, 101), [0, 1], [0, alone])[11:]
    assert precision["0"] == pytest.approx(np.maximum(one - 0.1, 0).mean() / 0.9)
    assert precision["1-5"] == pytest.approx(np.maximum(three - 0.1, 0).mean() / 0.9)


def test_false_positives_are_shared_within_their_class(config):
    truth = [_box("car", 0.0), _box("car", 10.0), _box("car", 20.0), _box("bus", 30.0)]
    boxes = [_box("car", 40.0, 0.9), *(_box("car", 10.0 * n, 0.5) for n in range(3)), _box("bus", 30.0, 0.5)]
    matched = _matched(truth, boxes, config, points=np.array([0, 3, 3, 3]))
    precision, _ = _by_band(matched, config, "LiDAR points")
    sharp = np.array([0.0, 1 / (1 + 2 / 3), 2 / (2 + 2 / 3)])
    cars = np.interp(np.linspace(0, 1, 101), np.array([0, 1, 2]) / 2, sharp)[11:]
    # Two of three cars have two thirds of the false car; the bus has none.
    assert precision["1-5"] == pytest.approx((np.maximum(cars - 0.1, 0).mean() / 0.9 + 1.0) / 2)


def test_bands_of_visibility_and_speed(config):
    truth = [_box("car", 0.0, speed=0.0), _box("car", 10.0, speed=5.0), _box("car", 20.0, speed=float("nan"))]
    boxes = [_box("car", 0.0, 0.5), _box("car", 20.0, 0.7), _box("car", 30.0, 0.9, speed=6.0)]
    matched = _matched(truth, boxes, config, visibility=np.array([1, 4, 4]))
    speed, truths = _by_band(matched, config, "speed")
    # The box that finds the annotation of unknown speed is in no band.
    assert truths == {"< 0.5 m/s": 1, "3-8 m/s": 1}
    assert speed == pytest.approx({"< 0.5 m/s": 1.0, "3-8 m/s": 0.0})
    assert _by_band(matched, config, "visibility")[1] == {"0-40 %": 1, "80-100 %": 2}


@pytest.mark.parametrize(("reach", "bands"), [(16, ["0-4 m", "4-8 m", "8-12 m", "12-16 m"]), (7, ["0-2 m", "6-7 m"])])
def test_bands_of_distance_follow_the_range(config, reach, bands):
    short = DetectionConfig.deserialize(config.serialize())
    short.class_range = dict.fromkeys(short.class_range, reach)
    found = strata(_matched([_box("car", 1.0)], [], short), short)[0].bands
    assert set(bands) <= set(found)
    assert found[-1] == bands[-1]
