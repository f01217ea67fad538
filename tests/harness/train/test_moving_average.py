"""The moving average of weights is what is scored, and an interruption leaves no trace in it."""

import pytest
import torch
from safetensors.torch import load_file

from harness.jobs.worker import run
from harness.runs.folder import RunFolder
from harness.train.trainer import Interrupted, Training

DECAY = 0.3
SCHEDULE = {"steps": 5, "batch_size": 2, "ema": DECAY}


def _train(order, path, stop_after=None):
    folder = RunFolder(path)
    folder.write("job.json", order.model_dump(mode="json"))
    run(order, folder, lambda: stop_after is not None and len(folder.steps()) >= stop_after)
    return load_file(folder.model)


def test_what_is_scored_is_the_average_of_the_weights_after_each_step(order, tmp_path, monkeypatch):
    after_step = []
    step = Training.step

    def watched(self, *given):
        line = step(self, *given)
        after_step.append({name: tensor.clone() for name, tensor in self.objective.student.state_dict().items()})
        return line

    monkeypatch.setattr(Training, "step", watched)
    scored = _train(order(schedule=SCHEDULE), tmp_path / "run")
    for name, tensor in scored.items():
        if not tensor.is_floating_point():
            continue
        average = after_step[0][name]
        for number, weights in enumerate(after_step[1:], start=1):
            # Of few steps at first: (1 + n) / (10 + n) is 2/11, 3/12, 4/13, and then more than 0.3.
            decay = min(DECAY, (1 + number) / (10 + number))
            average = decay * average + (1 - decay) * weights[name]
        torch.testing.assert_close(tensor, average)
    changed = [name for name in scored if (scored[name] != after_step[-1][name]).any()]
    assert any("running_var" in name for name in changed)
    assert any("head" in name for name in changed)


@pytest.mark.parametrize("stop_after", [2, 4])
def test_interrupted_average_ends_with_the_same_bits(order, tmp_path, stop_after):
    asked = order(schedule=SCHEDULE)
    at_once = _train(asked, tmp_path / "at once")
    with pytest.raises(Interrupted):
        _train(asked, tmp_path / "parts", stop_after)
    parts = _train(asked, tmp_path / "parts")
    assert all(torch.equal(parts[name], at_once[name]) for name in at_once)


def test_average_does_not_change_the_training(order, tmp_path):
    averaged, plain = tmp_path / "averaged", tmp_path / "plain"
    _train(order(schedule=SCHEDULE), averaged)
    _train(order(schedule=SCHEDULE | {"ema": None}), plain)
    losses = [[line["loss"] for line in RunFolder(path).steps()] for path in (averaged, plain)]
    assert losses[0] == losses[1]
