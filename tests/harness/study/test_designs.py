"""A design becomes exactly the arms that its name promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.study.designs import DESIGNS, expand

_names = st.lists(st.sampled_from("abcdef"), min_size=2, max_size=5, unique=True)


@pytest.mark.parametrize(
    ("design", "arms"),
    [
        ("all_combinations", ["a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"]),
        ("leave_one_out", ["a+b+c", "b+c", "a+c", "a+b"]),
        ("add_one", ["a", "b", "c"]),
        ("cumulative", ["a", "a+b", "a+b+c"]),
    ],
)
def test_arms_by_hand(design, arms):
    expanded = expand({design: ["a", "b", "c"]})
    assert list(expanded) == arms
    assert all(losses == name.split("+") for name, losses in expanded.items())


@given(losses=_names)
def test_a_full_factorial_has_every_set_once(losses):
    sets = [frozenset(chosen) for chosen in DESIGNS["all_combinations"](losses)]
    assert len(set(sets)) == len(sets) == 2 ** len(losses) - 1
    assert all(set(chosen) <= set(sets) for chosen in [[frozenset(c) for c in DESIGNS[d](losses)] for d in DESIGNS])


def test_designs_and_lists_stand_side_by_side_and_equal_arms_are_one():
    expanded = expand({"mine": ["b", "a"], "add_one": ["a", "b"], "cumulative": ["a", "b"]})
    assert expanded == {"mine": ["b", "a"], "a": ["a"], "b": ["b"], "a+b": ["a", "b"]}


@pytest.mark.parametrize("losses", [[], ["a"], ["a", "a"], ["a", "b", "a"]])
def test_a_design_of_too_few_losses_is_refused(losses):
    with pytest.raises(ValueError, match="add_one needs two or more different losses"):
        expand({"add_one": losses})


@pytest.mark.parametrize("arms", [None, ["a"], "a", {"add_one": "a"}, {"add_one": [1, 2]}, {"x": None}])
def test_what_is_no_design_is_left_to_the_schema(arms):
    assert expand(arms) == arms
