"""The log of a GPU's steps is fetched rarely, complete whenever it is saved, and names what is not finite."""

import pytest
import torch

from detectors.cost import example_batch
from detectors.presets import PRESETS
from distill.objective import Objective
from harness.diagnose.machine import Machine
from harness.runs.folder import RunFolder
from harness.study.schedule import ScheduleSpec
from harness.train import trainer
from harness.train.step_log import StepLog
from harness.train.trainer import Training

STEPS = 5
TIMES = ("seconds", "cpu_seconds")


@pytest.fixture
def batch():
    return example_batch(PRESETS["tiny_radar"], 2)


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """``begin(every)``: a training on the CPU whose log is fetched as rarely as a GPU's."""

    def make(every, name="run", allowed=0):
        monkeypatch.setattr(trainer, "StepLog", lambda run, _: StepLog(run, every))
        torch.manual_seed(0)
        objective = Objective(PRESETS["tiny_radar"].build(), None, {})
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir(exist_ok=True)
        schedule = ScheduleSpec(steps=STEPS, skip_non_finite=allowed)
        return Training(Machine(torch.device("cpu")), objective, schedule, 0, folder)

    return make


def _take(training, batch, steps):
    for step in range(steps):
        training.step([batch])
        training.log.timed(1.0 + step, 0.5)


def _content(folder):
    return [{name: value for name, value in line.items() if name not in TIMES} for line in folder.steps()]


def test_lines_fetched_together_are_those_fetched_one_by_one(begin, batch):
    one_by_one, together = begin(1, "one"), begin(3, "together")
    for training in (one_by_one, together):
        _take(training, batch, STEPS)
    assert len(one_by_one.run.steps()) == STEPS
    assert _content(together.run) == _content(one_by_one.run)
    # They share their time: 1, 2 and 3 seconds, then 4 and 5.
    assert [line["seconds"] for line in together.run.steps()] == [2, 2, 2, 4.5, 4.5]


def test_lines_wait_until_it_is_time_or_the_state_is_saved(begin, batch):
    training = begin(3)
    _take(training, batch, 2)
    assert training.run.steps() == []
    training.save()
    assert [line["step"] for line in training.run.steps()] == [0, 1]
    assert begin(3).next == 2


def _take_one_that_is_not_finite(training, batch, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "clip_grad_norm_", lambda *given: torch.tensor(float("inf")))
        training.step([batch])


def test_a_step_that_is_not_finite_is_named_and_never_saved(begin, batch, monkeypatch):
    training = begin(4)
    _take(training, batch, 1)
    training.save()
    saved = training.run.state.read_bytes()
    _take(training, batch, 1)
    weights = {name: tensor.clone() for name, tensor in training.objective.student.named_parameters()}
    _take_one_that_is_not_finite(training, batch, monkeypatch)
    # No weight has moved, although nobody has looked yet.
    assert all(torch.equal(weights[name], each) for name, each in training.objective.student.named_parameters())
    with pytest.raises(FloatingPointError, match="the gradient in step 2 is inf, and all losses are finite"):
        training.save()
    assert training.run.state.read_bytes() == saved


def test_steps_that_may_be_left_out_are_counted_when_they_are_fetched(begin, batch, monkeypatch):
    training = begin(4, allowed=1)
    _take(training, batch, 1)
    _take_one_that_is_not_finite(training, batch, monkeypatch)
    training.log.timed(1.0, 0.5)
    assert training.skipped == 0
    training.save()
    assert training.skipped == 1
    assert [line.get("skipped") for line in training.run.steps()] == [None, 1]
    assert training.run.steps()[1]["gradient_norm"] == 0
    # One that goes on has not forgotten it.
    again = begin(4, allowed=1)
    _take_one_that_is_not_finite(again, batch, monkeypatch)
    with pytest.raises(FloatingPointError, match=r"in step 2 is inf.*; 1 updates were left out before"):
        again.flush()


def test_a_term_that_is_not_finite_is_named_with_its_step(begin, batch):
    training = begin(2)
    _take(training, batch, 1)
    names, values = ["loss", "raw/heatmap", "raw/boxes"], torch.tensor([torch.nan, 1.0, torch.nan])
    training.log.add(1, {"batch": 0, "lr": 0.1}, names, values, {}, torch.tensor(1.0))
    with pytest.raises(FloatingPointError, match=r"^loss 'boxes' is nan in step 1$"):
        training.log.fetch()
