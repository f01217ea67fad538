"""The device of a study: what is there is used and told, and what is there but cannot be used is refused."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from detectors.encoders import sparse_library
from detectors.encoders.sparse_library import SparsePackages
from harness import driver, run
from harness.driver import Gpu, gpus_of_driver, install_torch
from harness.errors import InputError
from harness.execute import device
from harness.execute.device import device_text, resolve_device
from harness.execute.site import gpus_of

SMOKE = Path(__file__).parents[3] / "studies" / "smoke.yaml"
H100 = Gpu("NVIDIA H100", "81559 MiB", "570.86")


@pytest.fixture
def machine(monkeypatch):
    """A machine as its driver and torch describe it."""

    def make(driver=(), seen=0, cuda="13.0", mask=None, capability=(9, 0), packages=None, mps=False):
        monkeypatch.setattr(device, "gpus_of_driver", lambda: list(driver))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: seen > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "NVIDIA H100")
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        for module in (device, sparse_library):
            monkeypatch.setattr(module, "installed_packages", lambda: packages or SparsePackages())
        sparse_library.chosen_package.cache_clear()
        if mask is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)

    yield make
    sparse_library.chosen_package.cache_clear()


@pytest.mark.parametrize(
    ("given", "auto"),
    [
        ({}, "cpu"),
        ({"mps": True}, "mps"),
        ({"driver": [H100], "seen": 1}, "cuda"),
        ({"driver": [H100] * 3, "seen": 2, "mask": "0,2"}, "cuda"),
        # Of several MIG instances torch sees one at a time, and each worker gets one.
        ({"driver": [H100], "seen": 1, "mask": "MIG-1,MIG-2"}, "cuda"),
        ({"driver": [H100], "mask": ""}, "cpu"),
        ({"driver": [H100], "mask": "-1"}, "cpu"),
    ],
)
def test_auto_is_the_fastest_device_that_may_be_used(machine, given, auto):
    machine(**given)
    assert resolve_device("auto") == auto
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"driver": [H100] * 2},
            r"the driver 570.86 reports 2 GPUs \(NVIDIA H100\), but torch sees none: CUDA 13.0 needs a newer",
        ),
        ({"driver": [H100], "cuda": "12.6"}, "torch sees none: perhaps this container was started without them"),
        ({"driver": [replace(H100, driver="580.65")]}, "perhaps this container was started without them"),
        ({"driver": [H100], "cuda": None}, "this build of torch is for CPUs; pip install"),
        ({"driver": [H100], "mask": "7"}, "torch sees none of CUDA_VISIBLE_DEVICES=7; unset"),
        (
            {"driver": [H100] * 2, "seen": 1, "mask": "0,-1,1"},
            "CUDA ignores what follows -1; allowed: 0,1, or -1 alone",
        ),
        ({"driver": [H100] * 2, "mask": "-1,0"}, "CUDA ignores what follows -1"),
        ({"driver": [H100] * 2, "seen": 1, "mask": "0,7"}, "names 2 GPUs, but only 1 can be used"),
        (
            {"seen": 1, "packages": SparsePackages(("spconv", "spconv-cu126"), cpu_only=True)},
            "build for CPUs, of the extra cpu, was installed over spconv-cu126.*pip uninstall -y spconv spconv-cu126",
        ),
    ],
)
def test_gpu_that_cannot_be_used_as_it_could_is_refused_unless_the_cpu_is_asked(machine, given, words):
    machine(**given)
    for asked in ("auto", "cuda"):
        with pytest.raises(InputError, match=words) as refused:
            resolve_device(asked)
        assert "--device cpu computes on the processor" in str(refused.value)
    assert resolve_device("cpu") == "cpu"


def test_device_that_is_not_there_or_unknown_is_refused(machine):
    machine()
    for asked in ("cuda", "mps"):
        with pytest.raises(InputError, match="this machine has no such device; allowed: auto, cpu"):
            resolve_device(asked)
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        resolve_device("gpu")


def test_study_on_a_machine_with_an_unused_gpu_ends_before_it_trains(machine, tmp_path, monkeypatch):
    machine(driver=[H100])
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(run.app, [str(SMOKE), "--dry-run"])
    assert done.exit_code == 2
    assert "torch sees none" in done.output
    assert list(tmp_path.iterdir()) == []


def test_devices_and_library_are_told(machine, monkeypatch):
    machine(driver=[H100] * 2, seen=2, packages=SparsePackages(("spconv-cu126",)))
    monkeypatch.setattr(sparse_library, "version", lambda name: "2.3.8")
    assert device_text("cuda", 2, 1) == (
        "device: 2 GPUs (NVIDIA H100), 2 trainings at once, 1 process loading for each; "
        "sparse convolution: spconv-cu126 2.3.8"
    )
    # spconv's kernels end before this card's generation.
    machine(seen=1, capability=(12, 0), packages=SparsePackages(("spconv-cu126",)))
    assert device_text("cuda", 1, 8).endswith("; sparse convolution: plain torch")
    machine()
    assert device_text("cpu", 2, 0) == "device: cpu, 2 trainings at once"
    machine(driver=[H100], mask="-1")
    assert device_text("cpu", 1, 0) == "device: cpu, 1 training at once; CUDA_VISIBLE_DEVICES hides the GPUs"


def test_worker_gets_one_of_the_gpus_that_the_user_allowed(machine):
    machine(seen=2, mask="5,7")
    assert [gpus_of("cuda", slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["5", "7", "5"]
    machine(seen=2)
    assert [gpus_of("cuda", slot)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["0", "1"]
    assert gpus_of("cpu", 0) == {}
    machine()
    assert gpus_of("cuda", 0) == {}


@pytest.mark.parametrize(
    ("driver_version", "capability", "build"),
    [("580.65", None, "cu130"), ("570.86", None, "cu126"), ("595.1", (7, 0), "cu126"), ("595.1", (12, 0), "cu130")],
)
def test_command_installs_the_build_for_the_driver_and_the_card(driver_version, capability, build):
    command = install_torch("2.13.0+cpu", driver_version, capability)
    assert command == (
        f'pip install "torch==2.13.0+{build}" --extra-index-url https://download.pytorch.org/whl/{build}'
    )


def test_gpus_are_those_of_the_driver_or_else_of_the_kernel(monkeypatch, tmp_path):
    monkeypatch.setattr(driver, "PROC", tmp_path)
    monkeypatch.setattr(driver.shutil, "which", lambda program: None)
    assert gpus_of_driver() == []
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "gpus" / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA L4\nIRQ: 3\n")
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar 5\n")
    assert gpus_of_driver() == [Gpu("NVIDIA L4", "unknown memory", "550.54.15")]
    monkeypatch.setattr(driver.shutil, "which", lambda program: program)
    answer = SimpleNamespace(returncode=0, stdout="NVIDIA H100, 81559 MiB, 570.86\n")
    monkeypatch.setattr(driver.subprocess, "run", lambda *_, **__: answer)
    assert gpus_of_driver() == [H100]
