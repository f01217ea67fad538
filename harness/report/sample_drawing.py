"""Draws samples with detections: points and images, encoded once, with hits, misses and false alarms on top."""

import base64
from collections.abc import Mapping
from io import BytesIO

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from detectors.batch import CameraViews, Inputs
from detectors.detector import DetectorSpec
from detectors.geometry.boxes import CLASSES, CORNERS, points_of_boxes
from detectors.geometry.grid import BevGrid
from harness.data.nuscenes import global_from_bev, read
from harness.data.root import CAMERAS, NuScenesRoot
from harness.data.sensor_files import read_image
from harness.evaluate.columns import BoxColumns
from harness.evaluate.detection import detection_config, held_against
from harness.evaluate.metrics import Matched
from harness.evaluate.result_file import read_result
from harness.evidence.runs import StudyRuns
from harness.inspect.picture import cut_polygon, into_camera, pixels
from harness.report.samples import Ground, Outline, Samples, Shown, Tile, View
from harness.study.spec import StudySpec

DISTANCE = 2.0
"""Metres in the ground plane under which a detection is a hit, one of the devkit's thresholds."""
_BEV_PX, _TILE_PX = 420, 300
"""Width of the picture from above, and of one of six images."""
_ROWS = (0, 1, 2, 5, 4, 3)
"""Numbers in CAMERAS: those that look ahead above those that look back, the left ones on the left."""


def draw_samples(
    root: NuScenesRoot, study: StudySpec, runs: StudyRuns, detectors: Mapping[str, str], count: int
) -> Samples:
    """Draw hits, misses and false alarms of detectors in a few samples of the evaluation split.

    Args:
        root: The dataset.
        study: Whose split and scoring ranges apply.
        runs: Of the study, with the detections in their folders.
        detectors: What a detector is called to its job.
        count: Samples.
    """
    config = detection_config(study.data.detection_config)
    matched: dict[str, Matched] = {}
    for name, job in detectors.items():
        _, results = read_result(runs[job].folder.predictions)
        matched[name] = held_against(root, study.data.eval_split, results, config)
    first = next(iter(matched.values()))
    at = config.dist_ths.index(DISTANCE)
    thresholds = {name: best_threshold(one, at) for name, one in matched.items()}
    grid = _ahead_up(runs.plan.detector_spec(list(detectors.values())[-1]).detector)
    shown = []
    chosen = choose(first, count)
    for number, sample in enumerate(chosen, start=1):
        token = first.split.tokens[sample]
        bev_from_global = np.linalg.inv(global_from_bev(root, token))
        views, lidar = read_small(root, token)
        judgements = {name: judged(one, sample, at, thresholds[name]) for name, one in matched.items()}
        shown.append(
            Shown(
                title=f"Sample {number} of {len(chosen)}",
                bev=from_above(lidar, grid),
                cameras=mosaic(views),
                rings=rings(grid),
                car=car(grid),
                views=tuple(
                    View(name, detectors[name], counts(boxes), *outlines(boxes, bev_from_global, views, grid))
                    for name, boxes in judgements.items()
                ),
            )
        )
    scores = ", ".join(f"{value:.2f} ({name})" for name, value in thresholds.items())
    words = (
        f"Each detector's output on the same samples of {study.data.eval_split}. The pictures show detections with a "
        f"score of at least {scores}, the threshold with the detector's best F1 over the whole split. A detection is a "
        f"hit if it is nearer than {DISTANCE:g} m to an annotation of its class that no better detection has matched. "
        "From above, forward is up and circles are 10 m apart. Objects beyond the scored range are not drawn.",
    )
    return Samples(words, tuple(shown))


def _ahead_up(spec: DetectorSpec) -> BevGrid:
    """The detector's grid with x ahead and y to the left, as pictures have it, whatever its frame is."""
    grid = spec.grid
    if spec.bev_frame == "ego":
        return grid
    right = grid.x_range
    return grid.model_copy(update={"x_range": grid.y_range, "y_range": (-right[1], -right[0])})


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
    hits = np.cumsum(matched.matches[at, rows] >= 0)
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
    annotation = matched.matches[at, rows]
    annotations = (matched.truth.sample == sample).nonzero()[0]
    return {
        "false": matched.predicted.where(rows[annotation < 0]),
        "miss": matched.truth.where(annotations[~np.isin(annotations, annotation)]),
        "hit": matched.predicted.where(rows[annotation >= 0]),
    }


def counts(by_kind: Mapping[str, BoxColumns]) -> str:
    """How many of each kind, in words."""
    words = (("hit", "hit", "hits"), ("miss", "miss", "misses"), ("false", "false alarm", "false alarms"))
    return ", ".join(f"{len(by_kind[kind])} {one if len(by_kind[kind]) == 1 else more}" for kind, one, more in words)


def outlines(
    by_kind: Mapping[str, BoxColumns], bev_from_global: np.ndarray, views: CameraViews, grid: BevGrid
) -> tuple[tuple[Outline, ...], tuple[Tile, ...]]:
    """Boxes of several kinds from above, and in each of the six images.

    Args:
        by_kind: Global boxes by kind, in the order in which they are drawn.
        bev_from_global: (4, 4).
        views: The sample's images.
        grid: What is seen from above.
    """
    above: list[Outline] = []
    height, width = views.images.shape[-2:]
    inside: list[list[Outline]] = [[] for _ in CAMERAS]
    for kind, boxes in by_kind.items():
        if not len(boxes):
            continue
        all_corners = _corners(boxes) @ bev_from_global[:3, :3].T + bev_from_global[:3, 3]
        names = [_name(boxes, index) for index in range(len(boxes))]
        for name, corners in zip(names, all_corners, strict=True):
            flat = corners[[0, 1, 5, 4], :2]
            nose = np.stack([flat.mean(axis=0), flat[:2].mean(axis=0)])
            path = _polygon(_on_bev(flat, grid)) + _line(_on_bev(nose, grid))
            above.append(Outline(kind, path, name))
        for camera in range(len(CAMERAS)):
            seen = into_camera(torch.from_numpy(all_corners), views, camera).numpy()
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
    name, score = CLASSES[boxes.label[index]].replace("_", " "), boxes.score[index]
    return name if score < 0 else f"{name} {score:.2f}"


def _corners(boxes: BoxColumns) -> np.ndarray:
    """(n, 8, 3) in the global frame, in the order of CORNERS."""
    center, size, yaw = map(torch.from_numpy, (boxes.center, boxes.size[:, [1, 0, 2]], boxes.yaw))
    return points_of_boxes(center, size, yaw, CORNERS).numpy()


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


def car(grid: BevGrid) -> str:
    """Its outline: nuScenes' frame has its origin at the middle of the rear axle."""
    return _polygon(_on_bev(np.array([(3.1, 0.9), (3.1, -0.9), (-1.0, -0.9), (-1.0, 0.9)]), grid))


def _line(points: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _polygon(points: np.ndarray) -> str:
    return _line(points) + "Z"


def rings(grid: BevGrid) -> str:
    """Circles around the car, one every ten metres."""
    reach = max(map(abs, (*grid.x_range, *grid.y_range)))
    angles = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return "".join(_polygon(_on_bev(metres * circle, grid)) for metres in range(10, int(reach) + 1, 10))


def read_small(root: NuScenesRoot, token: str) -> tuple[CameraViews, np.ndarray]:
    """A sample's images as small as they are shown, and its LiDAR points (p, 2) along x and y, metres."""
    front = root.sweeps(token, "CAM_FRONT", 1)[0]
    height, width = read_image(root.path / front["filename"]).shape[:2]
    size = (round(_TILE_PX * height / width), _TILE_PX)
    sample = read(root, token, Inputs(image_size=size, lidar_sweeps=1))
    assert sample.views is not None
    assert sample.lidar is not None
    return sample.views, sample.lidar[:, :2].numpy()


def from_above(lidar: np.ndarray, grid: BevGrid) -> Ground:
    """LiDAR points, grey on nothing, so that the page's ground shows through; more of them in a pixel are denser."""
    high = round(_BEV_PX * (grid.x_range[1] - grid.x_range[0]) / (grid.y_range[1] - grid.y_range[0]))
    places = np.floor(_on_bev(lidar, grid)).astype(int)
    places = places[((places >= 0) & (places < (_BEV_PX, high))).all(axis=1)]
    density = np.zeros((high + 1, _BEV_PX + 1))
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):  # a point is two pixels wide, or it would hardly be seen
        np.add.at(density, (places[:, 1] + down, places[:, 0] + right), 1)
    alpha = np.where(density > 0, 150 + 105 * (1 - np.exp(-density / 3)), 0)[:high, :_BEV_PX].astype(np.uint8)
    picture = Image.fromarray(np.stack([np.full_like(alpha, 128), alpha], axis=-1), mode="LA").convert("RGBA")
    return _encoded(picture, lossless=True, quality=60)


def mosaic(views: CameraViews) -> Ground:
    """Six images, those that look ahead above those that look back."""
    tiles = rearrange(views.images[list(_ROWS)], "(row column) c h w -> (row h) (column w) c", row=2).numpy()
    return _encoded(Image.fromarray(np.ascontiguousarray(tiles)), quality=72)


def _encoded(picture: Image.Image, quality: int, lossless: bool = False) -> Ground:
    content = BytesIO()
    picture.save(content, format="WEBP", quality=quality, lossless=lossless, method=3)
    return Ground(f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}", *picture.size)
