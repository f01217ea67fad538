"""The root a study reads: the user's, or the embedded synthetic world, made in a cache folder on first use."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import platformdirs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from harness.data.root import NuScenesRoot
from harness.data.synthetic_tables import GENERATOR, MANIFEST, synthesize
from harness.study.spec import DataSpec

LINE_EVERY_SECONDS = 10.0


def open_root(data: DataSpec, console: Console) -> NuScenesRoot:
    """The dataset of a study; raises InputError where it or a split of it does not exist."""
    root = NuScenesRoot(data.root if data.root is not None else _embedded(data, console), data.version)
    for split in dict.fromkeys((data.train_split, data.eval_split)):
        root.check_split(split)
    return root


def _embedded(data: DataSpec, console: Console) -> Path:
    """The embedded dataset in the user's cache folder, made there where it is missing."""
    path = platformdirs.user_cache_path("crossbev") / f"synthetic-{data.preset}-{data.seed}-{GENERATOR}"
    if (path / MANIFEST).is_file():
        synthesize(path, data.preset, data.seed)  # only makes sure that it is this dataset
        return path
    console.print(f"making the embedded dataset in {path}", markup=False, highlight=False, soft_wrap=True)
    with scene_progress(console) as show:
        synthesize(path, data.preset, data.seed, os.cpu_count() or 1, show)
    return path


@contextmanager
def scene_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar in a terminal, a line now and then anywhere else; both with the time left.

    What it yields is to be called with the number of scenes done and of all scenes.
    """
    if console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("scenes, left:"), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("scenes", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _Lines(console)


class _Lines:
    """Says at most every few seconds how many scenes are done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Show this state."""
        now = time.monotonic()
        if done < total and now - self._last < LINE_EVERY_SECONDS:
            return
        self._last = now
        left = timedelta(seconds=round((now - self._start) / done * (total - done)))
        self._console.print(f"{done}/{total} scenes, {left} left", markup=False, soft_wrap=True)
