"""The same few samples as several detectors see them: hits, misses and false alarms from above and in the images.

The ground of a picture (LiDAR points, camera images) is encoded once a sample; the boxes are paths drawn over it.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from nuscenes.eval.detection.constants import DETECTION_NAMES
from PIL import Image

from detectors.batch import CameraViews, Inputs
from detectors.geometry.grid import BevGrid
from harness.data.nuscenes import global_from_bev, read
from harness.data.picture import cut_polygon, into_camera, pixels
from harness.data.root import CAMERAS, NuScenesRoot
from harness.data.sensor_files import read_image
from harness.errors import InputError
from harness.evaluate.columns import BoxColumns
from harness.evaluate.detection import detection_config, held_against
from harness.evaluate.metrics import Matched
from harness.evaluate.result_file import read_result
from harness.store import RunFolder, atomic_write
from harness.study.plan import Plan
from harness.study.spec import StudySpec

FILE = "samples.json"
"""Where the pictures are kept, so that they are drawn once for the same trainings."""
FORMAT = 1
"""Of that file: another one draws them anew."""
DISTANCE = 2.0
"""Metres in the ground plane under which a detection is a hit, one of the devkit's thresholds."""
_BEV_PX, _TILE_PX = 420, 300
"""Width of the picture from above, and of one of six images."""
_ROWS = (0, 1, 2, 5, 4, 3)
"""Numbers in CAMERAS: those that look ahead above those that look back, the left ones on the left."""
_CORNERS = np.array([(x, y, z) for x in (0.5, -0.5) for y, z in ((0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5))])
"""Along length, width and height: four of the front face, then those behind them."""


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


def trio(plan: Plan, runs: Path, metric: str = "NDS") -> dict[str, str]:
    """A teacher, its student without it and the student that it taught best in the mean over seeds, by what they are
    called; the job of the first seed of each. Empty where no student is done with all three."""
    arms: dict[tuple[str, str], list[float]] = {}
    first: dict[tuple[str, str], dict[str, str]] = {}
    done = {id_: result for id_ in plan.jobs if (result := RunFolder(runs / id_).result())}
    for row in plan.rows:
        if row.role != "student" or row.split or row.job not in done:
            continue
        teacher = plan.detector_spec(row.job).teacher
        arms.setdefault((row.path, row.arm), []).append(done[row.job].metrics[metric])
        if teacher in done and row.baseline in done:
            assert teacher is not None and row.baseline is not None
            names = [plan.jobs[id_].label for id_ in (teacher, row.baseline, row.job)]
            jobs = dict(zip(names, (teacher, row.baseline, row.job), strict=True))
            first.setdefault((row.path, row.arm), jobs)
    best = max(first, key=lambda key: float(np.mean(arms[key])), default=None)
    return {} if best is None else first[best]


def samples(
    root: NuScenesRoot | None,
    study: StudySpec,
    plan: Plan,
    runs: Path,
    detectors: Mapping[str, str],
    out: Path,
    count: int = 3,
) -> Samples:
    """Pictures of a few samples of the evaluation split, from the file that keeps them where it is of these detectors.

    Args:
        root: The dataset; None where it is not here.
        study: Whose split and scoring ranges apply.
        plan: Of the study.
        runs: Run folders, with the detections.
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
        found = _draw(root, study, plan, runs, detectors, count)
    except InputError as error:
        return Samples((f"There are no pictures: {error}.",))
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / FILE, json.dumps({"known": known, "samples": asdict(found)}).encode())
    return found


def _draw(
    root: NuScenesRoot, study: StudySpec, plan: Plan, runs: Path, detectors: Mapping[str, str], count: int
) -> Samples:
    config = detection_config(study.data.detection_config)
    matched: dict[str, Matched] = {}
    for name, job in detectors.items():
        _, results = read_result(runs / job / "predictions.json")
        matched[name] = held_against(root, study.data.eval_split, results, config)
    first = next(iter(matched.values()))
    at = config.dist_ths.index(DISTANCE)
    thresholds = {name: best_threshold(one, at) for name, one in matched.items()}
    grid = plan.detector_spec(list(detectors.values())[-1]).detector.grid
    shown = []
    for number, sample in enumerate(choose(first, count), start=1):
        token = first.split.tokens[sample]
        bev_from_global = np.linalg.inv(global_from_bev(root, token))
        views, lidar = _read(root, token)
        outlines = {name: judged(one, sample, at, thresholds[name]) for name, one in matched.items()}
        shown.append(
            Shown(
                title=f"Sample {number} of {count}",
                bev=_from_above(lidar, grid),
                cameras=_mosaic(views),
                rings=_rings(grid),
                car=_polygon(_on_bev(np.array([(3.1, 0.9), (3.1, -0.9), (-1.0, -0.9), (-1.0, 0.9)]), grid)),
                views=tuple(
                    View(name, detectors[name], counts(found), *_outlines(found, bev_from_global, views, grid))
                    for name, found in outlines.items()
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
    rich = (objects >= max(1, np.median(objects))).nonzero()[0]
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


def _outlines(
    found: Mapping[str, BoxColumns], bev_from_global: np.ndarray, views: CameraViews, grid: BevGrid
) -> tuple[tuple[Outline, ...], tuple[Tile, ...]]:
    above: list[Outline] = []
    height, width = views.images.shape[-2:]
    inside: list[list[Outline]] = [[] for _ in CAMERAS]
    for kind, boxes in found.items():
        if not len(boxes):
            continue
        whole = _corners(boxes) @ bev_from_global[:3, :3].T + bev_from_global[:3, 3]
        names = [_name(boxes, index) for index in range(len(boxes))]
        for name, corners in zip(names, whole, strict=True):
            flat = corners[[0, 1, 5, 4], :2]
            nose = np.stack([flat.mean(axis=0), flat[:2].mean(axis=0)])
            path = _polygon(_on_bev(flat, grid)) + _line(_on_bev(nose, grid))
            above.append(Outline(kind, path, name))
        for camera in range(len(CAMERAS)):
            seen = into_camera(torch.from_numpy(whole), views, camera).numpy()
            for name, corners in zip(names, seen, strict=True):
                path = _projected(corners, views.intrinsics[camera].double().numpy(), width, height)
                if path:
                    inside[camera].append(Outline(kind, path, name))
    tiles = tuple(
        Tile(place % 3 * width, place // 3 * height, width, height, tuple(inside[camera]))
        for place, camera in enumerate(_ROWS)
    )
    return tuple(above), tiles


def _name(boxes: BoxColumns, index: int) -> str:
    name, score = DETECTION_NAMES[boxes.label[index]].replace("_", " "), boxes.score[index]
    return name if score < 0 else f"{name} {score:.2f}"


def _corners(boxes: BoxColumns) -> np.ndarray:
    """(n, 8, 3) in the global frame: in the order of _CORNERS."""
    local = _CORNERS * rearrange(boxes.size[:, [1, 0, 2]], "n s -> n 1 s")
    cos, sin = (rearrange(f(boxes.yaw), "n -> n 1") for f in (np.cos, np.sin))
    along, across, up = (local[..., axis] for axis in range(3))
    turned = np.stack([cos * along - sin * across, sin * along + cos * across, up], axis=-1)
    return turned + rearrange(boxes.center, "n s -> n 1 s")


def _projected(corners: np.ndarray, intrinsics: np.ndarray, width: int, height: int) -> str:
    """The edges of a box, (8, 3) in a camera's frame, as a path in its image; empty where they are not in it."""
    front, back = (cut_polygon(face) for face in (corners[:4], corners[4:]))
    sides = [cut_polygon(corners[[i, i + 4]], closed=False) for i in range(4)]
    parts = [pixels(part, intrinsics) for part in (front, back, *sides) if len(part)]
    if not parts:
        return ""
    low, high = np.concatenate(parts).min(axis=0), np.concatenate(parts).max(axis=0)
    if (high < 0).any() or low[0] > width or low[1] > height:
        return ""
    # What is beside the camera may be very far out.
    parts = [part.clip(-4 * width, 5 * width) for part in parts]
    faces = [part for part in (front, back) if len(part)]
    return "".join(_polygon(part) if number < len(faces) else _line(part) for number, part in enumerate(parts))


def _on_bev(xy: np.ndarray, grid: BevGrid) -> np.ndarray:
    """Metres of the BEV frame to pixels of the picture from above, ahead up."""
    scale = _BEV_PX / (grid.y_range[1] - grid.y_range[0])
    return np.stack([(grid.y_range[1] - xy[:, 1]) * scale, (grid.x_range[1] - xy[:, 0]) * scale], axis=1)


def _line(points: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _polygon(points: np.ndarray) -> str:
    return _line(points) + "Z"


def _rings(grid: BevGrid) -> str:
    reach = max(map(abs, (*grid.x_range, *grid.y_range)))
    angles = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return "".join(_polygon(_on_bev(metres * circle, grid)) for metres in range(10, int(reach) + 1, 10))


def _read(root: NuScenesRoot, token: str) -> tuple[CameraViews, np.ndarray]:
    """A sample's images as small as they are shown, and its LiDAR points (p, 2) along x and y, metres."""
    front = root.sweeps(token, "CAM_FRONT", 1)[0]
    height, width = read_image(root.path / front["filename"]).shape[:2]
    size = (round(_TILE_PX * height / width), _TILE_PX)
    sample = read(root, token, Inputs(image_size=size, lidar_sweeps=1))
    assert sample.views is not None and sample.lidar is not None
    return sample.views, sample.lidar[:, :2].numpy()


def _from_above(lidar: np.ndarray, grid: BevGrid) -> Ground:
    """LiDAR points, grey on nothing, so that the page's ground shows through; more of them in a pixel are denser."""
    high = round(_BEV_PX * (grid.x_range[1] - grid.x_range[0]) / (grid.y_range[1] - grid.y_range[0]))
    places = np.floor(_on_bev(lidar, grid)).astype(int)
    places = places[((places >= 0) & (places < (_BEV_PX, high))).all(axis=1)]
    density = np.zeros((high, _BEV_PX))
    np.add.at(density, (places[:, 1], places[:, 0]), 1)
    alpha = np.where(density > 0, 120 + 100 * (1 - np.exp(-density / 3)), 0).astype(np.uint8)
    picture = Image.fromarray(np.stack([np.full_like(alpha, 128), alpha], axis=-1), mode="LA").convert("RGBA")
    return _encoded(picture, lossless=True, quality=60)


def _mosaic(views: CameraViews) -> Ground:
    tiles = rearrange(views.images[list(_ROWS)], "(row column) c h w -> (row h) (column w) c", row=2).numpy()
    return _encoded(Image.fromarray(np.ascontiguousarray(tiles)), quality=72)


def _encoded(picture: Image.Image, quality: int, lossless: bool = False) -> Ground:
    content = BytesIO()
    picture.save(content, format="WEBP", quality=quality, lossless=lossless, method=3)
    return Ground(f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}", *picture.size)


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
