"""python -m harness.data synthesize OUT: write the embedded synthetic dataset to a folder."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.errors import exit_2_on_input_error

LINE_EVERY_SECONDS = 10.0

console = Console()
app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def main() -> None:
    """Datasets in nuScenes format."""


@app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty folder, or one of an interrupted call.")],
    preset: Annotated[str, typer.Option(help="tiny (for studies) or smoke (for tests).")] = "tiny",
    seed: Annotated[int, typer.Option(help="Another seed is another world.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Scenes rendered at once; all cores if not given.")] = None,
) -> None:
    """Write the synthetic world of a seed as a nuScenes root, version v1.0-synthetic.

    The bytes depend on preset and seed alone. A dataset that is there already is left as it is.
    """
    # Rendering is imported here so that --help is instant.
    from harness.data import synthetic_tables

    with exit_2_on_input_error():
        with _progress() as show:
            synthetic_tables.synthesize(out, preset, seed, workers or os.cpu_count() or 1, show)
        console.print(f"{out} holds preset {preset}, seed {seed}", markup=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar in a terminal, a line now and then anywhere else; both with the time left."""
    if console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("scenes,"), TimeElapsedColumn(), TextColumn("left"))
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task("scenes", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _Lines()


class _Lines:
    """Says at most every few seconds how many scenes are done."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self._last < LINE_EVERY_SECONDS:
            return
        self._last = now
        left = timedelta(seconds=round((now - self._start) / done * (total - done)))
        console.print(f"{done}/{total} scenes, {left} left", markup=False, soft_wrap=True)


if __name__ == "__main__":
    app()
