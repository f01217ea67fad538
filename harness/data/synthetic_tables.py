"""The synthetic world written as a nuScenes root: sensor files, the thirteen tables, custom splits and a manifest."""

import io
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from PIL import Image

from harness.data.synthetic_files import write, write_scene, writing
from harness.data.synthetic_mounts import CHANNELS, Sweeps
from harness.data.synthetic_rows import MAP, SPLITS, SceneJob, Tables, shared_tables
from harness.data.synthetic_street import MAP_METRES
from harness.errors import InputError, unknown
from harness.store import atomic_write

GENERATOR = 4
"""Raised whenever the bytes of a dataset change for the same preset and seed."""
VERSION = "v1.0-synthetic"
MARKER = ".crossbev-synthetic.json"
"""Written first: tells an unfinished dataset of ours from a stranger's folder."""
MANIFEST = "manifest.json"
"""Written last: a dataset without it is unfinished."""

_FOLDERS = ("samples", "sweeps", "maps", VERSION)
_LOCK = ".crossbev-synthetic.lock"


@dataclass(frozen=True)
class Preset:
    """How many scenes each split has, how many keyframes a scene, and how many sweeps lie between those."""

    train: int
    tune: int
    val: int
    keyframes: int
    sweeps: Sweeps

    @property
    def scenes(self) -> list[tuple[int, int]]:
        """Split and index in it, of every scene."""
        return [(split, index) for split, n in enumerate((self.train, self.tune, self.val)) for index in range(n)]


SWEEPS = Sweeps(lidar=1, radar=2)
FEWER_SWEEPS = Sweeps(lidar=1, radar=1)
"""Keyframes come at 2 Hz, so that LiDAR scans come at 4 Hz and RADAR sweeps at 6 Hz."""
PRESETS = {
    "tiny": Preset(train=230, tune=30, val=54, keyframes=2, sweeps=FEWER_SWEEPS),
    "small": Preset(train=420, tune=60, val=110, keyframes=10, sweeps=SWEEPS),
    "smoke": Preset(train=2, tune=1, val=1, keyframes=3, sweeps=SWEEPS),
}


def synthesize(
    out: Path,
    preset: str,
    seed: int,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a dataset, or return at once where the same one already is.

    What an interrupted call left is thrown away and made again. Equal arguments give equal bytes, for any `workers`.

    Args:
        out: A folder that is new, empty, or one of ours.
        preset: A key of `PRESETS`.
        seed: Not negative.
        workers: Processes to render scenes in; with 1, all is done in this one.
        progress: Called with the number of scenes done and of all scenes.

    Raises:
        InputError: For an unknown preset, a negative seed, an `out` that is not ours, holds another dataset, or
            cannot be written. What was written until then is unfinished, as after an interruption.
    """
    if preset not in PRESETS:
        raise InputError(unknown("preset", preset, PRESETS))
    if seed < 0:
        raise InputError(f"seed {seed} is negative; a seed is 0 or more")
    identity = {"preset": preset, "seed": seed, "generator": GENERATOR, "scenes": asdict(PRESETS[preset])}
    with writing(out):
        if _is_complete(out, identity):
            return
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is not a folder")
        if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file() and not (out / _LOCK).is_file():
            raise InputError(f"{out} is not empty and holds no synthetic dataset; name a new folder")
        out.mkdir(parents=True, exist_ok=True)
        (out / _LOCK).touch()
        held = FileLock(out / _LOCK).acquire()
    with held:
        # Another process may have made it while this one waited.
        if not _is_complete(out, identity):
            _clear(out)
            with writing(out / MARKER):
                atomic_write(out / MARKER, json.dumps(identity, indent=1).encode())
            _generate(out, preset, seed, workers, progress or (lambda done, total: None), identity)


def _is_complete(out: Path, identity: dict[str, Any]) -> bool:
    """Whether the dataset is there; raises InputError where another one is."""
    if not (out / MANIFEST).is_file():
        return False
    if not (out / MARKER).is_file():
        raise InputError(f"{out} has a {MANIFEST}, but it was not written by this program; name a new folder")
    try:
        manifest = json.loads((out / MANIFEST).read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{out / MANIFEST} is damaged: {error}; delete {out} or name a new folder") from error
    if not isinstance(manifest, dict):
        raise InputError(f"{out / MANIFEST} is damaged: it holds no JSON object; delete {out} or name a new folder")
    found = {key: manifest.get(key) for key in identity}
    if found != identity:
        raise InputError(f"{out} holds another dataset, {found}, not {identity}; name a new folder or delete it")
    return True


def _clear(out: Path) -> None:
    """Delete what an unfinished call has left."""
    for torn in out.glob(".*.tmp"):
        with writing(torn):
            torn.unlink()
    for folder in _FOLDERS:
        if (out / folder).exists():
            with writing(out / folder):
                shutil.rmtree(out / folder)


def _generate(
    out: Path, preset: str, seed: int, workers: int, progress: Callable[[int, int], None], identity: dict[str, Any]
) -> None:
    scenes = PRESETS[preset].scenes
    keyframes, sweeps = PRESETS[preset].keyframes, PRESETS[preset].sweeps
    with writing(out):
        for channel in CHANNELS:
            (out / "samples" / channel).mkdir(parents=True)
            if sweeps.between(channel):
                (out / "sweeps" / channel).mkdir(parents=True)
        (out / "maps").mkdir()
        (out / VERSION).mkdir()
    jobs = [SceneJob(out, preset, seed, split, index, keyframes, sweeps) for split, index in scenes]
    tables = shared_tables(preset, seed)
    hashes: dict[str, str] = {}
    for done, (rows, files) in enumerate(_each_scene(jobs, workers), start=1):
        for table, of_scene in rows.items():
            tables.setdefault(table, []).extend(of_scene)
        hashes |= files
        progress(done, len(jobs))
    tables["map"][0]["log_tokens"] = [log["token"] for log in tables["log"]]
    picture = io.BytesIO()
    # At nuScenes' 0.1 m a pixel; all of it may be driven on.
    Image.new("L", (10 * MAP_METRES, 10 * MAP_METRES), 255).save(picture, "png")
    hashes[MAP] = write(out, MAP, picture.getvalue())
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    for job in jobs:
        names[SPLITS[job.split]].append(job.name)
    for table, content in (*tables.items(), ("splits", names)):
        path = f"{VERSION}/{table}.json"
        hashes[path] = write(out, path, json.dumps(content, separators=(",", ":")).encode())
    manifest = {
        **identity,
        "note": "Synthetic scenes. Class frequencies are flattened: rare classes are as common as cars. LiDAR returns "
        "nearer than 22 m are thinned with the square of the range.",
        "frames": "nuScenes v1.0 conventions; every sensor fires at an instant, each at its own time.",
        "sha256": dict(sorted(hashes.items())),
    }
    with writing(out / MANIFEST):
        atomic_write(out / MANIFEST, json.dumps(manifest, indent=1).encode())


def _each_scene(jobs: list[SceneJob], workers: int) -> Iterable[tuple[Tables, dict[str, str]]]:
    """Results in the order of the jobs, whoever finishes first."""
    if workers == 1:
        yield from map(write_scene, jobs)
        return
    # Spawned, not forked: the caller may hold threads of torch or a progress display.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_serve_parent) as pool:
        try:
            yield from pool.map(write_scene, jobs)
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
