"""Run folders: layout, locks, atomic completion, reading results. A folder with a result is a finished job, always."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from filelock import Timeout
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from harness.errors import InputError
from harness.runs.locks import FileLock

JOB_ID = "[0-9a-f]" * 16
"""What a job's id, and so a run folder, is called: a pattern for globs and regular expressions alike."""


_T = TypeVar("_T")
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Damaged(InputError):
    """A file of a run folder is torn, or says something else than such a file does."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path} is damaged ({why}); delete its folder {path.parent}, and the next harness.run of its study trains "
            "it again"
        )
        self.path = path


@dataclass(frozen=True)
class Result:
    """What a finished job knows about itself."""

    # What is read has to be of these fields and types, and nothing else.
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    metrics: dict[str, float]
    """mAP, NDS, the five errors and AP/CLASS, as fractions and the devkit's units; AP and AP50 of an image teacher."""
    parameters: Annotated[int, Field(ge=0)]
    """Of the detector alone; adapters and teachers do not count."""
    seconds: _Seconds
    """Training and scoring, over all its interruptions."""
    machine: dict[str, str]
    """Device kind, torch version, threads, peak memory, commit of the code."""
    cpu_seconds: _Seconds | None = None
    """Like `seconds`, but processor time of the job's own process, all its threads together."""
    warnings: dict[str, str] = field(default_factory=dict)
    """What is doubtful about the training, by the name of the loss."""
    began: dict[str, str] = field(default_factory=dict)
    """Hash of a trained detector's initial weights, and names of its first batches: equal for all arms of a seed."""


@dataclass(frozen=True)
class _Failure:
    reason: str
    wrong_input: bool


_as_result = TypeAdapter(Result).validate_json
_as_failure = TypeAdapter(_Failure).validate_json
_as_mapping = TypeAdapter(dict[str, Any]).validate_json


class Busy(Exception):
    """Another process owns the run folder."""


class RunFolder:
    """The folder of one job.

    ``job.json`` what to do, ``metrics.jsonl`` a line a step, ``state.pt`` where to go on, ``model.safetensors`` the
    trained detector, ``predictions.json`` and ``metrics_summary.json`` in nuScenes' formats, ``draws.npz`` the metrics
    in draws of scenes, ``labels`` what an image teacher sees, ``log.txt``, and, written last, ``result.json``.
    ``failure.json`` says why the last attempt ended without one. What ``harness.diagnose`` finds out, when it ends or
    later: ``history.npz`` its log in short, ``analysis.npz`` its errors in draws of scenes, ``latency.json``, and
    ``alignment-JOB.json`` how like the detector of that job it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def model(self) -> Path:
        """The detector's weights."""
        return self.path / "model.safetensors"

    @property
    def labels(self) -> Path:
        """Folder of an image teacher's pseudo labels."""
        return self.path / "labels"

    @property
    def state(self) -> Path:
        """What an interrupted training continues from."""
        return self.path / "state.pt"

    @property
    def log(self) -> Path:
        """What the worker printed."""
        return self.path / "log.txt"

    @property
    def draws(self) -> Path:
        """Its metrics in draws of scenes."""
        return self.path / "draws.npz"

    @property
    def history(self) -> Path:
        """Its training in a few parts."""
        return self.path / "history.npz"

    @property
    def analysis(self) -> Path:
        """What its errors cost and AP by class and distance, in draws of scenes."""
        return self.path / "analysis.npz"

    @property
    def latency(self) -> Path:
        """How long it takes a sample."""
        return self.path / "latency.json"

    @property
    def predictions(self) -> Path:
        """Its boxes as a nuScenes result file."""
        return self.path / "predictions.json"

    def alignment(self, teacher: str) -> Path:
        """How like the detector of another job it is."""
        return self.path / f"alignment-{teacher}.json"

    def result(self) -> Result | None:
        """The result, or None while there is none; raises Damaged for a file that is no result."""
        return self._whole("result.json", _as_result)

    def finished_at(self) -> float:
        """When the result was written, in seconds since 1970."""
        return (self.path / "result.json").stat().st_mtime

    def complete(self, result: Result) -> None:
        """Write the result, which makes the job a finished one, and drop what only a resume would need."""
        self.write("result.json", asdict(result))
        self.state.unlink(missing_ok=True)
        self.clear_failure()

    def fail(self, reason: str, wrong_input: bool) -> None:
        """Say why this attempt ended; `wrong_input` where the user has to mend something."""
        self.write("failure.json", {"reason": reason, "wrong_input": wrong_input})

    def clear_failure(self) -> None:
        """Forget the failure of an earlier attempt."""
        (self.path / "failure.json").unlink(missing_ok=True)

    def failure(self) -> tuple[str, bool] | None:
        """Reason of the last failed attempt, and whether the input was wrong; raises Damaged."""
        found = self._whole("failure.json", _as_failure)
        return None if found is None else (found.reason, found.wrong_input)

    def job(self) -> dict[str, Any]:
        """What `write("job.json", ...)` left; raises Damaged where that is no mapping."""
        content = self._whole("job.json", _as_mapping)
        if content is None:
            raise InputError(f"{self.path / 'job.json'} is missing; a run folder is made by harness.run")
        return content

    def label(self) -> str:
        """What its job is called; empty where this is no run folder."""
        try:
            content = json.loads((self.path / "job.json").read_bytes())
        except (OSError, ValueError):
            return ""
        return str(content.get("label", "")) if isinstance(content, dict) else ""

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file of this folder so that it is either whole or not there."""
        self.path.mkdir(parents=True, exist_ok=True)
        atomic_write(self.path / name, json.dumps(content, indent=1).encode())

    def log_step(self, step: int, values: Mapping[str, float | int]) -> None:
        """Append the metrics of a step."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def steps(self) -> list[dict[str, float | int]]:
        """All metrics so far; a line that is still being written is left out. Raises Damaged."""
        path = self.path / "metrics.jsonl"
        text = path.read_bytes() if path.is_file() else b""
        lines = [line for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
        return [self._step(line, number) for number, line in enumerate(lines, start=1)]

    def last_step(self) -> dict[str, float | int] | None:
        """The newest metrics, read from the end of the file. Raises Damaged."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return None
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().split(b"\n")
        # The first may be cut by the seek, the last is still being written.
        whole = len(lines) > 2 or (len(lines) == 2 and path.stat().st_size <= 4096)
        return self._step(lines[-2]) if whole else None

    def rewind(self, step: int) -> None:
        """Drop the metrics of `step` and later: a resumed training writes them again."""
        kept = [json.dumps(line) + "\n" for line in self.steps() if line["step"] < step]
        atomic_write(self.path / "metrics.jsonl", "".join(kept).encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the folder; the kernel ends the ownership with the process, however that ends.

        Raises:
            Busy: Another process owns it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise Busy(f"run folder {self.path} is in use by another process") from error
        try:
            yield
        finally:
            lock.release()

    def in_use(self) -> bool:
        """Whether a process owns the folder; asking leaves no trace in it."""
        path = self.path / "lock"
        if not path.is_file():
            return False
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except PermissionError:
            return False  # another user's folder: who may not write there cannot ask
        lock.release()
        return False

    def _step(self, line: bytes, number: int | None = None) -> dict[str, float | int]:
        # Not by pydantic: a study reads some hundred thousand of them.
        content: dict[str, float | int] | None
        try:
            content = _NUMBERS.decode(line)
        except msgspec.MsgspecError:
            content = _with_nan(line)
        if content is None:
            where = "its last line" if number is None else f"line {number}"
            raise Damaged(self.path / "metrics.jsonl", f"{where} is no mapping of names to numbers")
        if type(content.get("step")) is not int:
            raise Damaged(self.path / "metrics.jsonl", f"line {number or 'at its end'} has no number of a step")
        return content

    def _whole(self, name: str, read: Callable[[bytes], _T]) -> _T | None:
        """What a JSON file says, or None where there is none; raises Damaged where it says anything else."""
        path = self.path / name
        try:
            return read(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Damaged(path, str(error.strerror)) from error
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"]))
            raise Damaged(path, f"{at}: {first['msg']}" if at else first["msg"]) from error


_NUMBERS = msgspec.json.Decoder(dict[str, int | float])


def _with_nan(line: bytes) -> dict[str, float | int] | None:
    """What JSON does not know and Python's writes: NaN and infinities; None where it is no mapping to numbers."""
    try:
        content = json.loads(line)
    except ValueError:  # of another encoding, too
        return None
    whole = isinstance(content, dict) and {int, float}.issuperset(map(type, content.values()))
    return content if whole else None


def run_folders(runs: Path) -> list[RunFolder]:
    """Those of jobs, by id; nothing else that lies there."""
    return [RunFolder(path) for path in sorted(runs.glob(JOB_ID)) if path.is_dir() and not path.is_symlink()]


def find_run(runs: Path, start: str) -> RunFolder:
    """The run whose id begins so, or InputError."""
    folders = run_folders(runs)
    found = [folder for folder in folders if folder.path.name.startswith(start)]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(folder.path.name for folder in (found or folders)[:5]) or "none"
    if found:
        raise InputError(f"{len(found)} runs in {runs} begin with {start!r}: {shown}; give more of the id")
    raise InputError(f"{runs} holds no run whose id begins with {start!r}; the first of its {len(folders)}: {shown}")


def make_folder(folder: Path) -> None:
    """The folder, before hours of training find out that it cannot be; raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be made: {error.strerror}") from error


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
