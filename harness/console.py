"""What every command prints in one way: tables as wide as they need, sizes, ages, and progress with the time left."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

LINE_EVERY_SECONDS = 10.0


def print_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> None:
    """A table, names left and numbers right; so many columns are names."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number < names else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # as it is: [a] is no markup
    # A cut number is worse than a wrapped line: the table takes the width it needs, whatever the terminal has.
    width = Measurement.get(console, console.options.update(width=1000), table).maximum
    Console(file=console.file, width=max(width, console.width), force_terminal=console.is_terminal).print(table)


def size_text(count: int) -> str:
    """Bytes as people read them: 812 B, 4.1 kB, 145 MB."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.1f} {unit}" if unit != "B" and size < 9.95 else f"{size:.0f} {unit}"


def age_text(seconds: float) -> str:
    """A time that has passed, in its largest unit: 40 s, 5 min, 3 h, 2 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


@contextmanager
def count_progress(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar in a terminal, a line now and then anywhere else; both with the time left.

    What it yields is to be called with the number of things done and of all of them; `what` names them, in plural.
    """
    if console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn(f"{what}, left:"), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _Lines(console, what)


class _Lines:
    """Says at most every few seconds how many are done."""

    def __init__(self, console: Console, what: str) -> None:
        self._console = console
        self._what = what
        self._start = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Show this state."""
        now = time.monotonic()
        if done < total and now - self._last < LINE_EVERY_SECONDS:
            return
        self._last = now
        left = timedelta(seconds=round((now - self._start) / done * (total - done)))
        self._console.print(f"{done}/{total} {self._what}, {left} left", markup=False, soft_wrap=True)
