"""A GPU computes as many samples at once as fit, and what tries that out leaves nothing behind."""

import pytest
import torch

from detectors.cost import example_batch
from detectors.presets import PRESETS
from distill.objective import Objective
from harness.diagnose.machine import Machine
from harness.errors import InputError
from harness.train.micro_batch import largest_that_fits, rehearse


@pytest.mark.parametrize(("room", "size"), [(64, 64), (63, 32), (9, 8), (1, 1)])
def test_a_batch_is_halved_until_it_fits(room, size):
    tried = []
    assert largest_that_fits(64, lambda number: tried.append(number) or number <= room) == size
    assert tried == [64 >> shift for shift in range(len(tried))]


def test_an_odd_batch_is_halved_upwards():
    assert largest_that_fits(7, lambda number: number < 4) == 2  # 7, 4, 2


def test_a_detector_of_which_no_sample_fits_is_wrong_input():
    with pytest.raises(InputError, match="one sample of this detector does not fit"):
        largest_that_fits(4, lambda number: False)


def test_a_rehearsal_leaves_nothing():
    spec = PRESETS["tiny_radar"]
    objective = Objective(spec.build(), None, {}).train()
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    rehearse(Machine(torch.device("cpu")), objective, example_batch(spec, 2))
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert all(module.training for module in objective.student.modules())
