"""The synthetic world written as a nuScenes root: sensor files, the thirteen tables, custom splits and a manifest."""

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from harness.world.dataset import Progress, check_choice, make_root, write_scenes, write_tables
from harness.world.mounts import Sweeps
from harness.world.rows import MAP, SPLITS, SceneJob, shared_tables
from harness.world.scene_files import write, write_scene
from harness.world.street import MAP_METRES

GENERATOR = 4
"""Raised whenever the bytes of a dataset change for the same preset and seed."""
VERSION = "v1.0-synthetic"


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
    progress: Progress = lambda done, total: None,
    waiting: Callable[[], None] = lambda: None,
) -> None:
    """Write a dataset, or return at once where the same one already is.

    What an interrupted call left is thrown away and made again. Equal arguments give equal bytes, for any `workers`.

    Args:
        out: A folder that is new, empty, or one of ours.
        preset: A key of `PRESETS`.
        seed: Not negative.
        workers: Processes to render scenes in; with 1, all is done in this one.
        progress: Called with the number of scenes done and of all scenes.
        waiting: Called where another process is making it, and this one waits until that has ended.

    Raises:
        InputError: For an unknown preset, a negative seed, an `out` that is not ours, holds another dataset, or
            cannot be written. What was written until then is unfinished, as after an interruption.
    """
    check_choice(preset, PRESETS, seed)
    identity = {"preset": preset, "seed": seed, "generator": GENERATOR, "scenes": asdict(PRESETS[preset])}
    make_root(out, identity, lambda: _fill(out, preset, seed, workers, progress), waiting)


def _fill(out: Path, preset: str, seed: int, workers: int, progress: Progress) -> dict[str, Any]:
    scenes, keyframes, sweeps = PRESETS[preset].scenes, PRESETS[preset].keyframes, PRESETS[preset].sweeps
    jobs = [SceneJob(out, preset, seed, split, index, keyframes, sweeps) for split, index in scenes]
    tables = shared_tables(preset, seed)
    hashes = write_scenes(write_scene, jobs, tables, workers, progress)
    tables["map"][0]["log_tokens"] = [log["token"] for log in tables["log"]]
    picture = io.BytesIO()
    # At nuScenes' 0.1 m a pixel; all of it may be driven on.
    Image.new("L", (10 * MAP_METRES, 10 * MAP_METRES), 255).save(picture, "png")
    hashes[MAP] = write(out, MAP, picture.getvalue())
    names = {split: [job.name for job in jobs if SPLITS[job.split] == split] for split in SPLITS}
    hashes |= write_tables(out, VERSION, tables, names)
    return {
        "note": "Synthetic scenes. Class frequencies are flattened: rare classes are as common as cars. LiDAR returns "
        "nearer than 22 m are thinned with the square of the range.",
        "frames": "nuScenes v1.0 conventions; every sensor fires at an instant, each at its own time.",
        "sha256": dict(sorted(hashes.items())),
    }
