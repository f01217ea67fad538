"""Effects of losses from designs, by hand and by their laws."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.evidence.attribution import additions, attribute, factorial, is_factorial
from harness.evidence.statistics import Blocks

ORDER = ("a", "b", "c")
SETS = [frozenset(chosen) for size in range(4) for chosen in combinations(ORDER, size)]
ARMS = {chosen: "+".join(sorted(chosen)) or "baseline" for chosen in SETS}
VALUES = {"baseline": 10, "a": 12, "b": 11, "c": 10, "a+b": 16, "a+c": 12, "b+c": 13, "a+b+c": 20}
BY_HAND = {
    # Steps of a: 12-10, 16-11, 12-10, 20-13 = 2, 5, 2, 7.
    ("main effect", "a"): 16 / 4,
    # Of b: 11-10, 16-12, 13-10, 20-12 = 1, 4, 3, 8.
    ("main effect", "b"): 16 / 4,
    # Of c: 10-10, 12-12, 13-11, 20-16 = 0, 0, 2, 4.
    ("main effect", "c"): 6 / 4,
    # Alone and last count a third, the two in the middle a sixth each.
    ("Shapley value", "a"): 2 / 3 + (5 + 2) / 6 + 7 / 3,
    ("Shapley value", "b"): 1 / 3 + (4 + 3) / 6 + 8 / 3,
    ("Shapley value", "c"): 0 / 3 + (0 + 2) / 6 + 4 / 3,
    # (16-12-11+10 + 20-12-13+10) / 2, (12-12-10+10 + 20-16-13+11) / 2, (13-11-10+10 + 20-16-12+12) / 2.
    ("interaction", "a b"): (3 + 5) / 2,
    ("interaction", "a c"): (0 + 2) / 2,
    ("interaction", "b c"): (2 + 4) / 2,
}


def blocks(values):
    """Of three seeds that agree up to what cancels."""
    return Blocks({arm: [value - 1.0, value + 0.0, value + 1.0] for arm, value in values.items()})


def test_a_factorial_of_three_losses_by_hand():
    parts = attribute(ARMS, ORDER, blocks(VALUES))
    assert {(part.kind, " ".join(part.what)): part.effect.value for part in parts} == pytest.approx(BY_HAND)
    # The values of all are the gain of the whole.
    assert sum(part.effect.value for part in parts if part.kind == "Shapley value") == pytest.approx(20 - 10)


def test_standard_error_of_a_main_effect_is_that_of_four_pairs():
    values = {arm: [value + 0.0, value + 1.0 if arm == "a" else value + 0.0] for arm, value in VALUES.items()}
    whole = Blocks(values)
    square, freedom = whole.residual
    main = next(part for part in attribute(ARMS, ORDER, whole) if part.kind == "main effect")
    # A mean of four differences of two seeds each: 2 / 4 of the mean square, over two seeds.
    assert main.effect.spread.seeds == pytest.approx(square * 0.5 / 2)
    assert main.effect.spread.seed_freedom == freedom == 7


@given(st.lists(st.integers(-50, 50), min_size=4, max_size=4), st.integers(-50, 50))
def test_on_additive_truths_shapley_is_the_main_effect_and_nothing_interacts(own, start):
    order = ("a", "b", "c", "d")
    gains = dict(zip(order, own, strict=True))
    sets = [frozenset(chosen) for size in range(5) for chosen in combinations(order, size)]
    arms = {chosen: "+".join(sorted(chosen)) or "baseline" for chosen in sets}
    values = {arms[chosen]: start + sum(gains[loss] for loss in chosen) for chosen in sets}
    for part in attribute(arms, order, blocks(values)):
        expected = 0 if part.kind == "interaction" else gains[part.what[0]]
        assert part.effect.value == pytest.approx(expected, abs=1e-9)


def test_every_contrast_of_a_factorial_adds_up_to_nothing():
    for contrast in factorial(ARMS, ORDER).values():
        assert sum(contrast.values()) == pytest.approx(0)


def test_leave_one_out_tells_what_each_adds_to_the_others_and_no_more():
    arms = {frozenset(): "baseline", frozenset("abc"): "all"} | {
        frozenset("abc") - {loss}: f"no {loss}" for loss in "abc"
    }
    assert not is_factorial(arms, ORDER)
    values = {"baseline": 10, "all": 20, "no a": 13, "no b": 12, "no c": 16}
    found = {(part.kind, part.what, part.to): part.effect.value for part in attribute(arms, ORDER, blocks(values))}
    assert found == pytest.approx(
        {
            ("added", ("a",), ("b", "c")): 7,
            ("added", ("b",), ("a", "c")): 8,
            ("added", ("c",), ("a", "b")): 4,
        }
    )


def test_add_one_and_cumulative_designs():
    alone = {frozenset(): "baseline"} | {frozenset(loss): loss for loss in "abc"}
    assert additions(alone, ORDER) == {}  # what is added to nothing is the gain
    chain = {frozenset("abc"[:end]): str(end) for end in range(4)}
    assert [(what, to) for _, what, to in additions(chain, ORDER)] == [
        (("b",), ("a",)),
        (("c",), ("a", "b")),
    ]


def test_several_losses_at_once_are_added_where_no_arm_is_in_between():
    arms = {frozenset(): "baseline", frozenset("a"): "start", frozenset("abc"): "all", frozenset("bc"): "losses"}
    assert additions(arms, ORDER) == {
        ("added", ("b", "c"), ("a",)): {"all": 1.0, "start": -1.0},
        ("added", ("a",), ("b", "c")): {"all": 1.0, "losses": -1.0},
    }
    between = arms | {frozenset("ab"): "two"}
    assert ("added", ("b", "c"), ("a",)) not in additions(between, ORDER)


def test_one_loss_alone_is_no_factorial():
    arms = {frozenset(): "baseline", frozenset("a"): "a"}
    assert not is_factorial(arms, ("a",))
