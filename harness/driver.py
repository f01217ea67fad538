"""What NVIDIA's driver says of this machine's GPUs, whether torch can use them or not."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

DRIVER_SECONDS = 20.0
PROC = Path("/proc/driver/nvidia")
CUDA_13_DRIVER = 580
"""The first driver that runs programs built for CUDA 13. Any that runs CUDA 12 runs those built for CUDA 12.6."""
MASK = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpu:
    """A GPU as reported by its driver."""

    name: str
    memory: str
    driver: str


def gpus_of_driver() -> list[Gpu]:
    """The GPUs that the driver reports, even if torch cannot use them; none without a driver."""
    if (program := shutil.which("nvidia-smi")) is None:
        return _gpus_of_kernel()
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=DRIVER_SECONDS)
    except subprocess.TimeoutExpired:  # a driver that hangs has no GPU to offer
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines() if done.returncode == 0]
    return [Gpu(*row) for row in rows if len(row) == 3]


def _gpus_of_kernel() -> list[Gpu]:
    """The same by the kernel's module, as in a container without the driver's programs."""
    version = PROC / "version"
    match = re.search(r"Kernel Module\D*?([\d.]+)", version.read_text()) if version.is_file() else None
    names = [re.search(r"Model:\s*(.*)", each.read_text()) for each in sorted(PROC.glob("gpus/*/information"))]
    return [Gpu(name[1] if name else "a GPU", "unknown memory", match[1] if match else "unknown") for name in names]


def are_hidden() -> bool:
    """Whether the user hides all GPUs from CUDA."""
    return os.environ.get(MASK, "0").strip() in ("", "-1")


def visible() -> list[str] | None:
    """The GPUs that the user allows, by number or UUID, in order; None: all."""
    mask = os.environ.get(MASK)
    return None if mask is None else [entry.strip() for entry in mask.split(",")]


def is_too_old(driver: str, cuda: str) -> bool:
    """Whether a driver, such as 570.86, cannot run what was built for a version of CUDA."""
    return _number(cuda) >= 13 and _number(driver) < CUDA_13_DRIVER


def _number(version: str) -> int:
    match = re.match(r"\d+", version)
    return int(match[0]) if match else 0


def install_torch(torch: str, driver: str, capability: tuple[int, int] | None = None) -> str:
    """The command that installs the same version of torch, built for this driver and GPU.

    Args:
        torch: Its version.
        driver: The driver's, such as 570.86.
        capability: Compute capability of the GPU, if known; builds for CUDA 13 leave out what is older than 7.5.
    """
    is_old = is_too_old(driver, "13.0") or (capability is not None and capability < (7, 5))
    build = "cu126" if is_old else "cu130"
    release = torch.partition("+")[0]
    return f'pip install "torch=={release}+{build}" --extra-index-url https://download.pytorch.org/whl/{build}'
