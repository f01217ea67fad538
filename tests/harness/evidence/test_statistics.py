"""Effects over seeds and scenes: what is worked by hand, what has to hold, and how often they are right (in short)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from harness.evidence.statistics import Blocks, Spread, holm
from tests.calibration.simulate import FITTED, Truth, rates


def test_effect_of_two_arms_is_the_paired_t_test():
    """With one arm beside the baseline, blocks are pairs."""
    arm, baseline = [24.0, 25.5, 23.0], [22.0, 22.5, 22.0]
    effect = Blocks({"baseline": baseline, "arm": arm}).effect({"arm": 1.0, "baseline": -1.0})
    # Differences 2, 3, 1: mean 2, variance 1, standard error 1 / sqrt(3).
    assert effect.value == pytest.approx(2.0)
    assert effect.spread.standard_error == pytest.approx(1 / 3**0.5)
    assert effect.spread.seed_freedom == 2
    assert effect.p == pytest.approx(stats.ttest_rel(arm, baseline).pvalue)
    low, high = stats.ttest_rel(arm, baseline).confidence_interval(0.95)
    assert (effect.low, effect.high) == pytest.approx((low, high), rel=1e-4)


def test_residual_of_three_arms_is_that_of_the_analysis_of_variance():
    # After the means of rows (2, 3, 7) and columns (3, 4, 5) around 4: what is left is +-1 as below.
    left = np.array([[1.0, -1.0, 0.0], [-1.0, 0.0, 1.0], [0.0, 1.0, -1.0]])
    table = np.array([[2.0], [3.0], [7.0]]) + np.array([-1.0, 0.0, 1.0]) + left
    square, freedom = Blocks(dict(zip("abc", table.tolist(), strict=True))).residual
    assert (square, freedom) == (pytest.approx(6 / 4), 4)


def test_a_common_shift_of_a_seed_changes_nothing():
    arms = {"baseline": [20.0, 21.0, 19.5], "a": [22.0, 22.5, 22.0], "b": [21.0, 23.0, 20.5]}
    shifted = {
        name: [value + shift for value, shift in zip(row, (5, -3, 1), strict=True)] for name, row in arms.items()
    }
    contrast = {"a": 1.0, "baseline": -1.0}
    one, other = Blocks(arms).effect(contrast), Blocks(shifted).effect(contrast)
    assert one.p == pytest.approx(other.p)
    assert one.spread.seeds == pytest.approx(other.spread.seeds)


def scene_draws(per_scene, draws=4000, seed=0):
    """Of the mean over scenes, (seeds, scenes) -> (seeds, 1 + draws)."""
    scenes = per_scene.shape[1]
    copies = np.random.default_rng(seed).multinomial(scenes, np.full(scenes, 1 / scenes), size=draws) / scenes
    return np.concatenate([per_scene.mean(axis=1, keepdims=True), per_scene @ copies.T], axis=1)


def test_scenes_that_differ_alike_for_all_seeds_are_counted_whole():
    """var(scene) / C of the sample, and nothing of it is taken away."""
    scenes = np.random.default_rng(1).normal(size=40)
    arm = np.tile(scenes, (3, 1)) + np.array([[0.0], [0.1], [0.2]])
    blocks = Blocks(
        {"arm": arm.mean(axis=1).tolist(), "baseline": [0.0, 0.0, 0.0]},
        {"arm": scene_draws(arm), "baseline": np.zeros((3, 4001))},
        scenes=40,
    )
    spread = blocks.effect({"arm": 1.0, "baseline": -1.0}).spread
    assert spread.scenes == pytest.approx(scenes.var(ddof=1) / 40, rel=0.06)
    assert spread.scene_freedom == 39


def test_what_differs_by_seed_and_scene_is_counted_once():
    """Rest alone: it is in what seeds leave over, so that scenes add next to nothing."""
    rest = np.random.default_rng(2).normal(size=(6, 400))
    blocks = Blocks(
        {"arm": rest.mean(axis=1).tolist(), "baseline": [0.0] * 6},
        {"arm": scene_draws(rest, 1000), "baseline": np.zeros((6, 1001))},
        scenes=400,
    )
    spread = blocks.effect({"arm": 1.0, "baseline": -1.0}).spread
    together = rest.mean(axis=0).var(ddof=1) / 400
    assert together > 1e-4
    assert spread.scenes < 0.25 * together


def test_one_seed_knows_scenes_alone():
    scenes = np.random.default_rng(3).normal(1.0, 1.0, size=(1, 30))
    blocks = Blocks(
        {"arm": scenes.mean(axis=1).tolist(), "baseline": [0.0]},
        {"arm": scene_draws(scenes), "baseline": np.zeros((1, 4001))},
        scenes=30,
    )
    effect = blocks.effect({"arm": 1.0, "baseline": -1.0})
    assert (effect.spread.seeds, effect.seeds, effect.scenes) == (0.0, 1, 30)
    assert effect.spread.standard_error == pytest.approx(stats.sem(scenes[0]), rel=0.03)
    # The t test's p value for that standard error, which 4,000 draws do not know to the last digit.
    assert effect.p == pytest.approx(2 * stats.t.sf(effect.value / effect.spread.standard_error, 29))


def test_nothing_known_is_nan_and_no_claim():
    effect = Blocks({"arm": [2.0], "baseline": [1.0]}).effect({"arm": 1.0, "baseline": -1.0})
    assert effect.value == 1.0
    assert np.isnan([effect.p, effect.low, effect.high, effect.spread.detectable()]).all()
    # Results that are equal for every seed are no proof that nothing varies.
    same = Blocks({"arm": [2.0, 2.0], "baseline": [1.0, 1.0]}).effect({"arm": 1.0, "baseline": -1.0})
    assert np.isnan(same.p)


def test_too_few_scenes_are_left_out():
    draws = {"arm": np.ones((2, 5)), "baseline": np.zeros((2, 5))}
    effect = Blocks({"arm": [1.0, 2.0], "baseline": [0.0, 0.0]}, draws, scenes=9).effect({"arm": 1.0, "baseline": -1.0})
    assert (effect.scenes, effect.spread.scenes) == (0, 0.0)


def test_contrasts_are_checked():
    blocks = Blocks({"arm": [1.0, 2.0], "baseline": [0.0, 0.5]})
    with pytest.raises(ValueError, match="do not add up to 0"):
        blocks.effect({"arm": 1.0})
    with pytest.raises(KeyError, match="no arm 'other'"):
        blocks.effect({"arm": 1.0, "other": -1.0})


@pytest.mark.slow
@given(
    seeds=st.floats(0.01, 10),
    scenes=st.floats(0.01, 10),
    freedom=st.integers(1, 60),
    scene_freedom=st.integers(9, 150),
    value=st.floats(0.01, 20),
)
def test_p_is_between_those_of_its_parts_alone_and_the_interval_agrees(seeds, scenes, freedom, scene_freedom, value):
    spread = Spread(seeds, freedom, scenes, scene_freedom)
    alone = (Spread(seeds, freedom, 0.0, 0), Spread(0.0, 0, scenes, scene_freedom))
    # A sum of two symmetric variables is farther from 0 than either of them (Anderson, 1955).
    assert spread.p(value) >= max(part.p(value) for part in alone) - 1e-5
    assert spread.p(spread.reach) == pytest.approx(0.05, rel=1e-3)
    assert spread.p(0.0) == pytest.approx(1.0, abs=1e-3)
    assert spread.p(value) >= spread.p(2 * value)


def test_p_of_both_parts_is_the_integral_over_both():
    a, b = 0.5**0.5, 0.4**0.5
    for value in (0.5, 2.0, 8.0):

        def beyond(y, value=value):
            return stats.t.pdf(y, 9) * (stats.t.sf((value - b * y) / a, 3) + stats.t.cdf((-value - b * y) / a, 3))

        whole, _ = integrate.quad(beyond, -60, 60, limit=500, epsabs=1e-12)
        assert Spread(0.5, 3, 0.4, 9).p(value) == pytest.approx(whole, rel=1e-6)
        assert Spread(0.4, 9, 0.5, 3).p(value) == pytest.approx(whole, rel=1e-6)


def test_power_at_the_detectable_difference_is_that_of_the_t_test():
    """With seeds alone: the noncentral t distribution."""
    for freedom in (2, 4, 14, 40):
        difference = Spread(1.0, freedom, 0.0, 0).detectable()
        quantile = stats.t.ppf(0.975, freedom)
        power = stats.nct.sf(quantile, freedom, difference) + stats.nct.cdf(-quantile, freedom, difference)
        assert power == pytest.approx(0.8, abs=0.01)


def test_holm_by_hand():
    # 0.01 x 4, 0.02 x 3, 0.03 x 2 (below the one before: raised to it), 0.5 x 1.
    assert holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.02, float("nan"), 0.9]) == pytest.approx([0.04, float("nan"), 0.9], nan_ok=True)
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p):
    adjusted = holm(p)
    assert all(raw <= new <= min(1.0, raw * len(p)) + 1e-12 for raw, new in zip(p, adjusted, strict=True))
    ranked = [new for _, new in sorted(zip(p, adjusted, strict=True))]
    assert ranked == sorted(ranked)


def test_an_arm_that_spreads_more_is_named():
    drawn = np.random.default_rng(5)
    arms = {f"arm {number}": drawn.normal(0, 1, 5).tolist() for number in range(6)}
    assert Blocks(arms).unlike() == {}
    wild = Blocks(arms | {"wild": drawn.normal(0, 12, 5).tolist()}).unlike()
    assert list(wild) == ["wild"]


def test_an_arm_is_held_against_what_the_others_leave_over_without_it():
    drawn = np.random.default_rng(6)
    arms = {f"arm {number}": drawn.normal(0, 1, 4).tolist() for number in range(5)}
    found = Blocks(arms).unlike(level=5.0)
    for name, p in found.items():
        square, freedom = Blocks({other: values for other, values in arms.items() if other != name}).residual
        whole, all_freedom = Blocks(arms).residual
        own = (whole * all_freedom - square * freedom) / 3
        assert (freedom, p) == (9, pytest.approx(stats.f.sf(own / square, 3, 9)))
    assert len(found) == 5


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_tables_without_any_effect_claim_as_few_as_they_say(seeds):
    """The short version of tests/calibration/calibrate.py."""
    found = rates(FITTED["mAP"], Truth(arms=6, seeds=seeds, scenes=54), tables=400, draws=120, seed=seeds)
    assert 0.035 < found.per_row < 0.065
    assert found.family <= 0.075  # of 400 tables: 0.06 is what the long version asks of 2,000
