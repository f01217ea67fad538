"""Creates MLflow's SQLite file as a whole, so that interrupted or simultaneous calls leave no damaged one."""

import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from harness.runs.locks import FileLock

_SCHEME = "sqlite:///"


def sqlite_file(uri: str) -> Path | None:
    """The file of a tracking URI; None where it is no SQLite file of ours to make, or names options."""
    path = uri.removeprefix(_SCHEME)
    return Path(path) if uri.startswith(_SCHEME) and path and "?" not in path and path != ":memory:" else None


def make_database(file: Path, fill: Callable[[str], object]) -> None:
    """Make the database where it is missing, all of it at once.

    MLflow takes seconds for its tables and leaves a database that it refuses for ever where it is stopped meanwhile. So
    it works on a file beside, under a lock, which is moved into place. One that was torn before is moved aside.

    Args:
        file: Where it belongs.
        fill: Has MLflow make its tables in the database of a URI.
    """
    if _is_whole(file):
        return
    # A lock of its own: SQLite's are on the file that is not there yet.
    with FileLock(file.with_name(f".{file.name}.lock")):
        if _is_whole(file):
            return
        begun = file.with_name(f".{file.name}.{os.getpid()}")
        begun.unlink(missing_ok=True)
        fill(f"{_SCHEME}{begun}")
        if file.exists():
            aside = _free(file)
            file.rename(aside)
            print(
                f"{file} is incomplete, because a call was stopped; moved to {aside} and replaced by a new file",
                file=sys.stderr,
            )
        begun.rename(file)


def _is_whole(file: Path) -> bool:
    """Whether MLflow finished its tables: it makes that of experiments first, and its default experiment last.

    Somebody else's file counts as whole, too: MLflow says what is wrong with it.
    """
    if not file.exists():
        return False
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
            if "experiments" in tables:
                return database.execute("select 1 from experiments").fetchone() is not None
            return bool(tables)
    except sqlite3.Error:
        return True


def _free(file: Path) -> Path:
    """A name beside it that nobody has."""
    number = 1
    while (aside := file.with_name(f"{file.name}.torn-{number}")).exists():
        number += 1
    return aside
