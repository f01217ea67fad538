"""Locks that end with the process that holds them."""

import errno
from pathlib import Path
from typing import Any

import filelock

from harness.errors import InputError

_NONE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class FileLock(filelock.FileLock):
    """As filelock's, whose Timeout it raises, too."""

    def acquire(self, *arguments: Any, **options: Any) -> Any:
        """Take the lock; raise InputError if the file system has no locks."""
        try:
            return super().acquire(*arguments, **options)
        except (OSError, NotImplementedError) as error:
            # A Timeout is an OSError without a number; of ENOSYS older releases of filelock make a NotImplementedError.
            if isinstance(error, OSError) and error.errno not in _NONE:
                raise
            raise InputError(
                f"{self.lock_file} cannot be locked: its file system has no locks, as NFS without lockd; "
                "choose a folder on another disk"
            ) from error


def is_held(path: Path) -> bool:
    """Whether a process holds a lock; raises PermissionError if this user may not open the file."""
    try:
        FileLock(path).acquire(timeout=0).lock.release()
    except filelock.Timeout:
        return True
    return False
