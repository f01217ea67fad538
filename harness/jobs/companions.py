"""Companions: the further processes of a job that trains on several GPUs, and how all of them end together."""

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from harness.diagnose.ranks import Ranks
from harness.errors import InputError
from harness.jobs.kind import DONE, FAILED, STOPPED

LONGEST_WAIT = timedelta(hours=1)
"""For another process, such as one that still reads its first samples. One that has ended is found out at once."""
POLL_SECONDS = 0.1
REASON_SECONDS = 3.0
"""For a process whose partner is gone to learn why, before it tells the consequence for the cause."""


@dataclass
class Companions:
    """The processes beside the first one of a job."""

    meeting: Path
    """A folder in which they find one another, and say why they failed."""
    pids: dict[int, int] = field(default_factory=dict)
    """The numbers of those that still run, by process id."""
    lost: tuple[str, bool] | None = None
    """Why the job cannot go on without one of them, and whether the user's input is wrong."""

    def watch(self, failed: Callable[[str, bool], None]) -> None:
        """Wait for all of them in a thread; if one fails, say so, end the others and this process."""
        threading.Thread(target=self._wait, args=(failed,), daemon=True).start()

    def reason(self) -> tuple[str, bool] | None:
        """Why one of them failed, where one did, just now."""
        deadline = time.monotonic() + REASON_SECONDS
        while self.lost is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return self.lost

    def _wait(self, failed: Callable[[str, bool], None]) -> None:
        while self.pids:
            for pid in list(self.pids):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if not ended:
                    continue
                number, code = self.pids.pop(pid), os.waitstatus_to_exitcode(status)
                if code in (DONE, STOPPED):
                    continue
                self.lost = self._reason_of(number) or (f"process {number + 1} of the job {_how(code)}", False)
                self.kill()
                failed(*self.lost)
                sys.stdout.flush()
                # The first process may wait for the lost one in a library that nothing else interrupts.
                os._exit(FAILED)
            time.sleep(POLL_SECONDS)
        shutil.rmtree(self.meeting, ignore_errors=True)

    def _reason_of(self, number: int) -> tuple[str, bool] | None:
        file = _reason_file(self.meeting, number)
        return tuple(json.loads(file.read_text())) if file.is_file() else None

    def kill(self) -> None:
        """End all that still run."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)


def begin(
    count: int, device: str, be_companion: Callable[[Ranks], int], failed: Callable[[str, bool], None]
) -> tuple[Ranks, Companions]:
    """Fork the companions of this process, which is the first of so many, and meet them.

    No thread may run yet, and nothing may have touched a GPU. Companions end when this process does, however it ends.

    Args:
        count: Processes, this one among them.
        device: On which they compute.
        be_companion: What a companion does; it returns an exit status, or raises what its job failed of.
        failed: Called with the reason if one of them fails, and whether the user's input is wrong; all end then.

    Returns:
        What this process is among them, and the others.
    """
    if sys.platform == "darwin":
        raise InputError("--gpus-per-job: several processes of a job are for Linux; allowed here: 1")
    companions = Companions(Path(tempfile.mkdtemp(prefix="crossbev-job-")))
    # Nobody writes to it: it is closed by the end of this process.
    ear, mouth = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    for number in range(1, count):
        pid = os.fork()
        if not pid:
            os.close(mouth)
            _be(Ranks(number, count), device, companions.meeting, ear, be_companion)
        companions.pids[pid] = number
    os.close(ear)
    companions.watch(failed)
    ranks = Ranks(0, count)
    _meet(ranks, device, companions.meeting)
    return ranks, companions


def _be(ranks: Ranks, device: str, meeting: Path, ear: int, be_companion: Callable[[Ranks], int]) -> None:
    """Be a companion; this does not return."""

    def end_with_the_first() -> None:
        os.read(ear, 1)
        os._exit(FAILED)

    threading.Thread(target=end_with_the_first, daemon=True).start()
    status = FAILED
    try:
        _meet(ranks, device, meeting)
        status = be_companion(ranks)
    except BaseException as error:
        # The boundary of the process, as in the worker: the first one is told, and tells.
        wrong_input = isinstance(error, InputError)
        reason: list[Any] = [str(error) if wrong_input else f"{type(error).__name__}: {error}", wrong_input]
        file = _reason_file(meeting, ranks.number)
        file.with_suffix(".new").write_text(json.dumps(reason))
        file.with_suffix(".new").replace(file)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _meet(ranks: Ranks, device: str, meeting: Path) -> None:
    # All on one machine.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    kind = "gloo" if device == "cpu" or not torch.cuda.is_available() else "cpu:gloo,cuda:nccl"
    store = dist.FileStore(str(meeting / "store"), ranks.count)
    dist.init_process_group(kind, store=store, rank=ranks.number, world_size=ranks.count, timeout=LONGEST_WAIT)


def _reason_file(meeting: Path, number: int) -> Path:
    return meeting / f"failed-{number}.json"


def _how(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
