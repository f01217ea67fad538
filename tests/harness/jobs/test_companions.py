"""Several processes train as one does with the same batch, and end together."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.testing import assert_close

from harness.jobs.kind import DONE, FAILED, STOPPED
from harness.runs.folder import RunFolder
from tests.harness.jobs import steps_of_ranks

SINGLE = {"OMP_NUM_THREADS": "1"}


def _after_steps(case, processes, parts, file):
    program = [sys.executable, "-m", "tests.harness.jobs.steps_of_ranks", case, str(processes), str(parts), str(file)]
    subprocess.run(program, check=True, env=os.environ | SINGLE, timeout=500)
    return torch.load(file, weights_only=True)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    """``at_once(case)``: what one process comes to that computes batches as a whole."""
    by_case = {}

    def get(case):
        if case not in by_case:
            by_case[case] = _after_steps(case, 1, 1, tmp_path_factory.mktemp("steps") / "at_once.pt")
        return by_case[case]

    return get


CUTS = [(1, 2), (1, 4), (2, 1), (2, 2)]
"""Processes, and parts of each one's share."""


@pytest.mark.parametrize(
    ("case", "cut"),
    [("radar", (1, 4)), ("radar", (2, 2))]
    + [pytest.param("camera", cut, marks=pytest.mark.slow) for cut in CUTS]
    + [pytest.param("pulled", cut, marks=pytest.mark.slow) for cut in ((1, 2), (2, 2))],
)
def test_parts_and_processes_train_as_one_does(case, cut, at_once, tmp_path):
    # Weights that set themselves are quotients of norms in single precision, of hundreds of thousands of numbers.
    precision = 1e-3 if case == "pulled" else 1e-6
    wanted, reached = at_once(case), _after_steps(case, *cut, tmp_path / "cut.pt")
    for line, expected in zip(reached["lines"], wanted["lines"], strict=True):
        for name, value in expected.items():
            if not name.startswith(("map_", "weight_")):  # measured on the first part alone
                assert line[name] == pytest.approx(value, rel=precision, abs=1e-9), name
    for name, tensor in wanted["weights"].items():
        assert_close(reached["weights"][name], tensor, rtol=precision, atol=precision)
    assert len(wanted["lines"]) == steps_of_ranks.STEPS


def _start(order, folder, **fields):
    folder.write("job.json", order.model_copy(update={"gpus": 2, **fields}).model_dump(mode="json"))
    return subprocess.Popen(
        [sys.executable, "-m", "harness.jobs.worker", str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=(folder.path / "log.txt").open("w"),
        stderr=subprocess.STDOUT,
        env=os.environ | SINGLE,
    )


def _longer(order, steps):
    spec = order().spec
    return order(
        spec=spec.model_copy(update={"schedule": spec.schedule.model_copy(update={"steps": steps, "batch_size": 4})})
    )


def _wait_for_steps(folder, count):
    while len(folder.steps()) < count:
        assert folder.failure() is None
        time.sleep(0.1)


def _children(pid):
    """Processes whose parent this is."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry))
    return found


def _wait_for_the_end(pid):
    deadline = time.monotonic() + 60
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_job_of_two_processes_stops_and_goes_on_to_the_same_bits(order, tmp_path):
    folders = [RunFolder(tmp_path / name) for name in ("parts", "at once")]
    asked = _longer(order, 6)
    first = _start(asked, folders[0])
    _wait_for_steps(folders[0], 2)
    (companion,) = _children(first.pid)
    first.stdin.close()
    assert first.wait(100) == STOPPED
    _wait_for_the_end(companion)
    for folder in folders:
        assert _start(asked, folder).wait(300) == DONE, folder.log.read_text()
    assert [line["loss"] for line in folders[0].steps()] == [line["loss"] for line in folders[1].steps()]
    assert folders[0].model.read_bytes() == folders[1].model.read_bytes()
    assert folders[1].result().machine["gpus"] == "2"
    # Batch norms took statistics of two samples each, which one process of four does not.
    assert _start(asked, folders[0], gpus=1).wait(100) == DONE


@pytest.mark.slow
def test_a_killed_process_ends_its_job_with_the_reason(order, tmp_path):
    folder = RunFolder(tmp_path)
    first = _start(_longer(order, 200), folder)
    _wait_for_steps(folder, 1)
    (companion,) = _children(first.pid)
    os.kill(companion, signal.SIGKILL)
    assert first.wait(60) == FAILED
    assert folder.failure() == ("process 2 of the job was killed by signal 9", False)


@pytest.mark.slow
def test_nobody_survives_the_first_process(order, tmp_path):
    folder = RunFolder(tmp_path)
    first = _start(_longer(order, 200), folder)
    _wait_for_steps(folder, 1)
    (companion,) = _children(first.pid)
    first.kill()
    first.wait()
    _wait_for_the_end(companion)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_wrong_input(order, tmp_path):
    folder = RunFolder(tmp_path)
    assert _start(_longer(order, 4), folder, gpus=3).wait(60) == FAILED
    reason, wrong_input = folder.failure()
    assert wrong_input
    assert "a batch of 4 samples cannot be shared by 3 GPUs" in reason
