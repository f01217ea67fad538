"""Shows the progress of a study: a live table in a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from harness.console import Display, open_display
from harness.execute.forecast import time_left
from harness.execute.state import JobState


class Progress:
    """Shows the states that the executor reports."""

    def __init__(self, display: Display, workers: int) -> None:
        self._display, self._workers = display, workers
        self._shown: dict[str, str] = {}

    def __call__(self, states: dict[str, JobState]) -> None:
        """Show these states."""
        # What was done or waiting before is no news.
        self._shown = self._shown or {id_: "done" if s.status == "done" else "waiting" for id_, s in states.items()}
        for id_, state in states.items():
            if state.status != self._shown[id_]:
                reason = f": {state.reason}" if state.reason else ""
                self._display.say(f"{state.job.label} [{id_}] {state.status}{reason}")
            self._shown[id_] = state.status
        self._display.show(lambda: self._table(states), lambda: self._line(states))

    def _line(self, states: dict[str, JobState]) -> str:
        running = [f"{s.job.label} {_steps(s)}" for s in states.values() if s.status == "running"]
        return f"{'; '.join(running)}; {_eta(states, self._workers)}"

    def _table(self, states: dict[str, JobState]) -> Table:
        columns = ("job", "id", "status", "step", "loss", "left")
        table = Table(*columns, title=_eta(states, self._workers), title_justify="left")
        for id_, state in states.items():
            loss = "" if state.loss is None else f"{state.loss:.3f}"
            left = "" if state.status != "running" else _time(state.seconds_left)
            table.add_row(state.job.label, id_, state.status, _steps(state), loss, left)
        return table


@contextmanager
def progress(console: Console, workers: int) -> Iterator[Progress]:
    """A display for the time of a study."""
    with open_display(console, line_every=30.0) as display:
        yield Progress(display, workers)


def _steps(state: JobState) -> str:
    steps = state.job.spec.steps
    if not steps or state.status in ("waiting", "failed"):
        return ""
    return f"{steps if state.status == 'done' else state.step}/{steps}"


def _eta(states: dict[str, JobState], workers: int) -> str:
    """Return how many of the jobs are done, and the time left."""
    text = f"{sum(s.status == 'done' for s in states.values())} of {len(states)} jobs done"
    left = time_left(states, workers, time.monotonic())
    return text if left is None else f"{text}, about {_time(left)} left"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))
