"""A process that imports what jobs need once, and is forked for each job, which then starts in a tenth of a second.

`ForkServer` is the caller's side, `python -m harness.jobs.fork_server` the server. The server trains nothing and never
touches CUDA, so that its children may. Requests and replies are lines of JSON on its standard input and output.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, Any

WARM = sys.platform != "darwin"
"""Whether jobs are forked. On macOS, frameworks do not survive a fork, so each job starts its own interpreter."""
PROGRAM = ["-m", "harness.jobs.fork_server"]
REAP_SECONDS = 0.05
_MEMORY_STAYS = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
"""For glibc: a step takes its maps from what the last one gave back, not from the system: 3 to 5 % of a LiDAR step."""
CLOSED = -1000
"""The exit status of a job whose server is gone: no signal's."""


@dataclass
class ForkedJob:
    """One job's process, as `subprocess.Popen` shows its own."""

    server: "ForkServer"
    key: int
    returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        self.server.collect()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status once it has ended; raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and timeout is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("job", timeout)
            time.sleep(0.05)
        return status

    def stop(self) -> None:
        """Ask it to save its state and end."""
        self.server.send({"stop": self.key})

    def drop(self, folder: Path) -> None:
        """Ask it to save the state of one of its folders and to go on with the others."""
        self.server.send({"drop": self.key, "folder": str(folder.resolve())})

    def kill(self) -> None:
        """End it at once."""
        self.server.send({"kill": self.key})


class ForkServer:
    """Starts jobs in processes that are warm already.

    Args:
        threads: Of operations on the processor; what is read when libraries are loaded.
    """

    def __init__(self, threads: int) -> None:
        self._settings = {"OMP_NUM_THREADS": str(threads)} | _MEMORY_STAYS
        self._process = subprocess.Popen(
            [sys.executable, *PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | self._settings,
            # Ctrl-C reaches this process alone; a closed pipe is how the server and its jobs are asked to stop.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._replies = self._process.stdout.fileno()
        os.set_blocking(self._replies, False)
        self._unread = b""
        self._jobs: dict[int, ForkedJob] = {}
        self._keys = count()
        # A search starts and asks after jobs in several threads.
        self._lock = threading.RLock()
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can start jobs."""
        return self._process.poll() is None

    def start(self, folders: Sequence[Path], log: Path, environment: dict[str, str]) -> ForkedJob:
        """Run the jobs of some folders in one process, with these variables beside this one's, its output in a log."""
        job = ForkedJob(self, next(self._keys))
        with self._lock:
            self._jobs[job.key] = job
        self.send(
            {
                "start": job.key,
                "folders": [str(folder.resolve()) for folder in folders],
                "log": str(log.resolve()),
                "environment": os.environ | self._settings | environment,
                "cwd": os.getcwd(),
            }
        )
        return job

    def close(self) -> None:
        """Ask all jobs to stop, and wait for them and the server."""
        with contextlib.suppress(BrokenPipeError):  # it is gone already
            self._requests.close()
        self._process.wait()

    def send(self, request: Mapping[str, object]) -> None:
        """Write one request; a server that is gone answers with `CLOSED` for all its jobs."""
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()

    def collect(self) -> None:
        """Take the exit statuses that have arrived."""
        with self._lock:
            gone = not self.alive  # asked first: what it wrote before it ended is still to be read
            with contextlib.suppress(BlockingIOError):
                while part := os.read(self._replies, 1 << 16):
                    self._unread += part
            *lines, self._unread = self._unread.split(b"\n")
            for line in lines:
                reply = json.loads(line)
                self._jobs.pop(reply["key"]).returncode = reply["status"]
            if gone:
                for job in self._jobs.values():
                    job.returncode = CLOSED
                self._jobs.clear()


@dataclass
class _Children:
    """The server's jobs: the process of each, and the pipe that it stops by."""

    replies: int
    """Where the server answers."""
    keys: dict[int, int] = field(default_factory=dict)
    """Of each process id."""
    pipes: dict[int, int] = field(default_factory=dict)
    """Of each key, the end to close."""

    def fork(self, request: Mapping[str, Any]) -> None:
        """Start a job. In the child this does not return."""
        key, log = request["start"], request["log"]
        ear, mouth = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(ear)
            os.close(mouth)
            raise
        if pid:
            os.close(ear)
            self.keys[pid], self.pipes[key] = key, mouth
            return
        try:
            # Nothing of the server's is left open, or a job would keep another's pipe from closing.
            for others in (mouth, self.replies, *self.pipes.values()):
                os.close(others)
            output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            for descriptor, target in ((ear, 0), (output, 1), (output, 2)):
                os.dup2(descriptor, target)
            for descriptor in (ear, output):
                os.close(descriptor)
            _become(request)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)  # whatever went wrong, this process is no second server

    def stop(self, key: int) -> None:
        """Ask one to stop."""
        if key in self.pipes:
            os.close(self.pipes.pop(key))

    def drop(self, key: int, folder: str) -> None:
        """Tell one that nobody wants one of its folders any more."""
        if key in self.pipes:
            with contextlib.suppress(BrokenPipeError):  # it has just ended
                os.write(self.pipes[key], os.fsencode(folder) + b"\n")

    def kill(self, key: int) -> None:
        """Kill one."""
        for pid, of in self.keys.items():
            if of == key:
                os.kill(pid, signal.SIGKILL)

    def reap(self) -> list[tuple[int, int]]:
        """The keys of what has ended, and how: exit statuses, or minus the signal."""
        ended = []
        for pid, key in list(self.keys.items()):
            waited, status = os.waitpid(pid, os.WNOHANG)
            if waited:
                del self.keys[pid]
                self.stop(key)
                ended.append((key, os.waitstatus_to_exitcode(status)))
        return ended


def _become(request: Mapping[str, Any]) -> None:
    """Be the job that is asked for, in its surroundings; this does not return."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    if not sys.flags.safe_path:
        sys.path[0] = request["cwd"]
    if not WARM:
        os.execv(sys.executable, [sys.executable, "-m", "harness.jobs.worker", *request["folders"]])
    from harness.jobs.worker import end

    end([Path(folder) for folder in request["folders"]])


def serve(requests: int, replies: int) -> None:
    """Fork jobs until the requests end, then ask all to stop and wait for them."""
    children, unread, open_ = _Children(replies), b"", True

    def answer(key: int, status: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody is left to be told
            os.write(replies, json.dumps({"key": key, "status": status}).encode() + b"\n")

    while open_ or children.keys:
        ready, _, _ = select.select([requests] if open_ else [], [], [], REAP_SECONDS if children.keys else None)
        if ready:
            part = os.read(requests, 1 << 16)
            open_ = bool(part)
            *lines, unread = (unread + part).split(b"\n")
            for request in map(json.loads, lines):
                if "start" in request:
                    try:
                        children.fork(request)
                    except OSError as error:  # of this moment: the next one may have the memory, or the descriptors
                        with Path(request["log"]).open("a") as log:
                            log.write(f"no process could be made: {error}\n")
                        answer(request["start"], 1)
                elif "stop" in request:
                    children.stop(request["stop"])
                elif "drop" in request:
                    children.drop(request["drop"], request["folder"])
                else:
                    children.kill(request["kill"])
        if not open_:
            for key in list(children.pipes):
                children.stop(key)
        for key, status in children.reap():
            answer(key, status)


def main() -> None:
    """Import what jobs need, and serve."""
    replies = os.dup(1)
    os.dup2(2, 1)  # whatever an import prints is no reply
    if WARM:
        from harness.jobs.worker import warm_up

        warm_up()
    serve(0, replies)


if __name__ == "__main__":
    main()
