"""A detector is looked at as it was trained: what would change its statistics is refused."""

from contextlib import nullcontext

import pytest
import torch

from detectors.presets import preset
from harness.diagnose.machine import Machine


def test_a_detector_in_training_mode_is_not_looked_at(make_batch):
    detector = preset("tiny_lidar").build().train()
    machine = Machine(torch.device("cpu"), "cpu", 1, nullcontext)
    with pytest.raises(RuntimeError, match="training mode"):
        machine.look(detector, make_batch())
