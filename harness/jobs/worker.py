"""The process of one job, from its order to its result: `python -m harness.jobs.worker RUN_FOLDER`."""

import os
import resource
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import torch
from lightning.fabric import Fabric

from detectors.presets import PRESETS
from harness.errors import InputError
from harness.jobs.kind import BUSY, DONE, FAILED, STOPPED, UNEXAMINED, JobOrder
from harness.jobs.kinds import kind_of
from harness.program import settle
from harness.runs.folder import Busy, Result, RunFolder
from harness.train.device import device_name, open_device
from harness.train.trainer import Interrupted


def run(order: JobOrder, folder: RunFolder, stop: Callable[[], bool]) -> Result:
    """Train and score, or resume an earlier attempt; write the result, then the diagnostics."""
    commit = _commit()
    fabric = open_device(order.device, order.spec.precision, order.threads)
    outcome = kind_of(order.spec).run(order, order.spec, fabric, folder, stop)
    steps = folder.steps()
    result = Result(
        metrics=outcome.metrics,
        parameters=outcome.parameters,
        seconds=sum(line["seconds"] for line in steps) + outcome.scored.seconds,
        machine=_machine(fabric, order) | {"commit": commit},
        cpu_seconds=sum(line["cpu_seconds"] for line in steps) + outcome.scored.cpu_seconds,
        warnings=outcome.warnings,
        began=outcome.began,
    )
    # First the result: nothing that is found out beside it can cost a training, or add to what it took.
    folder.complete(result)
    outcome.diagnose()
    return result


def _machine(fabric: Fabric, order: JobOrder) -> dict[str, str]:
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "device": device_name(fabric),
        "torch": torch.__version__,
        "threads": str(order.threads),
        "peak_memory_mb": str(round(peak / 2**20)),
    }


@cache
def _commit() -> str:
    """The commit of the code that ran, with a + where files differ from it; the version where it is no checkout."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return f"version {version('crossbev')}"
    try:
        head, changes = (
            subprocess.run(["git", "-C", str(here), *command], capture_output=True, text=True, check=True).stdout
            for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--", "*.py"])
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({error})"
    return head.strip() + ("+" if changes.strip() else "")


def main(path: Path) -> int:
    """Run the job of a folder. When standard input is closed, the parent is gone: save the state and stop."""
    folder = RunFolder(path)
    gone = threading.Event()

    def wait_for_parent() -> None:
        # Not sys.stdin: a thread that holds its lock would abort the interpreter's shutdown.
        while os.read(0, 1):
            pass
        gone.set()

    threading.Thread(target=wait_for_parent, daemon=True).start()
    try:
        with folder.locked():
            return _attempt(folder, gone.is_set)
    except Busy as busy:
        print(busy)
        return BUSY


def _attempt(folder: RunFolder, stop: Callable[[], bool]) -> int:
    """Run the job of a folder that this process owns, and record the outcome."""
    try:
        if folder.result() is None:
            run(JobOrder.model_validate(folder.job()), folder, stop)
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
        folder.fail(f"{type(error).__name__}: {error}", wrong_input=False)
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


def end(path: Path) -> NoReturn:
    """Run the job of a folder and end the process."""
    settle()
    status = main(path)
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is written; to take torch and the others apart would cost every job seconds.
    os._exit(status)


if __name__ == "__main__":
    end(Path(sys.argv[1]))
