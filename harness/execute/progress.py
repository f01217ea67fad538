"""What a person sees while a study runs: a live table in a terminal, plain lines anywhere else."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.live import Live
from rich.table import Table

from harness.execute.executor import JobState

LINE_EVERY_SECONDS = 30.0


class Progress:
    """Shows the states that the executor reports."""

    def __init__(self, console: Console, workers: int, live: Live | None) -> None:
        self._console, self._workers, self._live = console, workers, live
        self._shown: dict[str, str] = {}
        self._last_line = time.monotonic()

    def __call__(self, states: dict[str, JobState]) -> None:
        """Show these states."""
        if self._live is not None:
            self._live.update(self._table(states))
            return
        # What was done or waiting before is no news.
        self._shown = self._shown or {id_: "done" if s.status == "done" else "waiting" for id_, s in states.items()}
        for id_, state in states.items():
            if state.status != self._shown[id_]:
                reason = f": {state.reason}" if state.reason else ""
                self._console.print(f"{state.job.label} [{id_}] {state.status}{reason}", markup=False, soft_wrap=True)
            self._shown[id_] = state.status
        if time.monotonic() - self._last_line > LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            running = [f"{s.job.label} {_steps(s)}" for s in states.values() if s.status == "running"]
            self._console.print(f"{'; '.join(running)}; {_eta(states, self._workers)}", markup=False, soft_wrap=True)

    def _table(self, states: dict[str, JobState]) -> Table:
        table = Table(title=_eta(states, self._workers), title_justify="left")
        for column in ("job", "id", "status", "step", "loss", "left"):
            table.add_column(column)
        for id_, state in states.items():
            loss = "" if state.loss is None else f"{state.loss:.3f}"
            left = "" if state.status != "running" else _time(state.seconds_left)
            table.add_row(state.job.label, id_, state.status, _steps(state), loss, left)
        return table


@contextmanager
def progress(console: Console, workers: int) -> Iterator[Progress]:
    """A display for the time of a study."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            yield Progress(console, workers, live)
    else:
        yield Progress(console, workers, None)


def _steps(state: JobState) -> str:
    steps = state.job.spec.steps
    if not steps or state.status in ("waiting", "failed"):
        return ""
    return f"{steps if state.status == 'done' else state.step}/{steps}"


def _eta(states: dict[str, JobState], workers: int) -> str:
    """Done of all, and the time left if what waits takes as long as what runs."""
    left = [s.seconds_left for s in states.values() if s.status == "running"]
    done = sum(s.status == "done" for s in states.values())
    text = f"{done} of {len(states)} jobs done"
    trainings = [
        s.seconds_left * s.job.spec.steps / max(s.job.spec.steps - s.step, 1)
        for s in states.values()
        if s.status == "running" and s.seconds_left is not None and s.job.spec.steps
    ]
    known = [seconds for seconds in left if seconds is not None]
    if not trainings:
        return text
    waiting = sum(s.status == "waiting" for s in states.values()) * sum(trainings) / len(trainings)
    return f"{text}, about {_time(max(max(known), (sum(known) + waiting) / workers))} left"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))
