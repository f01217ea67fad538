"""A space: which numbers it has, which of a study's own it holds, and how they are written into a study."""

import math

import pytest
import yaml

from harness.study.search_spec import Choices, Range, overrides


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ({"low": 0, "high": 1, "step": 0.25}, [0.0, 0.25, 0.5, 0.75, 1.0]),
        # In floats three times 0.1 and 0.3 differ, and three times 0.3 and 0.9.
        ({"low": 0, "high": 0.3, "step": 0.1}, [0.0, 0.1, 0.2, 0.3]),
        ({"low": 0, "high": 1, "step": 0.3}, [0.0, 0.3, 0.6, 0.9]),
        ({"low": 1, "high": 6, "step": 2, "whole": True}, [1, 3, 5]),
    ],
)
def test_a_range_with_a_step_has_these_values_and_holds_no_others(fields, values):
    kind = Range(**fields)
    assert kind.all == values
    assert {type(value) for value in kind.all} == {type(values[0])}
    assert all(kind.holds(value) for value in values)
    assert not any(kind.holds(value + 0.01) for value in values)
    assert not any(kind.holds(value) for value in (math.nan, True, "0", None, fields["high"] + 1))


def test_without_a_step_a_range_holds_all_between_its_ends_or_the_whole_ones():
    assert [Range(low=1, high=4).holds(value) for value in (0.9, 1, 2.5, 4.0, 4.1)] == [False, True, True, True, False]
    integers = Range(low=1, high=4, whole=True)
    assert [integers.holds(value) for value in (1, 2.5, 4.0)] == [True, False, True]


def test_choices_hold_numbers_however_they_are_written_but_take_none_for_true():
    numbers, switch = Choices(choices=(1, 2.5)), Choices(choices=(True, False))
    assert [numbers.holds(value) for value in (1.0, 2.5, True, "1")] == [True, True, False, False]
    assert [switch.holds(value) for value in (True, False, 1, None)] == [True, True, False, False]


@pytest.mark.parametrize("value", [1e-05, 1e16, 0.1, 3, True, None, "conv3x3", "a: b", "1e-05", "x " * 99 + "x"])
def test_a_value_is_read_as_it_was_written(value):
    (override,) = overrides({"losses.feature.weight": value}, {})
    key, _, text = override.partition("=")
    read = yaml.safe_load(text)
    assert (key, read, type(read)) == ("losses.feature.weight", value, type(value))
