"""Run folders: layout, locks, atomic completion, and reading of results. A folder with a result is a finished job."""

import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from filelock import Timeout
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from harness.errors import InputError, first_mistake, input_error_on_os_error
from harness.runs.locks import FileLock, is_held

JOB_ID = "[0-9a-f]" * 16
"""Pattern of a job id, and so of the name of a run folder, for globs and regular expressions."""


_EXAMINED = re.compile(rf"analysis\.npz|latency\.json|alignment-{JOB_ID}\.json")
"""Files of the diagnostics (`harness.diagnose`), which can be computed again from the other files of a run."""
_T = TypeVar("_T")
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Damaged(InputError):
    """A file of a run folder is incomplete or has unexpected content."""

    def __init__(self, path: Path, why: str) -> None:
        remedy = f"delete its folder {path.parent}, and the next harness.run of its study trains it again"
        if _EXAMINED.fullmatch(path.name):
            remedy = "harness.report --examine computes it again"
        super().__init__(f"{path} is damaged ({why}); {remedy}")
        self.path = path


SKIPPED = "skipped updates"
"""In `Result.warnings`, in the place of a loss, the name of what is said of updates that were left out."""


@dataclass(frozen=True)
class Result:
    """The result of a finished job."""

    # What is read has to be of these fields and types, and nothing else.
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    metrics: dict[str, float]
    """mAP, NDS, the five errors and AP/CLASS, as fractions and the devkit's units; AP and AP50 of an image teacher."""
    parameters: Annotated[int, Field(ge=0)]
    """Parameters of the detector alone; adapters and teachers do not count."""
    seconds: _Seconds
    """Wall time of training and scoring, over all interruptions."""
    machine: dict[str, str]
    """Device kind, torch version, threads, peak memory, commit of the code; on how many GPUs, and in what parts."""
    cpu_seconds: _Seconds | None = None
    """Like `seconds`, but processor time of the job's own process, all its threads together."""
    warnings: dict[str, str] = field(default_factory=dict)
    """Warnings about the training, by the name of the loss, or SKIPPED."""
    began: dict[str, str] = field(default_factory=dict)
    """Hash of a trained detector's initial weights, and names of its first batches: equal for all arms of a seed."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weights that set themselves, ``weight: {pull: ...}``, by the name of the loss."""


@dataclass(frozen=True)
class _Failure:
    reason: str
    wrong_input: bool


@dataclass(frozen=True)
class Order:
    """The order of a job. Its specs are JSON, because they may be of another version of the code."""

    label: str
    spec: dict[str, Any]
    teacher_spec: dict[str, Any] | None = None


@dataclass(frozen=True)
class Contents:
    """The content of a run folder, as far as it can be read."""

    order: Order | None
    result: Result | None
    failure: str | None
    """Reason why the last attempt failed; None if it did not."""
    damaged: bool
    """Whether one of the files is incomplete or has unexpected content."""


def _json_as(kind: Any) -> Callable[[bytes], Any]:
    """Return the reader of a kind of JSON, made on first use so that --help stays fast."""
    adapter = cache(partial(TypeAdapter, kind))
    return lambda content: adapter().validate_json(content)


_as_result, _as_failure, _as_order = _json_as(Result), _json_as(_Failure), _json_as(Order)
_as_mapping = _json_as(dict[str, Any])


class Busy(Exception):
    """Another process owns the run folder."""


class RunFolder:
    """The folder of one job.

    ``job.json`` what to do, ``metrics.jsonl`` a line a step, ``state.pt`` where to go on, ``model.safetensors`` the
    trained detector, ``predictions.json`` and ``metrics_summary.json`` in nuScenes' formats, ``draws.npz`` the metrics
    in draws of scenes, ``labels`` what an image teacher sees, ``log.txt``, and, written last, ``result.json``.
    ``failure.json`` says why the last attempt ended without one. What ``harness.diagnose`` finds out, when it ends or
    later: ``analysis.npz`` its errors in draws of scenes, ``latency.json``, and ``alignment-JOB.json`` how like the
    detector of that job it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.order = path / "job.json"
        """File with the order of the job."""
        self.result_file = path / "result.json"
        """File with the result of the finished job."""
        self.failure_file = path / "failure.json"
        """File with the reason of the last failure."""
        self.step_log = path / "metrics.jsonl"
        """File with the metrics, one line per step."""
        self.summary = path / "metrics_summary.json"
        """File with the scores in the devkit's format."""
        self.lock = path / "lock"
        """Lock file of the process that owns the folder."""
        self.model = path / "model.safetensors"
        """File with the detector's weights."""
        self.labels = path / "labels"
        """Folder of an image teacher's pseudo labels."""
        self.state = path / "state.pt"
        """File with the state from which an interrupted training resumes."""
        self.log = path / "log.txt"
        """File with the output of the worker."""
        self.draws = path / "draws.npz"
        """File with the metrics in draws of scenes."""
        self.analysis = path / "analysis.npz"
        """File with the cost of errors, AP by class and AP by distance, in draws of scenes."""
        self.latency = path / "latency.json"
        """File with the latency."""
        self.predictions = path / "predictions.json"
        """File with the predicted boxes in nuScenes' result format."""

    def alignment(self, teacher: str) -> Path:
        """File with the similarity to the detector of another job."""
        return self.path / f"alignment-{teacher}.json"

    def result(self) -> Result | None:
        """Read the result; None if there is none yet. Raises Damaged if the file is not a result."""
        return self._read(self.result_file, _as_result)

    def finished_at(self) -> float:
        """Time of the result, in seconds since 1970."""
        return self.result_file.stat().st_mtime

    def complete(self, result: Result) -> None:
        """Write the result, which finishes the job, and delete the state for resuming."""
        self.write(self.result_file.name, asdict(result))
        self.state.unlink(missing_ok=True)
        self.failure_file.unlink(missing_ok=True)

    def fail(self, reason: str, wrong_input: bool) -> None:
        """Record why this attempt failed, and whether wrong input was the cause."""
        self.write(self.failure_file.name, {"reason": reason, "wrong_input": wrong_input})

    def failure(self) -> tuple[str, bool] | None:
        """Read the reason of the last failed attempt, and whether the input was wrong; raises Damaged."""
        failure = self._read(self.failure_file, _as_failure)
        return None if failure is None else (failure.reason, failure.wrong_input)

    def job(self) -> dict[str, Any]:
        """Read the order that `begin` wrote; raises Damaged if it is not a mapping."""
        content = self._read(self.order, _as_mapping)
        if content is None:
            raise InputError(f"{self.order} is missing; only harness.run makes run folders")
        return content

    def label(self) -> str:
        """Return the label of the job; empty if this is not a run folder."""
        try:
            return str(self.job().get("label", ""))
        except InputError:
            return ""

    def peek(self) -> Contents:
        """Read the files as far as possible; unlike `result` and the others, this never raises Damaged."""
        damaged = False

        def read(path: Path, parse: Callable[[bytes], _T]) -> _T | None:
            nonlocal damaged
            try:
                return self._read(path, parse)
            except Damaged:
                damaged = True
                return None

        order, result = read(self.order, _as_order), read(self.result_file, _as_result)
        failure = read(self.failure_file, _as_failure)
        return Contents(order, result, failure.reason if failure else None, damaged)

    def begin(self, order: dict[str, Any]) -> None:
        """Write the order, and delete the reason of an earlier failure."""
        self.write(self.order.name, order)
        self.failure_file.unlink(missing_ok=True)

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file of this folder as a whole."""
        self.path.mkdir(parents=True, exist_ok=True)
        atomic_write(self.path / name, json.dumps(content, indent=1).encode())

    def log_step(self, step: int, values: Mapping[str, float | int]) -> None:
        """Append the metrics of a step."""
        with self.step_log.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def steps(self) -> list[dict[str, float | int]]:
        """Read all metrics so far, without a line that is still being written. Raises Damaged."""
        text = self.step_log.read_bytes() if self.step_log.is_file() else b""
        lines = [line for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
        with suppress(msgspec.MsgspecError):
            steps = _ALL_NUMBERS.decode(b"[" + b",".join(lines) + b"]")
            if len(steps) == len(lines) and all(type(step.get("step")) is int for step in steps):
                return steps
        # Something is wrong with one of them, or it has what is no JSON.
        return [self._step(line, number) for number, line in enumerate(lines, start=1)]

    def last_step(self) -> dict[str, float | int] | None:
        """Read the latest metrics from the end of the file. Raises Damaged."""
        path = self.step_log
        if not path.is_file():
            return None
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().split(b"\n")
        # The first may be cut by the seek, the last is still being written.
        ended = len(lines) > 2 or (len(lines) == 2 and path.stat().st_size <= 4096)
        return self._step(lines[-2]) if ended else None

    def rewind(self, step: int) -> None:
        """Delete the metrics of `step` and later, which a resumed training writes again."""
        earlier = [json.dumps(line) + "\n" for line in self.steps() if line["step"] < step]
        atomic_write(self.step_log, "".join(earlier).encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the folder. The ownership ends with the process in any case.

        Raises:
            Busy: Another process owns it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            held = FileLock(self.lock).acquire(timeout=0)
        except Timeout as error:
            raise Busy(f"run folder {self.path} is in use by another process") from error
        with held:
            yield

    def in_use(self) -> bool:
        """Whether a process owns the folder. The check changes nothing in it."""
        try:
            return self.lock.is_file() and is_held(self.lock)
        except PermissionError:
            return False  # another user's folder: who may not write there cannot ask

    def _step(self, line: bytes, number: int | None = None) -> dict[str, float | int]:
        # Not by pydantic: a study reads some hundred thousand of them.
        content: dict[str, float | int]
        try:
            content = _NUMBERS.decode(line)
        except msgspec.MsgspecError:
            try:  # with NaN and infinities, which JSON does not know and Python's writes
                content = msgspec.convert(json.loads(line), dict[str, int | float])
            except (ValueError, msgspec.MsgspecError) as error:
                where = "its last line" if number is None else f"line {number}"
                raise Damaged(self.step_log, f"{where} is not a mapping of names to numbers") from error
        if type(content.get("step")) is not int:
            raise Damaged(self.step_log, f"line {number or 'at its end'} has no number of a step")
        return content

    def _read(self, path: Path, parse: Callable[[bytes], _T]) -> _T | None:
        """Read a JSON file; None if it does not exist. Raises Damaged if its content is unexpected."""
        try:
            return parse(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Damaged(path, str(error.strerror)) from error
        except ValidationError as error:
            raise Damaged(path, first_mistake(error)) from error


_NUMBERS = msgspec.json.Decoder(dict[str, int | float])
_ALL_NUMBERS = msgspec.json.Decoder(list[dict[str, int | float]])


def run_folders(runs: Path) -> list[RunFolder]:
    """Return the run folders by job id, without other files."""
    return [RunFolder(path) for path in sorted(runs.glob(JOB_ID)) if path.is_dir() and not path.is_symlink()]


def find_run(runs: Path, start: str) -> RunFolder:
    """Return the run whose id begins so; raise InputError if there is not exactly one."""
    folders = run_folders(runs)
    matching = [folder for folder in folders if folder.path.name.startswith(start)]
    if len(matching) == 1:
        return matching[0]
    shown = ", ".join(folder.path.name for folder in (matching or folders)[:5]) or "none"
    if matching:
        raise InputError(f"the ids of {len(matching)} runs in {runs} begin with {start!r}: {shown}; give more digits")
    raise InputError(f"{runs} contains no run whose id begins with {start!r}; the first of its {len(folders)}: {shown}")


def make_folder(folder: Path) -> None:
    """Create a folder before a training needs it; raise InputError if that is impossible."""
    with input_error_on_os_error(f"folder {folder} cannot be made"):
        folder.mkdir(parents=True, exist_ok=True)


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old or the new content, never a part."""
    # Threads of a search may write the same file at once.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
