"""The same few samples as several detectors see them: hits, misses and false alarms from above and in the images."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from harness.data.nuscenes import global_from_bev
from harness.data.root import NuScenesRoot
from harness.errors import InputError
from harness.evaluate.columns import BoxColumns
from harness.evaluate.detection import detection_config, held_against
from harness.evaluate.metrics import Matched
from harness.evaluate.result_file import read_result
from harness.evidence.runs import StudyRuns
from harness.report.sample_drawing import (
    Ground,
    Outline,
    Tile,
    car,
    from_above,
    mosaic,
    outlines,
    read_small,
    rings,
)
from harness.runs.folder import atomic_write
from harness.study.spec import StudySpec

FILE = "samples.json"
"""Where the pictures are kept, so that they are drawn once for the same trainings."""
FORMAT = 1
"""Of that file: another one draws them anew."""
DISTANCE = 2.0
"""Metres in the ground plane under which a detection is a hit, one of the devkit's thresholds."""


@dataclass(frozen=True)
class View:
    """What one detector sees of a sample."""

    title: str
    job: str
    counts: str
    """In words."""
    bev: tuple[Outline, ...]
    images: tuple[Tile, ...]


@dataclass(frozen=True)
class Shown:
    """A sample with all views of it."""

    title: str
    bev: Ground
    cameras: Ground
    rings: str
    """Circles around the car, an SVG path."""
    car: str
    """Its outline, an SVG path."""
    views: tuple[View, ...]


@dataclass(frozen=True)
class Samples:
    """What the page shows of them."""

    words: tuple[str, ...]
    """What a reader has to know; why there is nothing, where there is nothing."""
    shown: tuple[Shown, ...] = ()


def trio(runs: StudyRuns, metric: str = "NDS") -> dict[str, str]:
    """The arm that gains most in the mean over seeds: teacher, baseline and student of its first seed with all three,
    what each is called to its job. Empty where no student is done with both of the others."""
    plan, done = runs.plan, {id_: result.metrics for id_, result in runs.results.items()}
    gains: dict[tuple[str, str], list[float]] = {}
    first: dict[tuple[str, str], dict[str, str]] = {}
    for row in plan.rows:
        if row.role != "student" or row.split or row.job not in done or row.baseline not in done:
            continue
        teacher = plan.detector_spec(row.job).teacher
        if teacher not in done:
            continue
        gains.setdefault((row.path, row.arm), []).append(done[row.job][metric] - done[row.baseline][metric])
        # A baseline may be called a teacher by its job, for it may be that of another path.
        names = (plan.jobs[teacher].label, f"{row.model} · baseline · seed {row.seed}", plan.jobs[row.job].label)
        first.setdefault((row.path, row.arm), dict(zip(names, (teacher, row.baseline, row.job), strict=True)))
    best = max(gains, key=lambda key: float(np.mean(gains[key])), default=None)
    return {} if best is None else first[best]


def samples(
    root: NuScenesRoot | None,
    study: StudySpec,
    runs: StudyRuns,
    detectors: Mapping[str, str],
    out: Path,
    count: int = 3,
) -> Samples:
    """Pictures of a few samples of the evaluation split, from the file that keeps them where it is of these detectors.

    Args:
        root: The dataset; None where it is not here.
        study: Whose split and scoring ranges apply.
        runs: Of the study, with the detections in their folders.
        detectors: What a detector is called to its job.
        out: Folder of the report.
        count: Samples.
    """
    if not detectors:
        return Samples(("No student is done yet whose teacher and baseline are done, too.",))
    known = hashlib.sha256(json.dumps([FORMAT, study.data.eval_split, count, *detectors.items()]).encode()).hexdigest()
    kept = _kept(out / FILE, known)
    if kept is not None:
        return kept
    if root is None:
        return Samples(("The dataset is not here, so there are no pictures of it.",))
    try:
        found = _draw(root, study, runs, detectors, count)
    except InputError as error:
        return Samples((f"There are no pictures: {error}.",))
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / FILE, json.dumps({"known": known, "samples": asdict(found)}).encode())
    return found


def _draw(root: NuScenesRoot, study: StudySpec, runs: StudyRuns, detectors: Mapping[str, str], count: int) -> Samples:
    config = detection_config(study.data.detection_config)
    matched: dict[str, Matched] = {}
    for name, job in detectors.items():
        _, results = read_result(runs[job].folder.predictions)
        matched[name] = held_against(root, study.data.eval_split, results, config)
    first = next(iter(matched.values()))
    at = config.dist_ths.index(DISTANCE)
    thresholds = {name: best_threshold(one, at) for name, one in matched.items()}
    grid = runs.plan.detector_spec(list(detectors.values())[-1]).detector.grid
    shown = []
    chosen = choose(first, count)
    for number, sample in enumerate(chosen, start=1):
        token = first.split.tokens[sample]
        bev_from_global = np.linalg.inv(global_from_bev(root, token))
        views, lidar = read_small(root, token)
        found = {name: judged(one, sample, at, thresholds[name]) for name, one in matched.items()}
        shown.append(
            Shown(
                title=f"Sample {number} of {len(chosen)}",
                bev=from_above(lidar, grid),
                cameras=mosaic(views),
                rings=rings(grid),
                car=car(grid),
                views=tuple(
                    View(name, detectors[name], counts(boxes), *outlines(boxes, bev_from_global, views, grid))
                    for name, boxes in found.items()
                ),
            )
        )
    said = ", ".join(f"{value:.2f} ({name})" for name, value in thresholds.items())
    words = (
        f"The same samples of {study.data.eval_split} as each detector sees them. Shown are detections with a score of "
        f"at least {said}: for each detector the score with its best F1 over the whole split. A hit is nearer than "
        f"{DISTANCE:g} m to an annotation of its class that no better one has found. From above, ahead is up, a circle "
        "is 10 m from the next; what lies beyond the scored range is not drawn.",
    )
    return Samples(words, tuple(shown))


def choose(matched: Matched, count: int) -> list[int]:
    """Samples at equal distances among those that have as many annotations that count as the middle one, or more."""
    objects = np.bincount(matched.truth.sample, minlength=len(matched.split.tokens))
    rich = (objects >= max(1.0, float(np.median(objects)))).nonzero()[0]
    if len(rich) == 0:
        return []
    places = ((np.arange(count) + 0.5) / count * len(rich)).astype(int)
    return list(dict.fromkeys(rich[places].tolist()))


def best_threshold(matched: Matched, at: int) -> float:
    """The score from which on detections have the best F1, all classes together; 0 without a hit.

    Args:
        matched: A result held against its split.
        at: Number of the distance under which a detection is a hit.
    """
    rows = matched.order[np.argsort(-matched.predicted.score[matched.order], kind="stable")]
    hits = np.cumsum(matched.found[at, rows] >= 0)
    if len(rows) == 0 or hits[-1] == 0:
        return 0.0
    f1 = 2 * hits / (np.arange(1, len(rows) + 1) + len(matched.truth))
    return float(matched.predicted.score[rows[f1.argmax()]])


def judged(matched: Matched, sample: int, at: int, threshold: float) -> dict[str, BoxColumns]:
    """The detections and annotations of a sample that count, by kind: hit, false, miss; a hit is drawn as detected.

    Args:
        matched: A result held against its split.
        sample: Its number.
        at: Number of the distance under which a detection is a hit.
        threshold: Smallest score of a detection that is shown. What is below it takes no annotation from a better one.
    """
    rows = np.sort(matched.order[matched.predicted.sample[matched.order] == sample])
    rows = rows[matched.predicted.score[rows] >= threshold]
    found = matched.found[at, rows]
    own = (matched.truth.sample == sample).nonzero()[0]
    return {
        "false": matched.predicted.where(rows[found < 0]),
        "miss": matched.truth.where(own[~np.isin(own, found)]),
        "hit": matched.predicted.where(rows[found >= 0]),
    }


def counts(found: Mapping[str, BoxColumns]) -> str:
    """How many of each kind, in words."""
    words = (("hit", "hit", "hits"), ("miss", "miss", "misses"), ("false", "false alarm", "false alarms"))
    return ", ".join(f"{len(found[kind])} {one if len(found[kind]) == 1 else more}" for kind, one, more in words)


def _kept(path: Path, known: str) -> Samples | None:
    """What an earlier call left, unless it is of other detectors or was damaged since."""
    try:
        content = json.loads(path.read_bytes())
        if content["known"] != known:
            return None
        shown = tuple(
            Shown(
                **one
                | {"bev": Ground(**one["bev"]), "cameras": Ground(**one["cameras"])}
                | {"views": tuple(_view(view) for view in one["views"])}
            )
            for one in content["samples"]["shown"]
        )
        return Samples(tuple(content["samples"]["words"]), shown)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _view(content: dict) -> View:
    tiles = tuple(Tile(**tile | {"outlines": _listed(tile["outlines"])}) for tile in content["images"])
    return View(**content | {"bev": _listed(content["bev"]), "images": tiles})


def _listed(outlines: list[dict]) -> tuple[Outline, ...]:
    return tuple(Outline(**one) for one in outlines)
