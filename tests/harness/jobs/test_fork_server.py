"""The fork server: its jobs are processes of their own, are asked to stop one by one, and outlive nobody."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from harness.execute import executor
from harness.jobs import fork_server
from harness.jobs.fork_server import CLOSED, ForkServer
from harness.jobs.kind import DONE, FAILED, STOPPED
from harness.runs.folder import RunFolder

# A server whose jobs do what the names of their folders say; it imports nothing heavy.
STAND_IN = """
import os, sys, time, types
def end(folders):
    (folder,) = folders
    print(os.environ.get("GPU"), os.getcwd(), folder.name, flush=True)
    if folder.name == "ends with 3":
        os._exit(3)
    while part := os.read(0, 4096):
        print(part.decode(), flush=True)
    os._exit(7)
worker = types.ModuleType("harness.jobs.worker")
worker.end, worker.warm_up = end, lambda: None
sys.modules["harness.jobs.worker"] = worker
from harness.jobs.fork_server import main
main()
"""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fork_server, "PROGRAM", ["-c", STAND_IN])
    server = ForkServer(threads=1)
    yield server
    server.close()


def _until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def _start(server, folder, **environment):
    job = server.start([folder], folder.parent / f"{folder.name}.log", environment)
    _until(lambda: (folder.parent / f"{folder.name}.log").is_file())
    return job


def test_job_has_its_variables_its_folder_and_its_log(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ends with 3.log").write_text("before\n")
    assert _start(server, Path("ends with 3"), GPU="2").wait(60.0) == 3
    assert (tmp_path / "ends with 3.log").read_text() == f"before\n2 {tmp_path} ends with 3\n"


def test_one_stops_and_the_other_goes_on(server, tmp_path):
    first, second = (_start(server, tmp_path / name) for name in ("first", "second"))
    # The second was forked while the first one's pipe was open; it must not hold it.
    first.stop()
    assert first.wait(60.0) == 7
    assert second.poll() is None
    second.kill()
    assert second.wait(60.0) == -signal.SIGKILL


def test_a_job_hears_which_of_its_folders_nobody_wants_any_more(server, tmp_path):
    job, log = _start(server, tmp_path / "folder"), tmp_path / "folder.log"
    job.drop(tmp_path / "one of them")
    _until(lambda: f"{tmp_path / 'one of them'}\n" in log.read_text())
    assert job.poll() is None
    job.stop()
    assert job.wait(60.0) == 7
    job.drop(tmp_path / "too late")


def test_all_stop_when_nobody_is_left_to_ask(server, tmp_path):
    jobs = [_start(server, tmp_path / name) for name in ("first", "second")]
    server.close()
    assert [job.wait(1.0) for job in jobs] == [7, 7]
    assert not server.alive


def test_jobs_of_a_killed_server_stop_and_count_as_closed(server, tmp_path):
    job = _start(server, tmp_path / "first")
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
    if not children.is_file():
        pytest.skip("finds a process's children in /proc")
    (child,) = map(int, children.read_text().split())
    os.kill(server.pid, signal.SIGKILL)
    assert job.wait(60.0) == CLOSED
    _until(lambda: not Path(f"/proc/{child}").exists())
    job.stop()  # nobody hears it, and that is no error
    assert server.start([tmp_path / "too late"], tmp_path / "log", {}).wait(60.0) == CLOSED


def test_threads_share_a_server(monkeypatch, tmp_path):
    monkeypatch.setattr(fork_server, "PROGRAM", ["-c", STAND_IN])
    monkeypatch.setattr(executor, "_servers", {})
    barrier = Barrier(6)

    def ask(number):
        barrier.wait()
        server = executor._fork_server(1)
        jobs = [server.start([tmp_path / "ends with 3"], tmp_path / f"{number}.log", {}) for _ in range(5)]
        return server, [job.wait(60.0) for job in jobs]

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    (server,) = {server for server, _ in answers}
    assert [statuses for _, statuses in answers] == [[3] * 5] * 6
    server.close()


def test_without_a_process_to_be_had_one_job_fails_and_the_next_is_tried(monkeypatch, tmp_path):
    limited = STAND_IN.replace("main()\n", "fork, calls = os.fork, []\n") + (
        "def scarce():\n"
        "    calls.append(1)\n"
        "    if len(calls) == 1: raise BlockingIOError(11, 'Resource temporarily unavailable')\n"
        "    return fork()\n"
        "os.fork = scarce\n"
        "main()\n"
    )
    monkeypatch.setattr(fork_server, "PROGRAM", ["-c", limited])
    server = ForkServer(threads=1)
    assert server.start([tmp_path / "ends with 3"], tmp_path / "log", {}).wait(60.0) == 1
    assert "no process could be made: [Errno 11] Resource temporarily unavailable" in (tmp_path / "log").read_text()
    assert server.start([tmp_path / "ends with 3"], tmp_path / "log", {}).wait(60.0) == 3
    server.close()


def test_job_that_cannot_begin_ends_with_1_and_says_why(server, tmp_path):
    job = _start(server, tmp_path / "first")
    assert server.start([tmp_path / "ends with 3"], tmp_path / "log", {"A": "\0"}).wait(60.0) == 1
    assert "ValueError: embedded null byte" in (tmp_path / "log").read_text()
    job.stop()
    assert job.wait(60.0) == 7, "one that fails is no second server"


@pytest.mark.slow
def test_real_jobs_train_and_stop(order, tmp_path):
    server = ForkServer(threads=1)
    folders = {name: RunFolder(tmp_path / name) for name in ("short", "long", "broken")}
    jobs = {}
    for name, folder in folders.items():
        asked = order(schedule={"steps": 2 if name == "short" else 1000, "batch_size": 2})
        if name == "broken":
            asked = asked.model_copy(update={"root": tmp_path / "nowhere"})
        folder.write("job.json", asked.model_dump(mode="json"))
        jobs[name] = server.start([folder.path], folder.log, {})
    assert jobs["short"].wait(300.0) == DONE
    assert jobs["broken"].wait(300.0) == FAILED
    _until(lambda: len(folders["long"].steps()) > 3)
    jobs["long"].stop()
    assert jobs["long"].wait(300.0) == STOPPED
    assert folders["long"].state.is_file()
    assert folders["short"].result() is not None
    assert "nowhere" in str(folders["broken"].failure())
    server.close()
