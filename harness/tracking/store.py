"""Store: an MLflow tracking store that stores nothing twice and never stops a study."""

import hashlib
import logging
import os
import posixpath
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rich.console import Console

from harness.errors import InputError, without_password
from harness.tracking.database import make_database, sqlite_file

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

_BATCH = 1000  # MLflow's limit for one call
_NOTE = 8000  # MLflow's limit for a tag, and with it for a description
_LONGEST_KEY = 250  # MLflow's limit for a name
_ANSWER_SECONDS = 5.0
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Without it the UI guesses, and hides metrics in favour of traces and prompts."""


def is_server(uri: str) -> bool:
    """Whether a tracking URI names a server, not a database or a folder."""
    return uri.startswith(("http://", "https://"))


def check_store(uri: str, experiment: str) -> None:
    """Raise InputError for a tracking store that cannot be used now: before hours of training find it out.

    Args:
        uri: Of the store.
        experiment: Name of the one that will be written to; it need not be there, but must not be deleted.
    """
    named = f"--tracking-uri {without_password(uri)}"
    if is_server(uri):
        parts = urlsplit(uri)
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), _ANSWER_SECONDS).close()
        except (OSError, ValueError) as error:
            # A port that is no number is a ValueError.
            raise InputError(
                f"{named}: the MLflow server does not answer ({error}); start it, or choose another store such as "
                "sqlite:///mlflow.db"
            ) from error
    try:
        if (file := sqlite_file(uri)) is not None:
            make_database(file, _experiments)
        there = _client(uri).get_experiment_by_name(experiment)
    except Exception as error:
        # SQLAlchemy's, a driver's, or MLflow's own: all of them mean that this store is of no use here.
        reason = without_password(" ".join(str(error).split()))[:300]
        raise InputError(
            f"{named} cannot be used: {reason}; allowed: sqlite:///FILE, another database that SQLAlchemy supports, or "
            "http://HOST:PORT of a server"
        ) from error
    if there is not None and there.lifecycle_stage == "deleted":
        raise InputError(
            f"{named}: experiment {experiment!r} was deleted, but MLflow reserves its name; restore it (mlflow "
            f"experiments restore --experiment-id {there.experiment_id}), remove it permanently (mlflow gc), or choose "
            "another store"
        )


def _experiments(uri: str) -> None:
    """List the experiments, which makes MLflow create the tables of a new database."""
    _client(uri).search_experiments(max_results=1)


def _client(uri: str) -> Any:
    # A mirror of local folders has nothing to tell anybody; these must be set before the first import of mlflow.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # The executor waits for the mirror: a server that went away costs it seconds, not the default's minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


class Store:
    """One parent run in an experiment of a tracking store, and the runs below it.

    Training never fails with MLflow: the first error is told and ends the mirroring, nothing else.
    """

    def __init__(self, uri: str, experiment: str, tags: Mapping[str, str], run: str, console: Console) -> None:
        """Connect; find or make the experiment and the parent run.

        Args:
            uri: Where the tracking store is.
            experiment: Its name.
            tags: By which the parent run is found again.
            run: Its name.
            console: For the one message.
        """
        self.name, self._console = experiment, console
        self._alive = True
        self._mirrored: set[object] = set()
        self.experiment = self.parent = ""
        self.attempt(lambda: self._open(uri, experiment, tags, run))

    @property
    def alive(self) -> bool:
        """Whether the store has worked so far."""
        return self._alive

    def attempt(self, mirror: Callable[[], None]) -> None:
        """Run an action on the store unless it failed before. A failure ends the mirroring, not the program."""
        if not self._alive:
            return
        try:
            mirror()
        except Exception as error:
            # MLflow, its database, a driver that is missing: whatever it is, the run folders have the results.
            self._alive = False
            self._console.print(
                f"the mirror in MLflow stopped: {error}",
                markup=False,
                style="yellow",
            )

    def once(self, what: object, mirror: Callable[[], None]) -> None:
        """Run an action on the store as `attempt` does, unless it was done before."""
        if what not in self._mirrored:
            self._mirrored.add(what)
            self.attempt(mirror)

    def finish(
        self, folder: Path, name: str, markdown: str, failed: bool = False, tags: Mapping[str, str] | None = None
    ) -> None:
        """Attach the files of a folder to the parent run, describe it, and close it."""

        def mirror() -> None:
            self.note(self.parent, markdown)
            self.files(self.parent, folder, name)
            self.describe(self.parent, {}, tags or {})
            self.end(self.parent, "FAILED" if failed else "FINISHED")

        self.attempt(mirror)

    def stop(self) -> None:
        """Close the parent run of what was interrupted; the next call opens it again."""
        self.attempt(lambda: self.end(self.parent, "KILLED"))

    def run(self, tags: Mapping[str, str], name: str, start: int | None = None) -> tuple[str, bool]:
        """The id of the run with these tags, made if it is not there, and whether it was finished before."""
        earlier = self.runs(tags, 1)
        if earlier:
            return earlier[0].info.run_id, earlier[0].info.status != "RUNNING"
        return self._client.create_run(self.experiment, start, dict(tags), name).info.run_id, False

    def runs(self, tags: Mapping[str, str], most: int = 1000) -> "list[Run]":
        """Those with these tags, the newest first."""
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        return list(self._client.search_runs([self.experiment], query, max_results=most))

    def describe(self, run: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Parameters and tags. MLflow refuses to change a parameter, so that these have to be a run's own for ever."""
        from mlflow.entities import Param, RunTag

        written = [Param(as_key(key), str(value)[:500]) for key, value in params.items()]
        for begin in range(0, len(written), 100):
            self._client.log_batch(run, params=written[begin : begin + 100])
        self._client.log_batch(run, tags=[RunTag(as_key(key), value) for key, value in tags.items()])

    def metrics(self, run: str, values: Mapping[str, float | int]) -> None:
        """Log final metrics that are numbers and not yet stored."""
        from mlflow.entities import Metric

        values = {as_key(key): value for key, value in values.items()}
        there = self._client.get_run(run).data.metrics
        now = int(1000 * time.time())
        self._log(
            run,
            [
                Metric(key, value, now, 0)
                for key, value in values.items()
                if isfinite(value) and there.get(key) != value
            ],
        )

    def history(self, run: str, lines: Sequence[tuple[int, Mapping[str, float | int]]]) -> None:
        """Metrics step by step."""
        from mlflow.entities import Metric

        # MLflow wants a time for every value; the order of steps is what its plots use.
        self._log(run, [Metric(as_key(key), value, 0, step) for step, values in lines for key, value in values.items()])

    def note(self, run: str, markdown: str) -> None:
        """What stands at the head of a run's page; cut between two paragraphs where it is longer than MLflow takes."""
        if len(markdown) > _NOTE:
            rest = "\n\n(More in the artifacts.)\n"
            markdown = markdown[: markdown.rfind("\n\n", 0, _NOTE - len(rest))] + rest
        self._client.set_tag(run, "mlflow.note.content", markdown)

    def inputs(self, run: str, name: str, digest: str, splits: Mapping[str, str]) -> None:
        """The splits of a dataset that a run read, by what it read them for."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        used = [
            # Digests have 36 characters at most.
            DatasetInput(
                Dataset(f"{name} {split}", digest[:36], "nuscenes", name), [InputTag("mlflow.data.context", context)]
            )
            for context, split in splits.items()
            if split
        ]
        self._client.log_inputs(run, used)

    def files(self, run: str, path: Path, folder: str | None = None) -> None:
        """A file, or all files of a folder, as artifacts."""
        if path.is_dir():
            self._client.log_artifacts(run, str(path), folder)
        else:
            self._client.log_artifact(run, str(path), folder)

    def end(self, run: str, status: str = "FINISHED", at: int | None = None) -> None:
        """A run that has come to its end, at a time in milliseconds since 1970."""
        self._client.set_terminated(run, status, at)

    def _open(self, uri: str, experiment: str, tags: Mapping[str, str], run: str) -> None:
        self._client = _client(uri)
        there = self._client.get_experiment_by_name(experiment)
        self.experiment = there.experiment_id if there else self._client.create_experiment(experiment, tags=dict(_KIND))
        self.parent, _ = self.run(tags, run)
        self._client.update_run(self.parent, "RUNNING")

    def _log(self, run: str, metrics: "list[Metric]") -> None:
        for begin in range(0, len(metrics), _BATCH):
            self._client.log_batch(run, metrics=metrics[begin : begin + _BATCH])


def as_key(name: str) -> str:
    """The name of a parameter, metric or tag as MLflow takes it: what it refuses is written by its code, in hex."""
    # MLflow wants paths in their shortest form, below a folder.
    is_path = posixpath.normpath(name) == name and not name.startswith(("/", "."))
    key = re.sub(r"[^\w./: -]" if is_path else r"[^\w: -]", lambda character: f"_{ord(character[0]):x}_", name)
    return key if len(key) <= _LONGEST_KEY else f"{key[: _LONGEST_KEY - 17]}_{digest([key])}"


def digest(parts: Sequence[str]) -> str:
    """Sixteen hexadecimal digits for a tag by which a run is found again."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
