"""A disk without locks is one message, whatever is locked; everything else that goes wrong stays what it is."""

import errno
import fcntl
from datetime import UTC, datetime

import pytest
from filelock import Timeout

from harness.errors import InputError
from harness.runs.claims import Claim, Claims
from harness.runs.folder import Busy, RunFolder
from harness.runs.locks import FileLock


def _without_locks(monkeypatch, number):
    def flock(file, flags):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_named(monkeypatch, tmp_path, number):
    _without_locks(monkeypatch, number)
    record = Claim(name="a", study=tmp_path / "a.yaml", called=datetime.now(UTC), jobs=())
    folder = RunFolder(tmp_path / "run")

    def lock():
        with folder.locked():
            pytest.fail("it cannot be locked")

    for attempt in (lock, folder.in_use, lambda: Claims(tmp_path / "runs").replace(record)):
        with pytest.raises(InputError, match=rf"{tmp_path}.* has no locks"):
            attempt()


def test_other_errors_are_no_lack_of_locks(monkeypatch, tmp_path):
    _without_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="no locks") as caught:
        FileLock(tmp_path / "lock").acquire()
    assert not isinstance(caught.value, InputError)


def test_one_that_is_held_stays_held(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        assert folder.in_use()
        with pytest.raises(Timeout):
            FileLock(tmp_path / "run" / "lock").acquire(timeout=0)
        with pytest.raises(Busy), folder.locked():
            pass
