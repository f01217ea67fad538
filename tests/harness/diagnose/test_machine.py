"""A machine computes in the precision and with the threads that it was opened with."""

import pytest
import torch

from detectors.encoders import sparse_library
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


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
def test_machine_is_opened_on_the_device_with_its_threads(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    threads = torch.get_num_threads()
    machine = open_machine(device, "32-true", 1)
    assert machine.device.type == device
    assert torch.get_num_threads() == machine.threads == 1
    torch.set_num_threads(threads)


def test_facts_of_a_gpu_tell_its_library_tf32_and_determinism(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(sparse_library, "chosen_package", lambda: "spconv-cu126")
    monkeypatch.setattr(sparse_library, "version", lambda name: "2.3.8")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    facts = Machine(torch.device("cuda", 0), "bf16-mixed").facts()
    assert facts == {
        "device": "cuda (NVIDIA H200)",
        "torch": torch.__version__,
        "threads": "1",
        "sparse": "spconv-cu126 2.3.8",
        "tf32": "sparse",
        "deterministic": "none",
        "cudnn_benchmark": "off",
    }
    assert Machine(torch.device("cuda", 0), "32-true").facts()["tf32"] == "none"
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    facts = Machine(torch.device("cuda", 0), "32-true").facts()
    assert (facts["tf32"], facts["deterministic"]) == ("convolutions, sparse", "cuDNN")


def test_facts_of_a_processor_are_few():
    assert Machine(torch.device("cpu")).facts().keys() == {"device", "torch", "threads", "sparse"}
    assert Machine(torch.device("cpu")).facts()["sparse"] == "plain torch"


def test_name_of_a_processor_says_which_kind_it_is():
    assert Machine(torch.device("cpu")).name.startswith("cpu (")
