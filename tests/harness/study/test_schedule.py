"""A schedule in epochs has a length only for so many samples."""

import pytest
from pydantic import ValidationError

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


@pytest.mark.parametrize("size", [8, {"global": 8}, {"global": 8, "micro": 8}])
def test_a_whole_batch_has_one_identity_however_it_is_written(size):
    schedule = ScheduleSpec(steps=1, batch_size=size)
    assert schedule.model_dump(mode="json") == ScheduleSpec(steps=1, batch_size=8).model_dump(mode="json")
    assert (schedule.global_batch, schedule.micro_batch) == (8, None)


@pytest.mark.parametrize("micro", [2, "auto"])
def test_a_batch_in_parts_survives_the_way_through_json(micro):
    schedule = ScheduleSpec(epochs=2, batch_size={"global": 64, "micro": micro})
    written = schedule.model_dump(mode="json")
    assert written["batch_size"] == {"global": 64, "micro": micro}
    assert ScheduleSpec.model_validate(written) == schedule
    assert (schedule.global_batch, schedule.micro_batch) == (64, micro)
    assert schedule.for_samples(640).length == 20


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "greater than 0"),
        ("8", "valid integer"),
        ({"micro": 2}, "required"),
        ({"global": 4, "micro": 8}, "micro is 8, more than the 4 of global"),
        ({"global": 4, "mikro": 2}, "not permitted"),
    ],
)
def test_other_batches_are_refused(size, message):
    with pytest.raises(ValidationError, match=message):
        ScheduleSpec(steps=1, batch_size=size)


def test_what_was_added_later_leaves_no_trace_at_its_default():
    written = ScheduleSpec(steps=1).model_dump(mode="json")
    assert not {"lr_for_batch", "skip_non_finite", "deterministic"} & written.keys()
