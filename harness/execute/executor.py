"""Runs the jobs of a plan in the order of its DAG, several at once; finished jobs are not run again."""

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal

import torch

from harness.data.root import NuScenesRoot
from harness.errors import InputError, unknown
from harness.jobs.fork_server import CLOSED, ForkedJob, ForkServer
from harness.jobs.kind import BUSY, STOPPED, UNEXAMINED, JobOrder
from harness.jobs.kinds import kind_of
from harness.runs.folder import Busy, RunFolder
from harness.study.jobs import Job
from harness.study.plan import Plan

Status = Literal["waiting", "running", "done", "failed"]

POLL_SECONDS = 0.25
# Where another study trains the very same job: when looked at again it is done, most likely.
RETRY_BUSY_SECONDS = 5.0
# A worker looks for the closed pipe after every step; this is long enough for a slow step and its checkpoint.
STOP_SECONDS = 120.0
TIMED_SECONDS = 5.0
"""A training is watched for so long before it is said how long it will take."""


@dataclass(frozen=True)
class Site:
    """Folders, device and processes of a study's execution."""

    runs: Path
    root: NuScenesRoot
    device: str
    """A Fabric accelerator: "auto", "cpu", "cuda", ..."""
    workers: int
    threads: int = 1
    """A training; one thread repeats to the bit, and two trainings side by side use two cores better than one does."""

    first_slot: int = 0
    """The first of the GPUs: where several walks share a machine, each begins with another one."""
    loader_workers: int = 0
    """Processes that load data for each training; none of them changes what is loaded."""

    def folder(self, job: str) -> RunFolder:
        """The run folder of a job id."""
        return RunFolder(self.runs / job)


@dataclass
class JobState:
    """A job as a display shows it."""

    job: Job
    status: Status
    reason: str = ""
    """Reason of the failure."""
    wrong_input: bool = False
    """Whether wrong input caused the failure."""
    step: int = 0
    loss: float | None = None
    seconds_left: float | None = None
    """Remaining seconds of its training, estimated from the latest steps."""


@dataclass
class _Worker:
    process: ForkedJob
    slot: int
    steps_before: int = 0
    first_seen: tuple[float, int] | None = None
    """When a step of this process was first seen, and its number."""


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
    runs: Path, root: NuScenesRoot, device: str, workers: int | None = None, loader_workers: int | None = None
) -> Site:
    """A site on this machine.

    Args:
        runs: Run folders.
        root: The dataset.
        device: auto, cpu, cuda or mps.
        workers: Trainings at once; if None, one a GPU, or one a core where there is none.
        loader_workers: Processes that load data for each of them. If None, some on GPUs, which outrun one process, and
            none on a CPU, where it is the training that takes the time.
    """
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if workers is None:
        workers = 1 if device == "mps" else gpus or _cores()
    if loader_workers is None:
        loader_workers = min(8, max(1, _cores() // workers)) if gpus else 0
    return Site(runs, root, device, workers, loader_workers=loader_workers)


def _cores() -> int:
    """Cores that this process may use, which a container or a batch system may have cut."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def execute(
    plan: Plan,
    site: Site,
    watch: Callable[[dict[str, JobState]], None],
    stopping: Callable[[], None] = lambda: None,
) -> dict[str, JobState]:
    """Run every job that has no result, teachers first.

    Args:
        plan: What to run.
        site: Where.
        watch: Called a few times a second with the state of all jobs.
        stopping: Called once by Ctrl-C, before the seconds in which the workers save their state.

    Returns:
        The final states. A failed job fails its dependents and nothing else.

    Raises:
        KeyboardInterrupt: After the workers have saved their state and ended.
    """
    states = {
        id_: JobState(job, "waiting" if site.folder(id_).result() is None else "done") for id_, job in plan.jobs.items()
    }
    workers: dict[str, _Worker] = {}
    not_before: dict[str, float] = {}
    orphaned: set[str] = set()
    try:
        while any(state.status in ("waiting", "running") for state in states.values()):
            for id_, state in states.items():
                if state.status == "waiting" and len(workers) < site.workers:
                    needs = [states[needed] for needed in state.job.spec.needs]
                    failed = next((needed for needed in needs if needed.status == "failed"), None)
                    if failed is not None:
                        state.status, state.wrong_input = "failed", failed.wrong_input
                        state.reason = f"a job that it needs failed ({failed.job.label})"
                    elif all(n.status == "done" for n in needs) and time.monotonic() > not_before.get(id_, 0):
                        if site.folder(id_).result() is not None:
                            # Another study has trained it meanwhile.
                            state.status = "done"
                            continue
                        free = set(range(site.workers)) - {worker.slot for worker in workers.values()}
                        try:
                            workers[id_] = _start(plan, state.job, site, min(free))
                            state.status = "running"
                        except Busy:
                            not_before[id_] = time.monotonic() + RETRY_BUSY_SECONDS
            time.sleep(POLL_SECONDS)
            for id_ in list(workers):
                code = workers[id_].process.poll()
                if code is None:
                    _follow(states[id_], workers[id_], site)
                    continue
                _end(workers.pop(id_))
                # Without its server a job was stopped, with its state saved: it goes on, but is not started for ever.
                if code == BUSY or (code == CLOSED and id_ not in orphaned):
                    states[id_].status, not_before[id_] = "waiting", time.monotonic() + RETRY_BUSY_SECONDS
                    orphaned |= {id_} if code == CLOSED else set()
                else:
                    _settle(states[id_], code, site)
            watch(states)
    except KeyboardInterrupt:
        stopping()
        raise
    finally:
        for worker in workers.values():
            worker.process.stop()
        for worker in workers.values():
            _end(worker)
    return states


def order_for(job: Job, plan: Plan, site: Site) -> JobOrder:
    """What its worker is told."""
    source = job.source.resolve() if job.source else None
    return JobOrder(
        spec=job.spec,
        label=job.label,
        root=site.root.path.resolve(),
        version=site.root.version,
        device=site.device,
        threads=site.threads,
        loader_workers=site.loader_workers,
        **kind_of(job.spec).order(job.spec, source, plan, site.folder),
    )


def _start(plan: Plan, job: Job, site: Site, slot: int) -> _Worker:
    folder, order = site.folder(job.id), order_for(job, plan, site)
    with folder.locked():
        folder.begin(order.model_dump(mode="json"))
    newest = folder.last_step()
    process = _fork_server(site.threads).start(folder.path, folder.log, _one_gpu(site.device, site.first_slot + slot))
    return _Worker(process, slot, steps_before=int(newest["step"]) + 1 if newest else 0)


_servers: dict[int, ForkServer] = {}
"""By the number of threads. A search walks over hundreds of plans, in several threads: all share one server."""
_servers_lock = Lock()


def _fork_server(threads: int) -> ForkServer:
    """The server that is there, or a new one."""
    with _servers_lock:
        if threads not in _servers or not _servers[threads].alive:
            _servers[threads] = ForkServer(threads)
        return _servers[threads]


def _one_gpu(device: str, slot: int) -> dict[str, str]:
    """The variable that leaves a worker one of the GPUs that this process may use; nothing where there is none."""
    if device in ("cpu", "mps") or not torch.cuda.device_count():
        return {}
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    allowed = mask.split(",") if mask else [str(gpu) for gpu in range(torch.cuda.device_count())]
    return {"CUDA_VISIBLE_DEVICES": allowed[slot % len(allowed)]}


def _end(worker: _Worker) -> None:
    """Ask a worker to stop and wait for it; kill it if it does not answer. Its last checkpoint stays."""
    worker.process.stop()
    try:
        worker.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        worker.process.kill()
        worker.process.wait()


def _follow(state: JobState, worker: _Worker, site: Site) -> None:
    newest = site.folder(state.job.id).last_step()
    if newest is None or not state.job.spec.steps:
        return
    state.step, state.loss = int(newest["step"]) + 1, newest["loss"]
    if state.step <= worker.steps_before:
        return
    now = time.monotonic()
    worker.first_seen = worker.first_seen or (now, state.step)
    seconds, steps = now - worker.first_seen[0], state.step - worker.first_seen[1]
    # Before that nothing is known: starting takes long, and so do first steps.
    if seconds >= TIMED_SECONDS and steps:
        state.seconds_left = seconds / steps * (state.job.spec.steps - state.step)


def _settle(state: JobState, code: int, site: Site) -> None:
    folder = site.folder(state.job.id)
    if folder.result() is not None:
        state.status = "done"
        if code == UNEXAMINED:
            state.reason = f"its diagnostics failed, see {folder.log}; harness.report --examine tries again"
        return
    failure = folder.failure()
    how = {STOPPED: "was stopped", CLOSED: "lost the process that starts jobs"}.get(
        code, f"ended with exit status {code}"
    )
    state.status = "failed"
    state.reason, state.wrong_input = failure or (f"the worker {how}; see {folder.log}", False)
