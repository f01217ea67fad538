"""A schedule in epochs has a length only for so many samples."""

import pytest

from harness.study.schedule import ScheduleSpec


def test_epochs_are_put_in_steps_first():
    schedule = ScheduleSpec(epochs=3, batch_size=4)
    with pytest.raises(RuntimeError, match="for_samples"):
        _ = schedule.length
    assert schedule.for_samples(10).length == 8  # 30 / 4, rounded up


def test_class_balance_does_not_go_with_a_teacher_cache():
    with pytest.raises(ValueError, match="leave one of them out"):
        ScheduleSpec(steps=1, class_balanced=True, teacher_cache={})


def test_class_balance_at_its_default_leaves_no_trace():
    assert "class_balanced" not in ScheduleSpec(steps=1).model_dump()
    assert ScheduleSpec(steps=1, class_balanced=True).model_dump()["class_balanced"] is True
