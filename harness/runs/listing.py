"""Lists run folders with state, age, size and dependencies, including damaged ones."""

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from harness.errors import InputError
from harness.runs.claims import Claim
from harness.runs.folder import JOB_ID, Result, RunFolder, run_folders

State = Literal["done", "running", "failed", "stopped", "empty", "damaged"]
"""Failed: the last attempt said why. Stopped: there is something to go on from. Empty: not even that. Damaged: a file
that says what it is cannot be read."""
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True)
class StoredRun:
    """A run folder at the moment of reading it."""

    folder: RunFolder
    state: State
    label: str
    """Label of its job; empty if unreadable."""
    spec: Mapping[str, Any]
    """Spec of its job as JSON, because it may be of another version; empty if unreadable."""
    result: Result | None
    failure: str
    """Reason why the last attempt failed; empty if it did not."""
    sizes: Mapping[str, int]
    """Bytes of each file."""
    newest: float
    """When its newest file was written, in seconds since 1970."""

    @property
    def id(self) -> str:
        """The id of its job."""
        return self.folder.path.name

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(self.sizes.values())

    @property
    def needs(self) -> list[str]:
        """Ids of the jobs that it needs: all texts in its spec that look like an id."""
        return [each for each in self.spec.values() if isinstance(each, str) and re.fullmatch(JOB_ID, each)]


def stored_runs(runs: Path) -> dict[str, StoredRun]:
    """Return all runs of a folder by id; raise InputError if the folder does not exist."""
    if not runs.is_dir():
        raise InputError(f"runs folder {runs} does not exist; harness.run creates it")
    stored = {}
    for folder in run_folders(runs):
        # Another process may be pruning.
        with suppress(FileNotFoundError):
            stored[folder.path.name] = look(folder)
    return stored


def look(folder: RunFolder) -> StoredRun:
    """Read a run folder."""
    files, contents = _files(folder.path), folder.peek()
    order = contents.order
    if folder.in_use():
        state: State = "running"
    elif order is None or contents.damaged:
        state = "damaged"
    elif contents.result is not None:
        state = "done"
    elif contents.failure is not None:
        state = "failed"
    else:
        idle = {path.name for path in (folder.order, folder.lock, folder.log)}
        state = "stopped" if any(file.st_size for name, file in files.items() if name not in idle) else "empty"
    return StoredRun(
        folder=folder,
        state=state,
        label=order.label if order else "",
        spec=order.spec if order else {},
        result=contents.result,
        failure=contents.failure or "",
        sizes={name: file.st_size for name, file in files.items()},
        newest=max((file.st_mtime for file in files.values()), default=folder.path.stat().st_mtime),
    )


def with_needs(needs: Mapping[str, Iterable[str]], ids: Iterable[str]) -> set[str]:
    """Return these ids and those of all jobs that they need, as far as these are known."""
    needed: set[str] = set()
    open_ = list(ids)
    while open_:
        id_ = open_.pop()
        if id_ not in needed:
            needed.add(id_)
            open_ += needs.get(id_, ())
    return needed


def wanted_by(stored: Mapping[str, StoredRun], claims: Mapping[str, Claim]) -> dict[str, tuple[str, ...]]:
    """Map each run to the names of the claims on it or on a run that needs it."""
    needs = {id_: run.needs for id_, run in stored.items()}
    wants = {name: with_needs(needs, claim.jobs) for name, claim in claims.items()}
    return {id_: tuple(name for name, ids in wants.items() if id_ in ids) for id_ in stored}


def unneeded(stored: Mapping[str, StoredRun], claims: Iterable[Claim], before: float = float("inf")) -> list[StoredRun]:
    """Return the runs that may be deleted: no claim needs them, and no remaining run does.

    What is running stays, and what was written at this time, in seconds since 1970, or later.
    """
    staying = {id_ for claim in claims for id_ in claim.jobs}
    staying |= {run.id for run in stored.values() if run.state == "running" or run.newest >= before}
    needed = with_needs({id_: run.needs for id_, run in stored.items()}, staying)
    return [run for run in stored.values() if run.id not in needed]


def _files(folder: Path) -> dict[str, os.stat_result]:
    """Return all files of a folder by their relative paths."""
    files = {}
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in sorted(names)):
            # A training replaces and deletes files while one looks.
            with suppress(FileNotFoundError):
                files[path.relative_to(folder).as_posix()] = path.lstat()
    return files
