"""Looks up what a local tracking store holds of a study, without MLflow, which takes two seconds to import."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from harness.tracking.database import sqlite_file

PARENT = "mlflow.parentRunId"
_RUN = """
    SELECT run_uuid, artifact_uri, state.value
    FROM experiments JOIN runs USING (experiment_id)
    JOIN tags AS named USING (run_uuid) JOIN tags AS state USING (run_uuid)
    WHERE experiments.name = ? AND experiments.lifecycle_stage = 'active'
    AND runs.lifecycle_stage = 'active' AND runs.status IN ('FINISHED', 'FAILED')
    AND named.key = ? AND named.value = ? AND state.key = ?
"""
_CHILDREN = """
    SELECT count(*) FROM runs JOIN tags USING (run_uuid)
    WHERE tags.key = ? AND tags.value = ? AND runs.lifecycle_stage = 'active'
"""


@dataclass(frozen=True)
class ClosedRun:
    """A parent run that was closed, as the database has it now."""

    state: str
    """What it says of all that was mirrored."""
    children: int
    """The runs below it that nobody deleted."""
    artifacts: Path


def closed_run(uri: str, experiment: str, tag: tuple[str, str], state_key: str) -> ClosedRun | None:
    """The closed run of an experiment with a tag; None where only MLflow itself can tell, or where there is none.

    Args:
        uri: Of the tracking store; anything but an SQLite file is left to MLflow.
        experiment: Its name. If it was deleted, it has no run.
        tag: Key and value.
        state_key: The tag that holds the state.
    """
    file = sqlite_file(uri)
    if file is None or not file.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            runs = database.execute(_RUN, (experiment, *tag, state_key)).fetchall()
            if len(runs) != 1:
                return None
            [(run, artifacts, state)] = runs
            [children] = database.execute(_CHILDREN, (PARENT, run)).fetchone()
    except sqlite3.Error:
        # Tables of another version of MLflow, or no database at all.
        return None
    return ClosedRun(state, children, Path(artifacts))
