"""StepLog: what the steps of a training say, held on the device until one transfer fetches that of several steps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.objective import ObjectiveOutput
from harness.runs.folder import RunFolder

FETCH_EVERY = 20
"""Steps between two fetches from a GPU. A CPU's values are there at once."""

NORM = "gradient_norm"
Line = dict[str, float | int]


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
        run: Whose log it is.
        every: Steps between two fetches.
    """

    def __init__(self, run: RunFolder, every: int) -> None:
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

    def add(self, step: int, known: Line, output: ObjectiveOutput, pull: Mapping[str, Tensor], norm: Tensor) -> None:
        """Take what a step says.

        Args:
            step: Its number.
            known: What the host knows anyway.
            output: Its terms.
            pull: Gradients of the terms, where they were measured.
            norm: Of the whole gradient.
        """
        named = {"loss": output.total}
        named |= {f"raw/{name}": value for name, value in output.raw.items()}
        named |= {f"weighted/{name}": value for name, value in output.weighted.items()}
        named |= {**pull, NORM: norm}
        dtype = output.total.dtype
        values = torch.stack([value.detach().to(dtype) for value in named.values()])
        self._waiting.append(_Step(step, known, tuple(named), values))

    def fetch(self) -> None:
        """Bring all that waits to the host, in one transfer.

        Raises:
            FloatingPointError: A term, or the gradient, of one of the steps is NaN or infinite; what came before it is
                written.
        """
        if not self._waiting:
            return
        values = torch.cat([each.values for each in self._waiting]).tolist()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            of_step, values = values[: len(each.names)], values[len(each.names) :]
            line = dict(zip(each.names, of_step, strict=True))
            try:
                _require_finite(each.step, line)
            except FloatingPointError:
                self._write()
                raise
            self._lines.append((each.step, _ordered(line, each.known)))

    def timed(self, seconds: float, cpu_seconds: float) -> None:
        """Say how long the latest step took, and write what is fetched.

        Steps that were fetched together share their time: the host ran ahead of the device in all but the last.
        """
        self._seconds.append((seconds, cpu_seconds))
        if not self._waiting:
            self._write()

    def flush(self) -> None:
        """Fetch and write all; raises what `fetch` raises."""
        self.fetch()
        self._write()

    def _write(self) -> None:
        count = min(len(self._lines), len(self._seconds))
        if not count:
            return
        seconds, cpu_seconds = (sum(each) / len(self._seconds) for each in zip(*self._seconds, strict=True))
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
    if not math.isfinite(values[NORM]):
        raise FloatingPointError(f"the gradient of step {step} is {values[NORM]}; all losses are finite")


def _ordered(values: Mapping[str, float], known: Line) -> Line:
    """A line of the log: the terms, each also as a share of the loss, then the gradients."""
    loss = values["loss"] or math.nan  # nothing has no shares
    is_term = {name: name == "loss" or name.startswith(("raw/", "weighted/")) for name in values}
    terms = {name: value for name, value in values.items() if is_term[name]}
    weighted = {name.removeprefix("weighted/"): value for name, value in terms.items() if name.startswith("weighted/")}
    shares = {f"share/{name}": value / loss for name, value in weighted.items()}
    gradients = {name: value for name, value in values.items() if not is_term[name]}
    norm = gradients.pop(NORM)
    return {"batch": known["batch"], **terms, **shares, **gradients, "lr": known["lr"], NORM: norm}
