"""A draw of scenes scores what the devkit's rules make of the drawn scenes; its spread becomes an interval."""

import math
from dataclasses import fields

import numpy as np
import pytest
from nuscenes.eval.common.config import config_factory

from harness.evaluate.bands import precision_by_band, strata
from harness.evaluate.bootstrap import draws, resampled
from harness.evaluate.breakdown import costs
from harness.evaluate.columns import predictions
from harness.evaluate.intervals import Estimate, difference, read_draws, write_draws
from harness.evaluate.metrics import ERRORS, compare, measure
from tests.harness.evaluate.sets import annotations_of, random_box, results_of, split_of

SCENE = [0, 0, 1, 1, 1, 2, 3]


@pytest.fixture(scope="module")
def config():
    return config_factory("detection_cvpr_2019")


@pytest.fixture
def lists():
    """Annotations and boxes of seven samples of four scenes: many are found, some velocities and attributes unknown."""
    rng = np.random.default_rng(3)
    names = ["car", "barrier", "pedestrian", "traffic_cone"]
    truth = [[random_box(rng, names[i % 4]) for i in range(12)] for _ in SCENE]
    boxes = [[random_box(rng, near=box) for box in listed * 2] + [random_box(rng, "car")] for listed in truth]
    for listed, found in zip(truth, boxes, strict=True):
        found += [random_box(rng, near=box) | {"detection_name": "truck"} for box in listed[:3]]
        listed[0]["velocity"] = (float("nan"), float("nan"))
        listed[2]["attribute_name"] = ""
    return truth, boxes


def _matched(truth, boxes, scene, config):
    split = split_of(scene)
    found = predictions(results_of(boxes, split), split, 500)
    return compare(split, annotations_of(truth, split), found, config)


def _values(metrics):
    errors = {name: metrics.tp_errors[key] for name, key in ERRORS.items()}
    precision = {f"AP/{name}": ap for name, ap in metrics.mean_dist_aps.items()}
    return {"mAP": metrics.mean_ap, "NDS": metrics.nd_score, **errors, **precision}


def test_the_first_draw_is_the_split(lists, config):
    matched = _matched(*lists, SCENE, config)
    found = resampled(matched, config, draws(4, 3))
    wanted = _values(measure(matched, config)[0])
    assert 0.02 < wanted["mAP"] < 0.9
    assert {name: values[0] for name, values in found.items()} == pytest.approx(wanted, abs=1e-12)


COPIES = [(1, 1, 1, 1), (2, 0, 1, 1), (0, 3, 0, 1), (4, 0, 0, 0), (0, 0, 2, 2)]


def _replicated(lists, config, copies):
    """The drawn scenes as a split of their own."""
    # Every copy of a scene as a scene of its own.
    rows = [(row, 10 * copy + scene) for row, scene in enumerate(SCENE) for copy in range(copies[scene])]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(name for _, name in rows))}
    truth, boxes = ([part[row] for row, _ in rows] for part in lists)
    return _matched(truth, boxes, [numbers[name] for _, name in rows], config)


@pytest.mark.parametrize("copies", COPIES)
def test_a_draw_is_what_its_scenes_would_be_as_a_split(lists, config, copies):
    found = resampled(_matched(*lists, SCENE, config), config, np.array([copies]))
    wanted = _values(measure(_replicated(lists, config, copies), config)[0])
    assert {name: values[0] for name, values in found.items()} == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("copies", COPIES)
def test_costs_and_bands_of_a_draw_are_those_of_its_scenes(lists, config, copies):
    whole, drawn = _matched(*lists, SCENE, config), _replicated(lists, config, copies)
    one = np.ones((1, drawn.split.scenes), dtype=np.int64)
    found, wanted = costs(whole, config, np.array([copies])), costs(drawn, config, one)
    assert {kind: cost.item() for kind, cost in found.items()} == pytest.approx(
        {kind: cost.item() for kind, cost in wanted.items()}, abs=1e-12
    )
    assert sum(cost > 0 for cost in wanted.values()) >= 3
    for of_draw, of_split in zip(strata(whole, config), strata(drawn, config), strict=True):
        found = precision_by_band(whole, config, np.array([copies]), of_draw)
        wanted = precision_by_band(drawn, config, one, of_split)
        assert wanted
        assert {band: found[band].item() for band in wanted} == pytest.approx(
            {band: precision.item() for band, precision in wanted.items()}, abs=1e-12
        )
        assert all(np.isnan(found[band]).all() for band in found.keys() - wanted.keys())


def test_with_equal_scores_a_draw_is_nearly_that(lists, config):
    """The devkit would rank equal scores of copies in another order."""
    for box in (box for listed in lists[1] for box in listed):
        box["detection_score"] = round(box["detection_score"], 1)
    found = resampled(_matched(*lists, SCENE, config), config, np.array([(2, 0, 1, 1)]))
    wanted = measure(_replicated(lists, config, (2, 0, 1, 1)), config)[0]
    assert found["mAP"][0] == pytest.approx(wanted.mean_ap, abs=0.03)


def test_draws_are_of_as_many_scenes_and_repeat():
    found = draws(7, 50)
    assert found.shape == (51, 7)
    assert (found.sum(axis=1) == 7).all()
    assert (found[0] == 1).all()
    assert np.array_equal(found, draws(7, 50))
    assert not np.array_equal(found, draws(7, 50, seed=1))
    # A scene is left out of a draw with probability (6/7)^7.
    assert (draws(7, 4000)[1:] == 0).mean() == pytest.approx((6 / 7) ** 7, abs=0.01)


def test_a_class_that_a_draw_has_not_scores_nothing(config):
    rng = np.random.default_rng(0)
    truth = [[random_box(rng, "car")], [random_box(rng, "bus")]]
    matched = _matched(truth, truth, [0, 1], config)
    found = resampled(matched, config, np.array([[1, 1], [2, 0]]))
    assert found["AP/bus"].tolist() == pytest.approx([1, 0])
    assert found["AP/car"].tolist() == pytest.approx([1, 1])
    assert found["mATE"].tolist() == pytest.approx([0.8, 0.9])  # eight classes, and nine, at an error of 1


def test_a_result_does_not_differ_from_itself(lists, config):
    drawn = resampled(_matched(*lists, SCENE, config), config, draws(4, 40))
    assert Estimate.of(drawn["mAP"], 12).standard_error > 0
    for values in difference(drawn, drawn).values():
        estimate = Estimate.of(values, 12)
        assert (estimate.value, estimate.low, estimate.high, estimate.standard_error) == (0, 0, 0, 0)


def test_an_interval_by_hand():
    # Draws 1 and 3: a standard deviation of sqrt 2; twelve scenes; Student's quantile for eleven degrees is 2.201.
    found = Estimate.of(np.array([2.5, 1.0, float("nan"), 3.0]), 12)
    error = math.sqrt(2) * math.sqrt(12 / 11)
    assert found.value == 2.5
    assert found.standard_error == pytest.approx(error)
    assert (found.low, found.high) == pytest.approx((2.5 - 2.201 * error, 2.5 + 2.201 * error), abs=1e-3)


@pytest.mark.parametrize(("values", "scenes"), [([2.5, 2.5, 2.6], 9), ([2.5, float("nan"), 2.6], 40), ([2.5], 40)])
def test_of_few_scenes_or_draws_nothing_is_known(values, scenes):
    found = Estimate.of(np.array(values), scenes)
    assert found.value == 2.5
    assert all(math.isnan(getattr(found, field.name)) for field in fields(found) if field.name != "value")


def test_draws_are_kept_and_read_again(tmp_path):
    values = {"mAP": np.array([0.25, 0.5]), "AP/car": np.array([0.125, 1.0])}
    write_draws(tmp_path / "draws.npz", values, 7)
    found, scenes = read_draws(tmp_path / "draws.npz")
    assert scenes == 7
    assert {name: list(array) for name, array in found.items()} == {name: list(v) for name, v in values.items()}
    assert read_draws(tmp_path / "none.npz") is None
