"""Mirrors the run folders and arms of a study to MLflow, from the parent process."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.evidence.controls import judge_all
from harness.evidence.line import ERRORS, Key, Line, gain_column
from harness.runs.folder import RunFolder
from harness.study.jobs import DetectorJobSpec, Job, LabelsJobSpec
from harness.study.plan import Plan, Row
from harness.study.spec import StudySpec
from harness.tracking.glance import PARENT, ClosedRun, closed_run
from harness.tracking.store import Store, check_store, digest

HISTORY_EVERY = 10
"""Every so many steps go to MLflow; metrics.jsonl has them all."""
PLAN, JOB, ARM = "crossbev.plan", "crossbev.job", "crossbev.arm"
"""Tags by which runs are found again."""
STATE = "crossbev.state"
"""The tag of a parent run that names all that was mirrored."""
TABLES = "tables"
"""The folder of the report among the artifacts."""
_OF_ARMS = ("losses.", "warm_start", "schedule.steps", "schedule.epochs")


class Mirror:
    """One parent run a study, and below it one run a job and one a line of the table, which is an arm over its seeds.

    Calling it again adds what is new and repeats nothing.
    """

    def __init__(self, uri: str, name: str, study: StudySpec, plan: Plan, runs: Path, console: Console) -> None:
        """Remember what to mirror. Nothing is connected before it is needed."""
        self._name, self._data, self._plan, self._runs = name, study.data, plan, runs
        self._study = study
        self._uri, self._console = uri, console
        rows = sorted(f"{row.role} {row.model} {row.path} {row.arm} {row.seed} {row.job}" for row in plan.rows)
        self._tag = (PLAN, digest(rows))

    @cached_property
    def store(self) -> Store:
        """The store, connected, with the experiment and the parent run of this plan, made where they are not there."""
        return Store(self._uri, self._name, dict([self._tag]), f"study {self._name}", self._console)

    def open(self) -> Store:
        """Check the store and connect; raises InputError for one that cannot be used now."""
        check_store(self._uri, self._name)
        return self.store

    @property
    def closed(self) -> ClosedRun | None:
        """The parent run, where an earlier call closed it and a look at the database is enough to know."""
        return closed_run(self._uri, self._name, self._tag, STATE)

    def follow(self, done: Iterable[Job]) -> None:
        """Mirror those finished jobs that were not mirrored yet."""
        for job in done:
            self.store.once(job.id, partial(self._add, job))

    def finish(self, tables: Path, markdown: str, lines: Sequence[Line], failed: bool) -> None:
        """Mirror the arms, attach the tables to the parent run, and close it.

        Args:
            tables: Folder of the tables and pictures.
            markdown: The main table.
            lines: The lines of that table.
            failed: Whether a job did.
        """
        for line in lines:
            self.store.attempt(partial(self._add_arm, line))
        if outcomes := {f"control.{each.name}": each.outcome for each in judge_all(lines, self._study)}:
            self.store.attempt(lambda: self.store.describe(self.store.parent, {}, outcomes))
        state = _state(tables, markdown, lines, failed)
        self.store.finish(tables, TABLES, markdown, failed, {STATE: state})

    def is_finished(self, tables: Path, markdown: str, lines: Sequence[Line], failed: bool, done: int) -> bool:
        """Whether an earlier call mirrored all of this, and nobody deleted any of it since.

        Args:
            tables: As the others, what `finish` takes.
            markdown: The main table.
            lines: Its lines.
            failed: Whether a job did.
            done: The number of finished jobs.
        """
        run = self.closed
        return (
            run is not None
            and run.children == done + len(lines)
            and run.state == _state(tables, markdown, lines, failed)
            and all(_is_copied(file, run.artifacts / TABLES / file.relative_to(tables)) for file in _files(tables))
        )

    def arms(self) -> list[str]:
        """The runs of the arms that have numbers, in the order of the table."""
        arms = self.store.runs({PARENT: self.store.parent, "kind": "arm"})
        return [run.info.run_id for run in reversed(arms) if "NDS" in run.data.metrics]

    def _add(self, job: Job) -> None:
        folder = RunFolder(self._runs / job.id)
        result = folder.result()
        assert result is not None, f"{folder.path} has no result to mirror"
        # The times of the training, not of its mirroring, in milliseconds.
        end = int(1000 * folder.finished_at())
        start = end - int(1000 * result.seconds)
        run, complete = self.store.run({JOB: job.id, PARENT: self.store.parent}, job.label, start)
        if complete:
            return
        rows = [row for row in self._plan.rows if row.job == job.id]
        # Of a teacher that is a baseline, too, what is said of the baseline.
        first = rows[-1:] if rows and rows[0].role == "teacher" else rows[:1]
        tags = self._tags("training", ", ".join(dict.fromkeys(row.role for row in rows)), first)
        tags |= {"mlflow.source.git.commit": result.machine.get("commit", "unknown")}
        tags |= {f"machine.{key}": value for key, value in result.machine.items()}
        if not isinstance(job.spec, LabelsJobSpec):
            tags["seed"] = str(job.spec.seed)
        if isinstance(job.spec, DetectorJobSpec):
            tags |= {"dataset": self._data.version, "split": job.spec.data.eval_split}
            splits = {"training": job.spec.data.train_split, "evaluation": job.spec.data.eval_split}
            self.store.inputs(run, self._data.version, job.spec.data.fingerprint, splits)
        self.store.describe(run, _params(job), tags)
        steps = [line for line in folder.steps() if line["step"] % HISTORY_EVERY == 0]
        self.store.history(run, [(int(line["step"]), _trained(line)) for line in steps])
        self.store.metrics(
            run, result.metrics | _set(result.weights) | {"parameters": result.parameters, "seconds": result.seconds}
        )
        for path in (folder.order, folder.summary, folder.log):
            if path.is_file():  # an image teacher has no boxes to summarise
                self.store.files(run, path)
        self.store.end(run, at=end)

    def _add_arm(self, line: Line) -> None:
        arm = line.key
        rows = [row for row in self._plan.rows if Key.of(row) == arm]
        seeds = f"{len(rows)} seed{'s' if len(rows) > 1 else ''}"
        name = " · ".join([arm.path or arm.model, arm.arm, *([f"on {arm.split}"] if arm.split else []), seeds])
        run, _ = self.store.run(
            {ARM: digest((arm.role, arm.model, arm.path, arm.arm, arm.split)), PARENT: self.store.parent}, name
        )
        params = {"arm": arm.arm} | self._choices[rows[0].job]
        tags = self._tags("arm", arm.role, rows[:1]) | {"split": arm.split or self._data.eval_split}
        self.store.describe(run, params, tags | {"dataset": self._data.version, "missing": line.missing})
        self.store.metrics(run, _numbers(line))
        if not line.missing:
            self.store.end(run)

    @cached_property
    def _choices(self) -> dict[str, dict[str, Any]]:
        """What each job's arm decides: weights, and of other fields of its losses and schedule those in which arms
        differ, for the page that compares them shows all that is logged."""
        jobs = {row.job: _params(self._plan.jobs[row.job]) for row in self._plan.rows}
        seen: dict[str, set[str]] = {}
        for params in jobs.values():
            for key, value in params.items():
                seen.setdefault(key, set()).add(str(value))
        shown = {
            key
            for key, values in seen.items()
            if key.startswith(_OF_ARMS) and (len(values) > 1 or key.endswith((".weight", ".weight.pull")))
        }
        return {job: {key: value for key, value in params.items() if key in shown} for job, params in jobs.items()}

    def _tags(self, kind: str, role: str, row: Sequence[Row]) -> dict[str, str]:
        tags = {"study": self._name, "kind": kind, "role": role}
        for first in row:
            student = first.model if first.role not in ("teacher", "image teacher") else ""
            tags |= {"model": first.model, "path": first.path, "arm": first.arm}
            tags |= {"teacher": first.path.partition("->")[0], "student": student}
        return tags


def _state(tables: Path, markdown: str, lines: Sequence[Line], failed: bool) -> str:
    """A hash of all that is mirrored of a study when it ends, and of the version that mirrors it."""
    content = hashlib.sha256(repr((version("crossbev"), markdown, list(lines), failed)).encode())
    for file in _files(tables):
        content.update(repr((str(file.relative_to(tables)), file.stat().st_size)).encode())
        content.update(file.read_bytes())
    return content.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _is_copied(file: Path, copy: Path) -> bool:
    return copy.is_file() and copy.stat().st_size == file.stat().st_size


def _trained(line: Mapping[str, float | int]) -> dict[str, float | int]:
    return {f"train/{key}": value for key, value in line.items() if key not in ("step", "batch")}


def _numbers(line: Line) -> dict[str, float]:
    """What is compared of a line: fractions and the devkit's units, as in a result; NaN where nothing is known."""
    numbers: dict[str, float] = {}
    for name, mean in line.means.items():
        scale = 1 if name in ERRORS else 100
        numbers |= {name: mean.value / scale, f"{name}_std": mean.std / scale}
    for metric, gain in line.gains.items():
        numbers |= {gain_column(metric, of): value / 100 for of, value in (("low", gain.low), ("high", gain.high))}
        numbers |= {gain_column(metric, of): value for of, value in (("p", gain.p), ("holm", gain.holm))}
    numbers |= _set({name: mean.value for name, mean in line.weights.items()})
    return numbers | {"seeds": float(line.seeds), "parameters": float(line.parameters)}


def _set(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights that have set themselves, as metrics: nobody chose them."""
    return {f"weight/{name}": weight for name, weight in weights.items()}


def _params(job: Job) -> dict[str, Any]:
    return dict(_flat(job.spec.model_dump(mode="json")))


def _flat(tree: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value
