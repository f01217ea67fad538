"""Site: the folders, the device and the processes with which a study runs on this machine."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.data.root import NuScenesRoot
from harness.errors import InputError, unknown
from harness.runs.folder import RunFolder


@dataclass(frozen=True)
class Site:
    """Folders, device and processes of a study's execution."""

    runs: Path
    root: NuScenesRoot
    device: str
    """auto, cpu, cuda or mps."""
    workers: int
    threads: int = 1
    """A training; one thread repeats to the bit, and two trainings side by side use two cores better than one does."""

    first_slot: int = 0
    """The first of the GPUs: where several walks share a machine, each begins with another one."""
    loader_workers: int = 0
    """Processes that load data for each training; none of them changes what is loaded."""
    gpus_per_job: int = 1
    """GPUs, or processes on a CPU, on which one training runs."""
    lockstep: int | None = None
    """Students that train side by side in one process, at most; None: as many as `Lockstep` finds sensible."""

    def folder(self, job: str) -> RunFolder:
        """The run folder of a job id."""
        return RunFolder(self.runs / job)


def check_device(device: str) -> None:
    """Raise InputError for a device that is unknown or that this machine does not have."""
    here = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device not in here:
        raise InputError(f"--device: {unknown('device', device, here)}")
    if not here[device]:
        raise InputError(
            f"--device {device}: this machine has no such device; allowed: {', '.join(d for d in here if here[d])}"
        )


def open_site(
    runs: Path,
    root: NuScenesRoot,
    device: str,
    workers: int | None = None,
    loader_workers: int | None = None,
    lockstep: int | None = None,
    gpus_per_job: int = 1,
) -> Site:
    """A site on this machine.

    Args:
        runs: Run folders.
        root: The dataset.
        device: auto, cpu, cuda or mps.
        workers: Trainings at once; if None, one a GPU, or one a core where there is none.
        loader_workers: Processes that load data for each of them. If None, some on GPUs, which outrun one process, and
            none on a CPU, where it is the training that takes the time.
        lockstep: Most students that train side by side in one process; 1: each has its own.
        gpus_per_job: GPUs on which one training runs. On several, each student has processes of its own.
    """
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if gpus_per_job > 1:
        lockstep = 1
        if device == "mps" or gpus_per_job > (gpus or gpus_per_job):
            raise InputError(f"--gpus-per-job {gpus_per_job}: this machine has {gpus or 1}; allowed: 1 to {gpus or 1}")
    if workers is None:
        workers = 1 if device == "mps" else max(1, (gpus or _cores()) // gpus_per_job)
    if loader_workers is None:
        loader_workers = min(8, max(1, _cores() // (workers * gpus_per_job))) if gpus else 0
    return Site(
        runs, root, device, workers, loader_workers=loader_workers, lockstep=lockstep, gpus_per_job=gpus_per_job
    )


def _cores() -> int:
    """Cores that this process may use, which a container or a batch system may have cut."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus_of(device: str, slot: int, count: int = 1) -> dict[str, str]:
    """The variable that leaves a worker some of the GPUs that this process may use; nothing where there is none."""
    if device in ("cpu", "mps") or not torch.cuda.device_count():
        return {}
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    allowed = mask.split(",") if mask else [str(gpu) for gpu in range(torch.cuda.device_count())]
    ours = [allowed[(slot * count + number) % len(allowed)] for number in range(count)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(ours)}
