"""A schedule in epochs has a length only for so many samples."""

import pytest

from harness.study.schedule import ScheduleSpec


def test_epochs_are_put_in_steps_first():
    schedule = ScheduleSpec(epochs=3, batch_size=4)
    with pytest.raises(RuntimeError, match="for_samples"):
        _ = schedule.length
    assert schedule.for_samples(10).length == 8  # 30 / 4, rounded up
