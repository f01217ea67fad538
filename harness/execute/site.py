"""Site: the folders, the device and the processes with which a study runs on this machine."""

import os
from dataclasses import dataclass
from pathlib import Path

from harness.data.root import NuScenesRoot
from harness.driver import MASK, visible
from harness.errors import InputError
from harness.execute.device import device_text, gpu_count, resolve_device
from harness.runs.folder import RunFolder


@dataclass(frozen=True)
class Site:
    """Folders, device and processes of a study's execution."""

    runs: Path
    root: NuScenesRoot
    device: str
    """cpu, cuda or mps."""
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

    @property
    def text(self) -> str:
        """Where trainings run and how many at once, for people."""
        return device_text(self.device, self.workers, self.loader_workers)

    def folder(self, job: str) -> RunFolder:
        """The run folder of a job id."""
        return RunFolder(self.runs / job)


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
        device: auto, cpu, cuda or mps, as `resolve_device`, whose errors it raises.
        workers: Trainings at once; if None, one a GPU, or one a core where there is none.
        loader_workers: Processes that load data for each of them. If None, some on GPUs, which outrun one process, and
            none on a CPU, where it is the training that takes the time.
        lockstep: Most students that train side by side in one process; 1: each has its own.
        gpus_per_job: GPUs on which one training runs. On several, each student has processes of its own.
    """
    device = resolve_device(device)
    gpus = gpu_count() if device == "cuda" else 0
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
    if device != "cuda" or not gpu_count():
        return {}
    allowed = visible() or [str(gpu) for gpu in range(gpu_count())]
    return {MASK: ",".join(allowed[(slot * count + number) % len(allowed)] for number in range(count))}
