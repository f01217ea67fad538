"""A history is the log in parts: means by hand, and a mark by which trainings on other batches are known."""

import math

import pytest

from harness.diagnose.history import UNKNOWN, summarize


def _line(step, **more):
    return {"step": step, "batch": step, "loss": 1.0, "share/heatmap": 0.5, "lr": 0.1} | more


def test_parts_are_equal_and_their_means_leave_out_what_was_not_looked_at():
    # Eight steps in four parts; gradients are looked at in every other step, and once there is none to compare.
    lines = [_line(step, **{"share/feature": step / 10}) for step in range(8)]
    for step, cosine, gradient in ((0, 0.4, 2.0), (2, 0.0, 0.0), (4, -0.2, 1.0), (5, -0.4, 1.0)):
        lines[step] |= {"weight_cosine/feature": cosine, "weight_gradient/feature": gradient}
    found = summarize(lines, bins=4)
    assert found.ends.tolist() == [0, 2, 4, 6, 8]
    assert found.terms == ["heatmap", "feature"]
    assert found.means["share/feature"].tolist() == pytest.approx([0.05, 0.25, 0.45, 0.65])
    assert found.means["weight_cosine/feature"].tolist() == pytest.approx([0.4, math.nan, -0.3, math.nan], nan_ok=True)
    assert "lr" not in found.means


def test_a_short_training_has_a_part_for_each_step_and_none_has_no_history():
    assert summarize([_line(0), _line(1)]).ends.tolist() == [0, 1, 2]
    assert summarize([]) is None


def test_other_batches_are_seen_in_the_part_where_they_are():
    lines = [_line(step) for step in range(6)]
    swapped = [*lines[:4], lines[5], lines[4]]
    unnamed = [{key: value for key, value in line.items() if key != "batch"} for line in lines]
    one, other, old = (summarize(each, bins=3).batches for each in (lines, swapped, unnamed))
    assert (one == other).tolist() == [True, True, False]
    assert old.tolist() == [UNKNOWN] * 3
