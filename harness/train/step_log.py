"""StepLog: what the steps of a training say, held on the device until one transfer fetches that of several steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.runs.folder import RunFolder

FETCH_EVERY = 20
"""Steps between two fetches from a GPU. A CPU's values are there at once."""

NORM = "gradient_norm"
Line = dict[str, float | int]


@dataclass(frozen=True)
class Broken:
    """A step whose gradient is not finite, though its losses are."""

    step: int
    norm: float
    """Of the gradient."""


@dataclass(frozen=True)
class _Step:
    """What a step says before it is fetched."""

    step: int
    known: Line
    """What the host knows anyway."""
    names: tuple[str, ...]
    """Of the device's values."""
    values: Tensor


class StepLog:
    """The lines of a run's log, on their way from the device to the file.

    Args:
        run: Whose log it is; None where another process writes it.
        every: Steps between two fetches.
    """

    def __init__(self, run: RunFolder | None, every: int) -> None:
        self._run, self._every = run, every
        self._waiting: list[_Step] = []
        self._lines: list[tuple[int, Line]] = []
        self._seconds: list[tuple[float, float]] = []

    @property
    def fetches_each(self) -> bool:
        """Whether each step is fetched before its weights are updated."""
        return self._every == 1

    @property
    def is_full(self) -> bool:
        """Whether it is time to fetch."""
        return len(self._waiting) >= self._every

    def add(
        self, step: int, known: Line, names: Sequence[str], values: Tensor, pull: Mapping[str, Tensor], norm: Tensor
    ) -> None:
        """Take what a step says.

        Args:
            step: Its number.
            known: What the host knows anyway.
            names: The loss and its terms, as a log names them.
            values: Theirs.
            pull: Gradients of the terms, where they were measured.
            norm: Of the whole gradient.
        """
        more = {**pull, NORM: norm}
        measured = torch.stack([value.detach().to(values.dtype) for value in more.values()])
        self._waiting.append(_Step(step, known, (*names, *more), torch.cat([values, measured])))

    def fetch(self) -> list[Broken]:
        """Bring all that waits to the host, in one transfer; the steps among it whose gradient is not finite.

        Raises:
            FloatingPointError: A term of one of the steps is NaN or infinite; what came before it is written.
        """
        if not self._waiting:
            return []
        values = torch.cat([each.values for each in self._waiting]).tolist()
        waiting, self._waiting = self._waiting, []
        broken = []
        for each in waiting:
            of_step, values = values[: len(each.names)], values[len(each.names) :]
            line = dict(zip(each.names, of_step, strict=True))
            try:
                _require_finite(each.step, line)
            except FloatingPointError:
                self.write()
                raise
            if not math.isfinite(line[NORM]):
                broken.append(Broken(each.step, line[NORM]))
            self._lines.append((each.step, _ordered(line, each.known)))
        return broken

    def timed(self, seconds: float, cpu_seconds: float) -> None:
        """Say how long the latest step took, and write what is fetched.

        Steps that were fetched together share their time: the host ran ahead of the device in all but the last.
        """
        self._seconds.append((seconds, cpu_seconds))
        if not self._waiting:
            self.write()

    def write(self) -> None:
        """Write all that is fetched and timed."""
        count = min(len(self._lines), len(self._seconds))
        if not count:
            return
        seconds, cpu_seconds = (sum(each) / len(self._seconds) for each in zip(*self._seconds, strict=True))
        if self._run is not None:
            for step, line in self._lines[:count]:
                self._run.log_step(step, {**line, "seconds": seconds, "cpu_seconds": cpu_seconds})
        self._lines, self._seconds = self._lines[count:], []


def not_finite(norm: Tensor) -> Tensor:
    """1 where an optimizer must not take a step with a gradient of this norm, and 0 else; on the gradient's device."""
    return (~norm.isfinite()).to(norm.dtype)


def _require_finite(step: int, values: Mapping[str, float]) -> None:
    broken = {name: value for name, value in values.items() if name.startswith("raw/") and not math.isfinite(value)}
    if broken:
        terms = ", ".join(f"loss {name.removeprefix('raw/')!r} is {value}" for name, value in broken.items())
        raise FloatingPointError(f"{terms} in step {step}")


def _ordered(values: Mapping[str, float], known: Line) -> Line:
    """A line of the log: the terms, each also as a share of the loss, the gradients, and whether it was skipped."""
    loss = values["loss"] or math.nan  # nothing has no shares
    is_term = {name: name == "loss" or name.startswith(("raw/", "weighted/")) for name in values}
    terms = {name: value for name, value in values.items() if is_term[name]}
    weighted = {name.removeprefix("weighted/"): value for name, value in terms.items() if name.startswith("weighted/")}
    shares = {f"share/{name}": value / loss for name, value in weighted.items()}
    gradients = {name: value for name, value in values.items() if not is_term[name]}
    norm = gradients.pop(NORM)
    last: Line = {NORM: norm} if math.isfinite(norm) else {NORM: 0.0, "skipped": 1}
    return {"batch": known["batch"], **terms, **shares, **gradients, "lr": known["lr"], **last}
