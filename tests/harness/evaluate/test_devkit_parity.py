"""Columns score what the devkit's boxes score: every AP to the bit, every error to 1e-12, on difficult sets."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.loaders import filter_eval_boxes
from nuscenes.eval.detection.constants import TP_METRICS
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.utils.data_classes import Box
from pyquaternion import Quaternion

from detectors.batch import Inputs
from harness.data.nuscenes import read
from harness.evaluate.columns import predictions
from harness.evaluate.detection import detection_config, held_against
from harness.evaluate.metrics import compare, measure
from harness.evaluate.result_file import read_result
from harness.evaluate.submission import write_submission
from tests.harness.evaluate.sets import annotations_of, devkit_boxes, devkit_metrics, random_box, results_of, split_of

EXTENT = st.sampled_from([0.5, 1.0, 2.0, 4.5])
# Few values, so that distances, scores and centres tie all the time.
PLACE = st.sampled_from([-60.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.3, 0.5, 1.0, 1.5, 2.0, 4.0, 45.0])
SPEED = st.sampled_from([0.0, 1.0, -2.5, float("nan")])
TURN = st.sampled_from([(1.0, 0, 0, 0), (0.0, 0, 0, 1.0), (0.6, 0, 0, 0.8), (2.0, 0.1, -0.1, -1.0), (-1.0, 0, 0, 1e-9)])
NAMES = st.sampled_from(["car", "barrier", "traffic_cone", "bicycle", "motorcycle", "pedestrian"])
ATTRIBUTES = st.sampled_from(["", "vehicle.moving", "vehicle.parked", "cycle.with_rider", "pedestrian.moving"])


@st.composite
def _box(draw, name=None):
    return {
        "translation": (draw(PLACE), draw(PLACE), draw(st.sampled_from([0.0, 0.5, 3.0]))),
        "size": (draw(EXTENT), draw(EXTENT), draw(EXTENT)),
        "rotation": draw(TURN),
        "velocity": (draw(SPEED), draw(SPEED)),
        "detection_name": name or draw(NAMES),
        "detection_score": draw(st.sampled_from([0.0, 0.1, 0.5, 0.5000001, 0.9, 1.0, -0.0])),
        "attribute_name": draw(ATTRIBUTES),
    }


SAMPLES = st.integers(1, 4).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.tuples(_box(), st.integers(0, 2)), max_size=8), min_size=n, max_size=n),
        st.lists(st.lists(_box(), max_size=12), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
    )
)


def _rack():
    return Box([0.5, 0.5, 0.0], [2.0, 3.0, 2.0], Quaternion(axis=[0, 0, 1], angle=0.3))


class _Tables:
    """As much of the devkit's tables as its filter of boxes asks for."""

    def __init__(self, racks):
        self._racks = racks

    def get(self, table, token):
        rack = _rack()
        return {
            "sample": lambda: {"anns": ["rack"] if self._racks[int(token)] else []} if token.isdigit() else None,
            "sample_annotation": lambda: {
                "category_name": "static_object.bicycle_rack",
                "translation": rack.center,
                "size": rack.wlh,
                "rotation": rack.orientation.elements,
            },
        }[table]()


def _devkit(truth, results, racks, config):
    """Metrics of the devkit's own filter, matching and averaging."""

    def boxes(lists):
        found = devkit_boxes({str(number): listed for number, listed in enumerate(lists)})
        return filter_eval_boxes(_Tables(racks), found, config.class_range) if found.all else found

    return devkit_metrics(
        boxes([[{**box, "num_pts": points} for box, points in listed] for listed in truth]), boxes(results), config
    )


def _ours(truth, results, racks, config):
    split = split_of([0] * len(truth), [(number, _rack()) for number, has in enumerate(racks) if has])
    hit = annotations_of([[box for box, points in listed if points != 0] for listed in truth], split)
    found = predictions(results_of(results, split), split, max_boxes=500)
    return measure(compare(split, hit, found, config), config)


@pytest.fixture(scope="module")
def config():
    return config_factory("detection_cvpr_2019")


def _assert_equal(ours, theirs, config):
    for name in config.class_names:
        for threshold in config.dist_ths:
            assert ours[0].get_label_ap(name, threshold) == theirs[0].get_label_ap(name, threshold), (name, threshold)
            a, b = ours[1][name, threshold], theirs[1][name, threshold]
            assert np.array_equal(a.precision, b.precision)
            assert np.array_equal(a.confidence, b.confidence)
            for metric in TP_METRICS:
                np.testing.assert_allclose(getattr(a, metric), getattr(b, metric), rtol=0, atol=1e-12)
        for metric in TP_METRICS:
            a, b = ours[0].get_label_tp(name, metric), theirs[0].get_label_tp(name, metric)
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    assert ours[0].mean_ap == theirs[0].mean_ap
    assert ours[0].nd_score == pytest.approx(theirs[0].nd_score, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(SAMPLES)
def test_any_set_of_boxes_scores_as_with_the_devkit(config, sets):
    _scores_as_with_the_devkit(config, sets)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(SAMPLES)
def test_many_sets_of_boxes_score_as_with_the_devkit(config, sets):
    _scores_as_with_the_devkit(config, sets)


def _scores_as_with_the_devkit(config, sets):
    truth, results, racks = sets
    _assert_equal(_ours(truth, results, racks, config), _devkit(truth, results, racks, config), config)


def _random(rng, count, name=None):
    return [random_box(rng, name) for _ in range(count)]


@pytest.mark.parametrize("kind", ["many boxes", "one annotation", "close to the truth", "no predictions"])
def test_large_sets_score_as_with_the_devkit(config, kind):
    rng = np.random.default_rng(0)
    truth = [[(box, 5) for box in _random(rng, 40)] for _ in range(6)]
    results = [_random(rng, 500) for _ in range(6)]
    if kind == "one annotation":
        truth = [[(_random(rng, 1, "car")[0] | {"translation": (3.0, 4.0, 0.0)}, 1)], *[[]] * 5]
        results = [_random(rng, 500, "car") for _ in range(6)]
        results[0][7]["translation"] = (3.2, 4.1, 1.0)
    elif kind == "close to the truth":
        results = [
            [box | {"translation": tuple(np.array(box["translation"]) + rng.normal(0, 1, 3))} for box, _ in listed] * 3
            for listed in truth
        ]
    elif kind == "no predictions":
        results = [[] for _ in truth]
    racks = [True, False] * 3
    ours, theirs = _ours(truth, results, racks, config), _devkit(truth, results, racks, config)
    _assert_equal(ours, theirs, config)
    assert any(curve.precision.any() for curve in theirs[1].md.values()) == (kind != "no predictions")


def _at(name, x, y=0.0):
    return {
        "translation": (x, y, 0.5),
        "size": (1.0, 1.0, 1.0),
        "rotation": (1.0, 0, 0, 0),
        "velocity": (0.0, 0.0),
        "detection_name": name,
        "detection_score": 0.5,
        "attribute_name": "",
    }


@pytest.mark.parametrize(
    ("box", "racks", "counts"),
    [
        (_at("car", 49.99), [False], True),
        (_at("car", 50.0), [False], False),  # the range itself is out of range
        (_at("pedestrian", 0.0, -40.0), [False], False),
        (_at("barrier", 18.0, 23.9), [False], True),
        (_at("barrier", 18.0, 24.0), [False], False),
        (_at("bicycle", 0.5, 0.5), [True], False),
        (_at("motorcycle", 0.5, 0.5), [True], False),
        (_at("motorcycle", 0.5, 0.5), [False], True),
        (_at("pedestrian", 0.5, 0.5), [True], True),  # racks are for cycles
        (_at("bicycle", 4.0, 4.0), [True], True),
    ],
)
def test_what_counts(config, box, racks, counts):
    truth, results = [[(box, 5)]], [[box]]
    ours, theirs = _ours(truth, results, racks, config), _devkit(truth, results, racks, config)
    _assert_equal(ours, theirs, config)
    assert (ours[0].mean_ap > 0) == counts


def _assert_result_equal(root, split, config, folder):
    """On a dataset, with its annotations shifted, turned and doubled; through a file, as the devkit reads it."""
    path = folder / "predictions.json"
    boxes = {token: read(root, token, Inputs()).boxes for token in root.tokens(split)}
    write_submission(path, root, boxes, frozenset({"lidar"}))
    content = json.loads(path.read_text())
    rng = np.random.default_rng(1)
    for listed in content["results"].values():
        for box in list(listed):
            moved = np.array(box["translation"]) + rng.normal(0, 0.7, 3)
            listed.append(box | {"translation": moved.tolist(), "detection_score": float(rng.random())})
            box["detection_score"] = 0.5
    # Equal scores all over, and the samples of the file in another order than those of the split.
    content["results"] = dict(reversed(content["results"].items()))
    path.write_text(json.dumps(content))
    theirs = DetectionEval(root.devkit, config, str(path), split, str(folder), verbose=False).evaluate()
    ours = measure(held_against(root, split, read_result(path)[1], config), config)
    assert theirs[0].mean_ap > 0.1
    _assert_equal(ours, theirs, config)


@pytest.mark.parametrize("split", ["synthetic_train", "synthetic_val"])
@pytest.mark.parametrize("ranges", ["nuscenes", "within_16m"])
def test_results_on_the_embedded_world_score_as_with_the_devkit(smoke_root, split, ranges, tmp_path):
    _assert_result_equal(smoke_root, split, detection_config(ranges), tmp_path)


def test_results_on_the_real_frame_score_as_with_the_devkit(real_root, config, tmp_path):
    _assert_result_equal(real_root, "mini_train", config, tmp_path)
