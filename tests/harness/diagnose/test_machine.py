"""A machine computes in the precision and with the threads that it was opened with."""

import pytest
import torch

from detectors.presets import preset
from harness.diagnose.machine import Machine, open_machine


def test_a_detector_in_training_mode_is_not_looked_at(make_batch):
    detector = preset("tiny_lidar").build().train()
    with pytest.raises(RuntimeError, match="training mode"):
        Machine(torch.device("cpu")).look(detector, make_batch())


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_forward_passes_compute_in_the_precision(precision, dtype):
    layer = torch.nn.Linear(3, 3)
    with Machine(torch.device("cpu"), precision).autocast():
        assert layer(torch.ones(1, 3)).dtype == dtype
    assert layer.weight.dtype == torch.float32
    assert layer(torch.ones(1, 3)).dtype == torch.float32


@pytest.mark.parametrize(("cuda", "mps", "kind"), [(False, False, "cpu"), (False, True, "mps"), (True, True, "cuda")])
def test_auto_is_the_best_device_that_there_is(monkeypatch, cuda, mps, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    threads = torch.get_num_threads()
    machine = open_machine("auto", "32-true", 1)
    assert machine.device.type == kind
    assert torch.get_num_threads() == machine.threads == 1
    torch.set_num_threads(threads)


def test_name_of_a_processor_says_which_kind_it_is():
    assert Machine(torch.device("cpu")).name.startswith("cpu (")
