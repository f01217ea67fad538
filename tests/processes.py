"""Killing a program as a power cut does: with all its processes, and without a word to any of them."""

import os
import signal
import subprocess
from pathlib import Path


def kill_tree(process: subprocess.Popen) -> None:
    """SIGKILL for a process and all below it; waits until it is gone."""
    for pid in _tree(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # it ended by itself meanwhile
            continue
    process.communicate()


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += _tree(int(child))
    return found
