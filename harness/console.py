"""Prints tables, sizes, ages and progress in the same way for all commands."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

LINE_EVERY_SECONDS = 10.0
PICTURE_EVERY_SECONDS = 1.0


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line without markup, colours of numbers or line breaks of its own."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def print_table(
    console: Console, header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1, wrap: bool = False
) -> None:
    """Make a table whose first columns are names, aligned left, and whose other columns are numbers, aligned right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number < names else "right", no_wrap=not wrap or number == 0)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # as it is: [a] is no markup
    print_whole(console, table, wrap)


def print_whole(console: Console, table: Table, wrap: bool = False) -> None:
    """Print a table without cutting cells; in a narrow terminal, cells may wrap between words."""
    # A cut number is worse than a wrapped line: the table takes the width it needs, whatever the terminal has.
    needed = Measurement.get(console, console.options.update(width=1000), table)
    width = max(needed.minimum if wrap else needed.maximum, console.width)
    Console(file=console.file, width=width, force_terminal=console.is_terminal).print(table)


def size_text(count: int) -> str:
    """Format a number of bytes: 812 B, 4.1 kB, 145 MB."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.1f} {unit}" if unit != "B" and size < 9.95 else f"{size:.0f} {unit}"


def age_text(seconds: float) -> str:
    """Format a duration in its largest unit: 40 s, 5 min, 3 h, 2 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


class Display:
    """A picture that changes in a terminal, and a line now and then anywhere else."""

    def __init__(self, console: Console, live: Live | None, line_every: float) -> None:
        self._console, self._live, self._line_every = console, live, line_every
        self._last_line, self._last_picture = time.monotonic(), 0.0

    def show(self, picture: Callable[[], RenderableType], line: Callable[[], str], last: bool = False) -> None:
        """Show the present state; as a line only where the latest is old enough, or this is the last one."""
        if self._live is not None:
            # To draw a table takes longer than to look how far a study is.
            if last or time.monotonic() - self._last_picture >= PICTURE_EVERY_SECONDS:
                self._last_picture = time.monotonic()
                self._live.update(picture(), refresh=True)
        elif last or time.monotonic() - self._last_line >= self._line_every:
            self._last_line = time.monotonic()
            self.say(line())

    def say(self, news: str) -> None:
        """Print a line where there is no picture to show the news."""
        if self._live is None:
            self._console.print(news, markup=False, soft_wrap=True)


@contextmanager
def open_display(console: Console, line_every: float = LINE_EVERY_SECONDS) -> Iterator[Display]:
    """A display for as long as the block lasts; `line_every` are the seconds between two lines, at least."""
    if console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            yield Display(console, live, line_every)
    else:
        yield Display(console, None, line_every)


@contextmanager
def count_progress(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar, or a line now and then; both with the time left.

    What it yields is to be called with the number of things done and of all of them; `what` names them, in plural.
    """
    bar = Progress(BarColumn(), MofNCompleteColumn(), TextColumn(f"{what}, left:"), TimeRemainingColumn())
    task = bar.add_task(what, total=None)
    began = time.monotonic()

    def line(done: int, total: int) -> str:
        left = timedelta(seconds=round((time.monotonic() - began) / done * (total - done)))
        return f"{done}/{total} {what}, {left} left"

    with open_display(console) as display:

        def count(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            display.show(lambda: bar, lambda: line(done, total), last=done == total)

        yield count
