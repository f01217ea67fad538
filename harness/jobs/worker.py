"""The process of one or several jobs, from orders to results: `python -m harness.jobs.worker FOLDER...`."""

import os
import resource
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import torch

from detectors.presets import PRESETS
from harness.diagnose.machine import Machine, open_machine
from harness.diagnose.ranks import ALONE, Ranks
from harness.errors import InputError
from harness.jobs.companions import Companions, begin
from harness.jobs.kind import BUSY, DONE, FAILED, STOPPED, UNEXAMINED, JobOrder
from harness.jobs.kinds import kind_of
from harness.program import settle
from harness.runs.folder import Busy, Result, RunFolder
from harness.train.trainer import Interrupted

PARTS = ("detectors", "distill", "harness")
"""The packages whose code decides a result."""


def run(order: JobOrder, folder: RunFolder, stop: Callable[[], bool], ranks: Ranks = ALONE) -> Result:
    """Train and score, or resume an earlier attempt; write the result, then the diagnostics."""
    commit = _commit()
    machine = _open(order, ranks)
    outcome = kind_of(order.spec).run(order, order.spec, machine, folder, stop)
    steps = folder.steps()
    result = Result(
        metrics=outcome.metrics,
        parameters=outcome.parameters,
        seconds=sum(line["seconds"] for line in steps) + outcome.scored.seconds,
        machine=machine.facts() | _memory(machine, order) | outcome.trained | {"commit": commit},
        cpu_seconds=sum(line["cpu_seconds"] for line in steps) + outcome.scored.cpu_seconds,
        warnings=outcome.warnings,
        began=outcome.began,
        weights=outcome.weights,
    )
    # First the result: nothing that is found out beside it can cost a training, or add to what it took.
    folder.complete(result)
    outcome.diagnose()
    return result


def _open(order: JobOrder, ranks: Ranks) -> Machine:
    """The machine of a job."""
    return open_machine(order.device, order.spec.precision, order.threads, ranks, order.deterministic)


def _memory(machine: Machine, order: JobOrder) -> dict[str, str]:
    """Peak memory in MiB: of the GPU where there is one, and of the host, what loads data included."""
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    # The children's is that of the largest: each has as much, of which some is shared with this process.
    ours, largest = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    host = str(round((ours + order.loader_workers * largest) * unit / 2**20))
    if machine.device.type != "cuda":
        return {"peak_memory_mb": host}
    peak = torch.cuda.max_memory_allocated(machine.device)
    return {"peak_memory_mb": str(round(peak / 2**20)), "host_memory_mb": host}


@cache
def _commit() -> str:
    """The commit of the code that ran, with a + where files differ from it; the version where it is no checkout."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return f"version {version('crossbev')}"
    try:
        head, changes = (
            subprocess.run(["git", "-C", str(here), *command], capture_output=True, text=True, check=True).stdout
            for command in (
                ["rev-parse", "--short=12", "HEAD"],
                ["status", "--porcelain", "--", *(f"{part}/*.py" for part in PARTS)],
            )
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({error})"
    return head.strip() + ("+" if changes.strip() else "")


def main(paths: Sequence[Path]) -> int:
    """Run the jobs of some folders. When standard input is closed, the parent is gone: save the state and stop.

    A line of standard input names one of the folders, whose job nobody wants any more.
    """
    ranks, companions = ALONE, None
    if len(paths) == 1 and (count := _processes(RunFolder(paths[0]))) > 1:
        folder = RunFolder(paths[0])
        device = str(folder.job()["device"])
        ranks, companions = begin(count, device, lambda ranks: _train_along(folder, ranks), folder.fail)
    gone = threading.Event()
    dropped: set[str] = set()

    def listen_to_parent() -> None:
        unread = b""
        # Not sys.stdin: a thread that holds its lock would abort the interpreter's shutdown.
        while part := os.read(0, 4096):
            *lines, unread = (unread + part).split(b"\n")
            dropped.update(map(os.fsdecode, lines))
        gone.set()

    threading.Thread(target=listen_to_parent, daemon=True).start()
    return work(paths, gone.is_set, lambda folder: str(folder.path) in dropped, ranks, companions)


def _processes(folder: RunFolder) -> int:
    """Processes of a folder's job; one where nothing is left to train."""
    return 1 if folder.result() is not None else JobOrder.model_validate(folder.job()).gpus


def _train_along(folder: RunFolder, ranks: Ranks) -> int:
    """Be a further process of a job; the exit status."""
    order = JobOrder.model_validate(folder.job())
    try:
        # The first process says when to stop.
        kind_of(order.spec).train_along(order, order.spec, _open(order, ranks), folder, lambda: False)
    except Interrupted:
        return STOPPED
    return DONE


def work(
    paths: Sequence[Path],
    stop: Callable[[], bool],
    dropped: Callable[[RunFolder], bool] = lambda folder: False,
    ranks: Ranks = ALONE,
    companions: Companions | None = None,
) -> int:
    """Run the jobs of some folders, all of one `Kind.lockstep_key` if there are several.

    The students of several train side by side, then each is scored by itself. What is printed for one of them goes to
    the log in its folder. A folder that another process owns is left out.

    Args:
        paths: The folders.
        stop: Whether to save the states and stop.
        dropped: Whether to do that with one of them, and to go on with the others.
        ranks: What this process is among those of the only folder's job.
        companions: The others.

    Returns:
        DONE if that is true of all; else the exit status of the first of which it is not.
    """
    with ExitStack() as held:
        folders, busy = [], DONE
        for folder in map(RunFolder, paths):
            try:
                held.enter_context(folder.locked())
                folders.append(folder)
            except Busy as error:
                print(error)
                busy = BUSY
        if len(folders) == 1:
            return _attempt(folders[0], lambda: stop() or dropped(folders[0]), ranks, companions) or busy
        together = _train_together(folders, stop, dropped)
        statuses = [together]
        for folder in folders if together == DONE else ():
            if not dropped(folder):
                statuses.append(_attempt_with_log(folder, stop))
        statuses.append(busy)
    return next((status for status in statuses if status != DONE), DONE)


def _train_together(
    folders: Sequence[RunFolder], stop: Callable[[], bool], dropped: Callable[[RunFolder], bool]
) -> int:
    """Train the students of folders without a result side by side."""
    jobs = [
        (order, order.spec, folder)
        for folder in folders
        if folder.result() is None
        for order in [JobOrder.model_validate(folder.job())]
    ]
    if len(jobs) < 2:
        return DONE
    names = ", ".join(folder.path.name for folder in folders)
    for _, _, folder in jobs[1:]:
        with folder.log.open("a") as log:
            log.write(f"trains side by side with {names}; what they print together is in {jobs[0][2].log}\n")
    order = jobs[0][0]
    try:
        machine = _open(order, ALONE)
        kind_of(order.spec).train_together(jobs, machine, stop, dropped)
    except Interrupted as pause:
        print(pause)
        return STOPPED
    except Exception:
        # Each is tried by itself, which says whose failure it was; together they are not tried again.
        traceback.print_exc()
    return DONE


def _attempt_with_log(folder: RunFolder, stop: Callable[[], bool]) -> int:
    """Run the job of a folder, what it prints appended to the log of the folder."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(folder.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for output in (1, 2):
        os.dup2(log, output)
    os.close(log)
    return _attempt(folder, stop)


def _attempt(
    folder: RunFolder, stop: Callable[[], bool], ranks: Ranks = ALONE, companions: Companions | None = None
) -> int:
    """Run the job of a folder that this process owns, and record the outcome."""
    try:
        if folder.result() is None:
            run(JobOrder.model_validate(folder.job()), folder, stop, ranks)
    except Interrupted as pause:
        print(pause)
        return STOPPED
    except InputError as error:
        folder.fail(str(error), wrong_input=True)
        return FAILED
    except Exception as error:
        # The boundary of the process: whatever ended the job is recorded for the table and re-told in the log.
        traceback.print_exc()
        if folder.result() is not None:
            return UNEXAMINED
        # That a partner is gone is a consequence.
        reason = companions.reason() if companions is not None else None
        folder.fail(*(reason or (f"{type(error).__name__}: {error}", False)))
        return FAILED
    return DONE


def warm_up() -> None:
    """Import the modules that a job imports late."""
    for module in ("harness.diagnose.examine", "harness.evaluate.detection", "harness.evaluate.submission"):
        import_module(module)
    # Nothing is computed on the meta device, so that no thread of torch's is there when jobs are forked.
    with torch.device("meta"):
        for spec in PRESETS.values():
            spec.build()
    # Of the code that is loaded now: files may change while a search goes on.
    _commit()


def end(paths: Sequence[Path]) -> NoReturn:
    """Run the jobs of some folders and end the process."""
    settle()
    status = main(paths)
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is written; to take torch and the others apart would cost every job seconds.
    os._exit(status)


if __name__ == "__main__":
    end([Path(argument) for argument in sys.argv[1:]])
