"""Writes a synthetic dataset to disk, completely or not at all, with the same bytes for any number of workers."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from filelock import Timeout

from harness.data.manifest import MANIFEST, MARKER
from harness.errors import InputError, unknown
from harness.runs.folder import atomic_write
from harness.runs.locks import FileLock
from harness.world.rows import Tables, extend
from harness.world.scene_files import write, writing

_FOLDERS = ("samples", "sweeps", "maps")
_LOCK = ".crossbev-synthetic.lock"

Job = TypeVar("Job")
Made = TypeVar("Made")
Progress = Callable[[int, int], None]
"""Called with the number of scenes done and of all scenes."""


def check_choice(preset: str, presets: Iterable[str], seed: int) -> None:
    """Raise InputError for an unknown preset or a negative seed."""
    if preset not in presets:
        raise InputError(unknown("preset", preset, presets))
    if seed < 0:
        raise InputError(f"seed {seed} is negative; a seed is 0 or more")


def make_root(
    out: Path, identity: dict[str, Any], fill: Callable[[], dict[str, Any]], waiting: Callable[[], None] = lambda: None
) -> None:
    """Fill a folder with a dataset, or return at once where the same one already is.

    What an interrupted call left is thrown away and made again.

    Args:
        out: A folder that is new, empty, or one of ours.
        identity: What tells this dataset from another; goes into its manifest.
        fill: Writes the files, into _FOLDERS and folders of versions; returns what the manifest says besides.
        waiting: Called where another process is making it, and this one waits until that has ended.

    Raises:
        InputError: For an `out` that is not ours, holds another dataset, or cannot be written. What was written until
            then is unfinished, as after an interruption.
    """
    with writing(out):
        if _is_complete(out, identity):
            return
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is not a folder")
        if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file() and not (out / _LOCK).is_file():
            raise InputError(f"{out} is not empty and contains no synthetic dataset; choose a new folder")
        out.mkdir(parents=True, exist_ok=True)
        (out / _LOCK).touch()
        try:
            held = FileLock(out / _LOCK).acquire(timeout=0)
        except Timeout:
            waiting()
            held = FileLock(out / _LOCK).acquire()
    with held:
        # Another process may have made it while this one waited.
        if not _is_complete(out, identity):
            _clear(out)
            with writing(out / MARKER):
                atomic_write(out / MARKER, json.dumps(identity, indent=1).encode())
            described = fill()
            with writing(out / MANIFEST):
                atomic_write(out / MANIFEST, json.dumps({**identity, **described}, indent=1).encode())


def _is_complete(out: Path, identity: dict[str, Any]) -> bool:
    """Whether the dataset is there; raises InputError where another one is."""
    if not (out / MANIFEST).is_file():
        return False
    if not (out / MARKER).is_file():
        raise InputError(f"{out} has a {MANIFEST} that this program did not write; choose a new folder")
    try:
        manifest = json.loads((out / MANIFEST).read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{out / MANIFEST} is damaged: {error}; delete {out} or choose a new folder") from error
    if not isinstance(manifest, dict):
        raise InputError(
            f"{out / MANIFEST} is damaged: it contains no JSON object; delete {out} or choose a new folder"
        )
    written = {key: manifest.get(key) for key in identity}
    if written != identity:
        raise InputError(f"{out} contains another dataset, {written}, not {identity}; choose a new folder or delete it")
    return True


def _clear(out: Path) -> None:
    """Delete what an unfinished call has left."""
    for torn in out.glob(".*.tmp"):
        with writing(torn):
            torn.unlink()
    for folder in (*_FOLDERS, *(version.name for version in out.glob("v1.0-synthetic*"))):
        if (out / folder).exists():
            with writing(out / folder):
                shutil.rmtree(out / folder)


def write_scenes(
    write_scene: Callable[[Job], tuple[Tables, dict[str, str]]],
    jobs: Sequence[Job],
    tables: Tables,
    workers: int,
    progress: Progress,
) -> dict[str, str]:
    """Have every scene write its files, and take its rows into the tables; returns the files' hashes."""
    hashes: dict[str, str] = {}
    for done, (rows, files) in enumerate(_each_scene(write_scene, jobs, workers), start=1):
        extend(tables, rows)
        hashes |= files
        progress(done, len(jobs))
    return hashes


def write_tables(out: Path, version: str, tables: Tables, splits: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Write the tables of a version, and what its splits consist of; returns the files' hashes."""
    contents = {f"{version}/{name}.json": content for name, content in {**tables, "splits": splits}.items()}
    return {
        path: write(out, path, json.dumps(content, separators=(",", ":")).encode())
        for path, content in contents.items()
    }


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the caller's script from processes that are spawned meanwhile: they would run it again, and wait for it."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _each_scene(write: Callable[[Job], Made], jobs: Sequence[Job], workers: int) -> Iterable[Made]:
    """Results in the order of the jobs, whoever finishes first."""
    if workers == 1:
        yield from map(write, jobs)
        return
    # Spawned, not forked: the caller may hold threads of torch or a progress display.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_serve_parent) as pool:
        try:
            with _without_main():
                made = pool.map(write, jobs)
            yield from made
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _serve_parent() -> None:
    """In a worker: the parent alone reacts to Ctrl-C, and nothing is written any more once the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
