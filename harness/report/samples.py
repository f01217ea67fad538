"""Chooses the samples of a page, and stores their drawings in a file."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pydantic import TypeAdapter, ValidationError

from harness.data.root import NuScenesRoot
from harness.errors import InputError
from harness.evidence.diagnostics import student_arms
from harness.evidence.runs import StudyRuns
from harness.runs.folder import atomic_write
from harness.study.spec import StudySpec

FILE = "samples.json"
"""Where the pictures are kept, so that they are drawn once for the same trainings."""
FORMAT = 1
"""The version of that file; a file of another one is drawn anew."""


@dataclass(frozen=True)
class Outline:
    """A box as it is drawn."""

    kind: str
    """hit, miss or false."""
    path: str
    """An SVG path, in pixels of its ground."""
    title: str


@dataclass(frozen=True)
class Tile:
    """The boxes in one camera's image, and where it stands among the others, pixels."""

    x: int
    y: int
    width: int
    height: int
    outlines: tuple[Outline, ...]


@dataclass(frozen=True)
class Ground:
    """A picture that boxes are drawn over."""

    uri: str
    """Its content as a data URI."""
    width: int
    height: int


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


@dataclass(frozen=True)
class _Kept:
    """Samples as a file keeps them."""

    known: str
    """Hash of what they show."""
    samples: Samples


_KEPT = TypeAdapter(_Kept)


def trio(runs: StudyRuns, metric: str = "NDS") -> dict[str, str]:
    """The arm that gains most in the mean over seeds: teacher, baseline and student of its first seed with all three,
    what each is called to its job. Empty where no student is done with both of the others."""
    plan, done = runs.plan, {id_: result.metrics.get(metric, math.nan) for id_, result in runs.results.items()}
    arms = [
        [row for row in rows if {row.job, row.baseline, plan.detector_spec(row.job).teacher} <= done.keys()]
        for rows in student_arms(plan).values()
    ]
    if not any(arms):
        return {}
    first = max(filter(None, arms), key=lambda rows: fmean(done[row.job] - done[str(row.baseline)] for row in rows))[0]
    teacher, baseline = str(plan.detector_spec(first.job).teacher), str(first.baseline)
    # A baseline may be called a teacher by its job, for it may be that of another path.
    names = (plan.jobs[teacher].label, f"{first.model} · baseline · seed {first.seed}", plan.jobs[first.job].label)
    return dict(zip(names, (teacher, baseline, first.job), strict=True))


def samples(
    root: NuScenesRoot | None,
    study: StudySpec,
    runs: StudyRuns,
    detectors: Mapping[str, str],
    out: Path,
    count: int = 3,
) -> Samples:
    """Return pictures of a few samples of the evaluation split, from the stored file if it is of these detectors.

    Args:
        root: The dataset, or None.
        study: The study with split and scoring ranges.
        runs: Its runs, with the detections in their folders.
        detectors: Job ids by the shown name of the detector.
        out: Folder of the report.
        count: Number of samples.
    """
    if not detectors:
        return Samples(("No finished student has a finished teacher and baseline yet.",))
    known = hashlib.sha256(json.dumps([FORMAT, study.data.eval_split, count, *detectors.items()]).encode()).hexdigest()
    stored = _stored(out / FILE, known)
    if stored is not None:
        return stored
    if root is None:
        return Samples(("The bundle contains no pictures, and the dataset is not available.",))
    # It takes seconds to import what draws.
    from harness.report.sample_drawing import draw_samples

    try:
        drawn = draw_samples(root, study, runs, detectors, count)
    except InputError as error:
        return Samples((f"The samples could not be drawn: {error}.",))
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / FILE, _KEPT.dump_json(_Kept(known, drawn)))
    return drawn


def _stored(path: Path, known: str) -> Samples | None:
    """Read the stored pictures; None if they are of other detectors or damaged."""
    try:
        content = _KEPT.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return content.samples if content.known == known else None
