"""A full disk, a read-only folder or a killed process leave an unfinished dataset that says so, and no half-truths."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.data.manifest import MARKER
from harness.errors import InputError
from harness.world import dataset, nuscenes
from harness.world.nuscenes import Preset, synthesize
from tests.cases import mostly_slow

PROGRAM = """
import resource, sys
from pathlib import Path

from harness.world.nuscenes import synthesize
from harness.errors import InputError

if __name__ == "__main__":
    out, workers, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        synthesize(out, "smoke", 0, workers)
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr)
        sys.exit(2)
"""


@pytest.fixture
def start(tmp_path):
    """Starts the generator in a process group of its own: ``start(out, workers, limit_bytes)``."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    started = []

    def run(out, workers, limit_bytes=0):
        arguments = [sys.executable, str(program), str(out), str(workers), str(limit_bytes)]
        process = subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_who_waits_for_another_process_is_told(tmp_path):
    identity, told = {"preset": "a test"}, []
    out = tmp_path / "dataset"
    out.mkdir()
    (out / dataset._LOCK).touch()
    other = dataset.FileLock(out / dataset._LOCK).acquire()

    def waiting():
        told.append("waiting")
        other.lock.release()

    dataset.make_root(out, identity, dict, waiting)
    dataset.make_root(out, identity, dict, waiting)
    assert told == ["waiting"]


@pytest.mark.parametrize("workers", mostly_slow([1, 2], 0))
def test_a_file_that_cannot_be_written_is_one_input_error(start, tmp_path, workers):
    # No file may be larger than 3000 bytes: RADAR files are not, the first image is.
    process = start(tmp_path / "out", workers, limit_bytes=3000)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 2
    assert complaint.count("\n") == 1
    assert complaint.startswith(f"InputError: {tmp_path / 'out' / 'samples' / 'CAM_'}")
    assert complaint.endswith("cannot be written: File too large\n")
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    "last", mostly_slow(["LIDAR_TOP", "sweeps/RADAR_FRONT", "maps", "category.json", "sample_data.json"], "maps")
)
def test_a_full_disk_is_named_and_the_rest_is_made_again(tmp_path, monkeypatch, smoke_path, last):
    preset = Preset(train=1, tune=0, val=0, keyframes=1, sweeps=nuscenes.SWEEPS)
    monkeypatch.setitem(nuscenes.PRESETS, "smoke", preset)
    write_bytes = Path.write_bytes

    def full(path, content):
        if last in str(path):
            write_bytes(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(path, content)

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError, match=f"{last}.* cannot be written: No space left on device"):
            synthesize(tmp_path / "out", "smoke", 0)
    assert not (tmp_path / "out" / "manifest.json").exists()
    synthesize(tmp_path / "out", "smoke", 0)
    synthesize(tmp_path / "other", "smoke", 0)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == (tmp_path / "other" / "manifest.json").read_bytes()


@pytest.mark.parametrize("name", [".crossbev-synthetic.json", "manifest.json"])
def test_a_disk_that_is_full_at_the_first_or_last_file_is_named(tmp_path, monkeypatch, name):
    preset = Preset(train=1, tune=0, val=0, keyframes=1, sweeps=nuscenes.SWEEPS)
    monkeypatch.setitem(nuscenes.PRESETS, "smoke", preset)
    atomic_write = dataset.atomic_write

    def full(path, content):
        if path.name == name:
            path.with_name(f".{name}.1.tmp").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        atomic_write(path, content)

    with monkeypatch.context() as disk:
        disk.setattr(dataset, "atomic_write", full)
        with pytest.raises(InputError, match=rf"{name} cannot be written: No space left on device"):
            synthesize(tmp_path / "out", "smoke", 0)
    assert not (tmp_path / "out" / "manifest.json").exists()
    synthesize(tmp_path / "out", "smoke", 0)
    assert not list((tmp_path / "out").glob(".*.tmp"))


def test_a_read_only_folder_is_named(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # The tests may run as a user whom no permission stops.
    for method in ("mkdir", "touch"):
        with monkeypatch.context() as folder:
            folder.setattr(Path, method, denied)
            with pytest.raises(InputError, match=r"out cannot be written: Permission denied"):
                synthesize(tmp_path / "out", "smoke", 0)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_what_cannot_be_deleted_is_named(tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / MARKER).write_text("{}")

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(dataset.shutil, "rmtree", denied)
    with pytest.raises(InputError, match=r"sweeps cannot be written: Permission denied"):
        synthesize(tmp_path, "smoke", 0)


@pytest.mark.slow
@pytest.mark.parametrize("group", [True, False], ids=["with its workers", "alone"])
def test_after_a_kill_the_same_call_gives_the_same_bytes(start, tmp_path, smoke_path, group):
    out = tmp_path / "out"
    process = start(out, 2)
    _wait_for(lambda: (out / "sweeps").is_dir() and len(list(out.rglob("*.jpg"))) > 5)
    (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.json").exists()
    # Workers whose parent is gone end as well: nothing is written behind the back of the next call.
    time.sleep(0.5)
    written = len(list(out.rglob("*")))
    time.sleep(0.5)
    assert len(list(out.rglob("*"))) == written
    again = start(out, 2)
    _, complaint = again.communicate(timeout=120)
    assert (again.returncode, complaint) == (0, "")
    assert (out / "manifest.json").read_bytes() == (smoke_path / "manifest.json").read_bytes()
    for path in ("samples", "sweeps"):
        names = {file.relative_to(out) for file in (out / path).rglob("*") if file.is_file()}
        assert names == {file.relative_to(smoke_path) for file in (smoke_path / path).rglob("*") if file.is_file()}


def _wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
