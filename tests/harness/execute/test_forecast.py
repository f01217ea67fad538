"""When a study will be done, worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.presets import PRESETS
from harness.execute.forecast import longest_chains, makespan, time_left
from harness.execute.state import JobState
from harness.study.jobs import DataIdentity, DetectorJobSpec, Job

DATA = DataIdentity(fingerprint="", train_split="", eval_split="", detection_config="within_16m")


def _job(needs=(), preset="tiny_lidar"):
    """A job that needs up to two others."""
    fields = dict(zip(("teacher", "labels"), needs, strict=False))
    return Job(DetectorJobSpec(detector=PRESETS[preset], seed=0, data=DATA, schedule=None, **fields), "a job")


def _jobs(**needs):
    return {id_: _job(each) for id_, each in needs.items()}


def test_longest_chain_of_a_teacher_goes_through_its_slowest_student():
    jobs = _jobs(teacher="", baseline="", fast=["teacher"], slow=["teacher"])
    seconds = {"teacher": 5.0, "baseline": 7.0, "fast": 1.0, "slow": 4.0}
    assert longest_chains(jobs, seconds) == {"teacher": 9.0, "baseline": 7.0, "fast": 1.0, "slow": 4.0}


@pytest.mark.parametrize(("workers", "expected"), [(1, 17.0), (2, 9.0), (3, 9.0)])
def test_jobs_wait_for_what_they_need_and_for_a_process(workers, expected):
    jobs = _jobs(teacher="", baseline="", fast=["teacher"], slow=["teacher"])
    seconds = {"teacher": 5.0, "baseline": 7.0, "fast": 1.0, "slow": 4.0}
    # Two workers: teacher 0-5, baseline 0-7, slow 5-9, fast 7-8.
    assert makespan(jobs, seconds, workers) == expected


def test_what_runs_holds_its_process_and_those_that_need_it():
    jobs = _jobs(student=["teacher"], other="")
    assert makespan(jobs, {"student": 3.0, "other": 2.0}, 2, [(10.0, ["teacher"])]) == 13.0
    assert makespan(jobs, {"student": 3.0, "other": 2.0}, 1, [(10.0, ["teacher"])]) == 15.0


def test_a_circle_is_refused():
    with pytest.raises(ValueError, match="circle: a, b"):
        makespan(_jobs(a="b", b="a"), {"a": 1.0, "b": 1.0}, 2)


@given(st.lists(st.floats(0.1, 100.0), min_size=1, max_size=12), st.integers(1, 5), st.data())
def test_no_schedule_beats_its_bounds(lengths, workers, data):
    ids = [str(number) for number in range(len(lengths))]
    needs = {
        id_: data.draw(st.lists(st.sampled_from(ids[:number]), max_size=2)) if number else []
        for number, id_ in enumerate(ids)
    }
    jobs = _jobs(**needs)
    seconds = dict(zip(ids, lengths, strict=True))
    found = makespan(jobs, seconds, workers)
    least = max(max(longest_chains(jobs, seconds).values()), sum(lengths) / workers)
    assert least <= found * (1 + 1e-9)
    # Graham's bound for any list scheduling.
    assert found <= (2 - 1 / workers) * least * (1 + 1e-9)


def _state(status, expected=100.0, preset="tiny_lidar", **more):
    return JobState(_job(preset=preset), status, expected=expected, **more)


def test_estimates_stand_until_steps_are_seen():
    states = {"a": _state("running", process=0, began=0.0), "b": _state("waiting")}
    assert time_left(states, 1, now=30.0) == pytest.approx(70 + 100)


def test_what_has_run_corrects_the_estimates_of_what_waits():
    # Twice as long as estimated: 50 seconds gone and 150 to go, of 100.
    running = _state("running", process=0, began=0.0, seconds_left=150.0)
    states = {"a": running, "b": _state("waiting")}
    assert time_left(states, 1, now=50.0) == pytest.approx(150 + 200)
    done = _state("done", expected=100.0, process=1, began=0.0, ended=50.0)
    # Now 250 seconds of processes for 200 expected ones.
    assert time_left({**states, "c": done}, 1, now=50.0) == pytest.approx(150 + 125)


def test_a_model_whose_estimate_is_wrong_corrects_no_other_model_that_has_run():
    # The LiDAR took half of its estimate, the camera all of it.
    lidar = _state("done", process=0, began=0.0, ended=50.0)
    camera = _state("done", process=1, began=0.0, ended=100.0, preset="tiny_camera")
    waiting = {"more lidar": _state("waiting"), "more camera": _state("waiting", preset="tiny_camera")}
    assert time_left({"lidar": lidar, "camera": camera, **waiting}, 1, now=100.0) == pytest.approx(50 + 100)
    # Of a model that nobody has seen, all together say something.
    radar = {"radar": _state("waiting", preset="tiny_radar")}
    assert time_left({"lidar": lidar, "camera": camera, **radar}, 1, now=100.0) == pytest.approx(100 * 150 / 200)


def test_students_side_by_side_are_one_process():
    together = {id_: _state("running", process=0, began=0.0, seconds_left=90.0) for id_ in ("a", "b")}
    # 100 seconds for what was expected to take 200: what waits takes half of its estimate.
    assert time_left({**together, "c": _state("waiting")}, 1, now=10.0) == pytest.approx(90 + 50)


def test_without_estimates_nothing_is_said():
    assert time_left({"a": _state("waiting", expected=None)}, 1, now=0.0) is None
    assert time_left({"a": _state("done", expected=None)}, 1, now=0.0) == 0.0
