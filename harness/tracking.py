"""Mirrors run folders to MLflow, from the parent process only; the folders stay the truth."""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from harness.store import Result, RunFolder
from harness.study.jobs import Job, JobSpec, LabelsJobSpec
from harness.study.plan import Plan, Row
from harness.study.spec import StudySpec

if TYPE_CHECKING:
    from mlflow.entities import Run

HISTORY_EVERY = 10
"""Every so many steps go to MLflow; metrics.jsonl has them all."""
_BATCH = 1000  # MLflow's limit for one call


class Mirror:
    """One parent run a study, one child run a job. Calling it again adds what is new and repeats nothing.

    Training never fails with MLflow: the first error is told and ends the mirroring, nothing else.
    """

    def __init__(self, uri: str, name: str, study: StudySpec, plan: Plan, runs: Path, console: Console) -> None:
        """Connect, and find or make the experiment and the parent run of this plan."""
        self._name, self._data, self._rows = name, study.data, plan.rows
        self._runs, self._console = runs, console
        self._mirrored: set[str] = set()
        self._alive = True
        # A mirror of local folders has nothing to tell anybody; must be set before the first import of mlflow.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        with self._unless_broken():
            from mlflow import MlflowClient

            logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
            self._client = MlflowClient(tracking_uri=uri)
            experiment = self._client.get_experiment_by_name(name)
            # Without the kind the UI guesses, and hides metrics in favour of traces and prompts.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            self._experiment = (
                experiment.experiment_id if experiment else self._client.create_experiment(name, tags=kind)
            )
            rows = sorted(f"{row.role} {row.model} {row.path} {row.arm} {row.seed} {row.job}" for row in plan.rows)
            identity = hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
            parent, _ = self._run({"crossbev.plan": identity}, f"study {name}")
            self._parent = parent.info.run_id
            self._client.update_run(self._parent, "RUNNING")

    def follow(self, done: Iterable[Job]) -> None:
        """Mirror those finished jobs that were not mirrored yet."""
        for job in done:
            if self._alive and job.id not in self._mirrored:
                self._mirrored.add(job.id)
                with self._unless_broken():
                    self._add(job, RunFolder(self._runs / job.id))

    def finish(self, tables: Path, markdown: str, failed: bool) -> None:
        """Attach the tables to the parent run and close it."""
        if self._alive:
            with self._unless_broken():
                self._client.set_tag(self._parent, "mlflow.note.content", markdown)
                self._client.log_artifacts(self._parent, str(tables), "tables")
                self._client.set_terminated(self._parent, "FAILED" if failed else "FINISHED")

    def stop(self) -> None:
        """Close the parent run of a study that was interrupted; the next call opens it again."""
        if self._alive:
            with self._unless_broken():
                self._client.set_terminated(self._parent, "KILLED")

    @contextmanager
    def _unless_broken(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # MLflow, its database, a driver that is missing: whatever it is, the run folders have the results.
            self._alive = False
            self._console.print(f"MLflow is not mirrored any more: {error}", markup=False, style="yellow")

    def _add(self, job: Job, folder: RunFolder) -> None:
        result = folder.result()
        assert result is not None, f"{folder.path} has no result to mirror"
        # The times of the training, not of its mirroring, in milliseconds.
        end = int(1000 * folder.finished_at())
        start = end - int(1000 * result.seconds)
        run, complete = self._run({"crossbev.job": job.id, "mlflow.parentRunId": self._parent}, job.label, start)
        if complete:
            return
        self._describe(run.info.run_id, job, [row for row in self._rows if row.job == job.id], result)
        self._history(run.info.run_id, folder)
        self._final(run.info.run_id, result)
        for name in ("job.json", "metrics_summary.json", "log.txt"):
            if (folder.path / name).is_file():  # an image teacher has no boxes to summarise
                self._client.log_artifact(run.info.run_id, str(folder.path / name))
        self._client.set_terminated(run.info.run_id, "FINISHED", end)

    def _run(self, tags: dict[str, str], name: str, start: int | None = None) -> tuple["Run", bool]:
        """The run with these tags, made if it is not there, and whether it was completed before."""
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self._client.search_runs([self._experiment], query, max_results=1)
        if found:
            return found[0], found[0].info.status == "FINISHED"
        return self._client.create_run(self._experiment, start, tags, name), False

    def _describe(self, run: str, job: Job, rows: list[Row], result: Result) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        spec = job.spec.model_dump(mode="json", exclude={"losses"})
        params = [Param(key, str(value)[:500]) for key, value in _flat(spec)]
        tags = {
            "study": self._name,
            "role": ", ".join(dict.fromkeys(row.role for row in rows)),
            "mlflow.source.git.commit": result.machine.get("commit", "unknown"),
        }
        if rows:
            # Of a teacher that is a baseline, too, what is said of the baseline.
            first = rows[-1] if rows[0].role == "teacher" else rows[0]
            tags |= {
                "model": first.model,
                "path": first.path,
                "arm": first.arm,
                "teacher": first.path.partition("->")[0],
                "student": first.model if first.role not in ("teacher", "image teacher") else "",
            }
        if isinstance(job.spec, JobSpec):
            params += [Param(f"losses.{key}", str(value)) for key, value in _flat(job.spec.losses)]
            tags |= {"dataset": self._data.version, "split": job.spec.data.eval_split}
        if not isinstance(job.spec, LabelsJobSpec):
            tags["seed"] = str(job.spec.seed)
        self._client.log_batch(run, params=params, tags=[RunTag(key, value) for key, value in tags.items()])
        if not isinstance(job.spec, JobSpec):
            return
        data = job.spec.data
        splits = {"training": data.train_split, "evaluation": data.eval_split}
        inputs = [
            DatasetInput(
                # Digests have 36 characters at most.
                Dataset(f"{self._data.version} {split}", data.fingerprint[:36], "nuscenes", self._data.version),
                [InputTag("mlflow.data.context", context)],
            )
            for context, split in splits.items()
            if split
        ]
        self._client.log_inputs(run, inputs)

    def _history(self, run: str, folder: RunFolder) -> None:
        from mlflow.entities import Metric

        # MLflow wants a time for every value; the order of steps is what its plots use.
        metrics = [
            Metric(f"train/{key}", value, 0, int(line["step"]))
            for line in folder.steps()
            if line["step"] % HISTORY_EVERY == 0
            for key, value in line.items()
            if key not in ("step", "batch")
        ]
        for begin in range(0, len(metrics), _BATCH):
            self._client.log_batch(run, metrics=metrics[begin : begin + _BATCH])

    def _final(self, run: str, result: Result) -> None:
        from mlflow.entities import Metric, RunTag

        values = result.metrics | {"parameters": result.parameters, "seconds": result.seconds}
        self._client.log_batch(
            run,
            metrics=[Metric(key, value, 0, 0) for key, value in values.items()],
            tags=[RunTag(f"machine.{key}", value) for key, value in result.machine.items()],
        )


def _flat(tree: dict[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value
