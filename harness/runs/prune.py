"""Deletes runs that no study claims. Other processes may start meanwhile, and this one may be killed."""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.runs.claims import Claim, Claims
from harness.runs.folder import JOB_ID, Busy, RunFolder
from harness.runs.listing import StoredRun, stored_runs, unneeded


@dataclass(frozen=True)
class Pruning:
    """What the user is asked to confirm."""

    forget: tuple[Claim, ...]
    """Claims to drop."""
    delete: tuple[StoredRun, ...]
    before: float
    """Runs that were written at this time or later stay, in seconds since 1970."""


def propose(
    stored: Mapping[str, StoredRun], claims: Mapping[str, Claim], forget: Collection[str], before: float
) -> Pruning:
    """Return what may be deleted after the claims of these names are dropped."""
    left = [claim for name, claim in claims.items() if name not in forget]
    gone = tuple(claim for name, claim in claims.items() if name in forget)
    return Pruning(gone, tuple(unneeded(stored, left, before)), before)


def prune(runs: Path, pruning: Pruning) -> list[StoredRun]:
    """Delete what was confirmed, except runs that are claimed or running by now. Return the deleted runs.

    A study that was called again since is not forgotten. What an earlier call was interrupted in is ended, too.
    """
    claims = Claims(runs)
    # A study that begins waits for the end of this, and looks only then which results are there.
    with claims.locked():
        for path in runs.glob(f".{JOB_ID}.deleted"):
            shutil.rmtree(path)
        current = claims.read().values()
        for claim in pruning.forget:
            if claim in current:
                claims.forget(claim)
        left = [claim for claim in current if claim not in pruning.forget]
        free = {run.id for run in unneeded(stored_runs(runs), left, pruning.before)}
        return [run for run in pruning.delete if run.id in free and _delete(run.folder)]


def _delete(folder: RunFolder) -> bool:
    """Delete a run folder unless a process owns it; return whether it was deleted."""
    path = folder.path
    try:
        with folder.locked():
            # Under its own name an interruption would leave a result without the files that belong to it.
            hidden = path.rename(path.with_name(f".{path.name}.deleted"))
    except Busy:
        return False
    # Only now: a network file system does not delete a file that is open, as the lock is.
    shutil.rmtree(hidden)
    return True
