"""The device that a job runs on, in its precision and with its threads."""

import platform
from typing import TYPE_CHECKING

import torch

from harness.diagnose.machine import Machine

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def open_device(device: str, precision: str, threads: int) -> "Fabric":
    """A Fabric on one device; sets the threads of this whole process.

    Args:
        device: auto, cpu, cuda or mps.
        precision: As Fabric calls it, such as 32-true.
        threads: Of operations on the processor.
    """
    # Importing it takes several seconds, which who plans a study need not wait.
    from lightning.fabric import Fabric

    torch.set_num_threads(threads)
    return Fabric(accelerator=device, devices=1, precision=precision)


def machine(fabric: "Fabric", threads: int) -> Machine:
    """Return the device for examining detectors."""
    return Machine(fabric.device, device_name(fabric), threads, fabric.autocast)


def device_name(fabric: "Fabric") -> str:
    """Return its name in results: cpu (x86_64), cuda (NVIDIA H200)."""
    kind = fabric.device.type
    return f"{kind} ({torch.cuda.get_device_name(fabric.device) if kind == 'cuda' else platform.machine()})"
