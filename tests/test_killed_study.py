"""A study whose whole process tree is killed, at any moment, ends with the same table when it is called again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import kill_tree

ROOT = Path(__file__).parent.parent
STUDY = ROOT / "studies" / "smoke.yaml"
STEPS = 12
FLAGS = ["--set", f"schedule.steps={STEPS}", "--workers", "2", "--device", "cpu"]
"""On a CPU a training repeats to the bit."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds a process's children in /proc"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A user cache, so that the world is made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def start(world):
    """Start the study in a folder."""

    def start(folder):
        folder.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "harness.run", str(STUDY), *FLAGS],
            cwd=folder,
            env=os.environ | {"XDG_CACHE_HOME": str(world), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture(scope="module")
def expected(start, tmp_path_factory):
    """The table of a study that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    process = start(folder)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return (folder / "reports" / "smoke" / "table.csv").read_bytes()


def _steps(folder):
    return {path.parent.name: path.read_text().count("\n") for path in folder.glob("runs/*/metrics.jsonl")}


def _results(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")}


MOMENTS = {
    "in the first training": lambda folder: any(0 < steps < STEPS for steps in _steps(folder).values()),
    "in the student's training": lambda folder: len(_results(folder)) == 2 and len(_steps(folder)) == 3,
    "while a detector is scored": lambda folder: any(
        steps == STEPS and job not in _results(folder) for job, steps in _steps(folder).items()
    ),
    "before the table": lambda folder: len(_results(folder)) == 3,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_same_table_and_nothing_trained_twice(start, expected, tmp_path, moment):
    folder = tmp_path / "study"
    process = start(folder)
    while not MOMENTS[moment](folder):
        assert process.poll() is None, "it ended before the moment came"
        time.sleep(0.005)
    kill_tree(process)
    assert process.returncode == -signal.SIGKILL
    finished = _results(folder)
    assert not (folder / "reports" / "smoke" / "table.csv").exists(), "the moment was over when it was killed"

    again = start(folder)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert (folder / "reports" / "smoke" / "table.csv").read_bytes() == expected
    for job, stamp in finished.items():
        assert _results(folder)[job] == stamp
        assert f"[{job}] running" not in said
    for path in folder.glob("runs/*/metrics.jsonl"):
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == list(range(STEPS))
