"""Draws samples and images: camera images, LiDAR and RADAR, with the annotated boxes.

It draws only what the reader returns. If boxes lie on objects and points, the reader's frames are right.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyBboxPatch, Polygon
from torch import Tensor

from detectors.batch import CameraViews, Inputs, Instances, Sample
from detectors.geometry.boxes import CLASSES, MOVING, Boxes
from harness.data.nuscenes import annotations, read
from harness.data.root import CAMERAS, RADARS, NuScenesRoot
from harness.data.sensor_files import read_image
from harness.errors import InputError, input_error_on_os_error, unknown
from harness.style import NIGHT, new_figure, plain

SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf")
REACH = 50.0
"""Metres from the ego car to the edges of the bird's-eye view."""

_ROWS = (("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"), ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"))
_NEAR = 0.2
"""Metres before a camera at which boxes that reach behind it are cut."""
# Of CORNERS: the front face, the face behind it, and what joins them.
_EDGES = (
    [(i, (i + 1) % 4) for i in range(4)] + [(4 + i, 4 + (i + 1) % 4) for i in range(4)] + [(i, i + 4) for i in range(4)]
)

_COLORS = dict(
    zip(
        CLASSES,
        ("#ff9f1c", "#ffe45e", "#ff6b6b", "#b388ff", "#c08457", "#4cc9f0", "#f72585", "#06d6a0", "#ff5400", "#cbd5e1"),
        strict=True,
    )
)
_RADAR = "#7cff6b"
_RADAR_SECONDS = 0.5
"""A RADAR arrow is as long as the way of so much time."""
_IMAGE_INCHES = 4.8
_GAP = 0.08
_HEAD, _FOOT, _SIDE = 0.42, 0.42, 0.15
_DPI = 120


def check_target(path: Path) -> None:
    """Raise InputError where no picture could be written, before anything slow is done for it."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"picture {path}: {unknown('suffix', path.suffix, SUFFIXES)}")
    if path.is_dir():
        raise InputError(f"picture {path} is a folder; name a file")
    if not path.parent.is_dir():
        raise InputError(f"picture {path}: folder {path.parent} does not exist")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"picture {path} is not writable")


def save(figure: Figure, path: Path) -> None:
    """Write a picture in the format of its suffix."""
    check_target(path)
    # Thin coloured lines suffer first from JPEG's usual quality.
    options: dict[str, Any] = {"pil_kwargs": {"quality": 90}} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    with input_error_on_os_error(f"picture {path} cannot be written"):
        figure.savefig(path, dpi=_DPI, **options)


def draw(root: NuScenesRoot, token: str) -> Figure:
    """Six images and the bird's-eye view of a sample, with all boxes of the ten classes.

    Boxes that no sensor point fell on are drawn dashed, and in the bird's-eye view only: most of them are hidden.
    """
    sample = read_whole(root, token)
    assert sample.views is not None
    boxes, facts = annotations(root, token)
    seen = facts.lidar_points + facts.radar_points > 0
    height, width = sample.views.images.shape[-2:]

    tile = (_IMAGE_INCHES, _IMAGE_INCHES * height / width)
    square = 2 * tile[1] + _GAP
    size = (2 * _SIDE + 3 * tile[0] + 3 * _GAP + square, _HEAD + square + _FOOT)
    figure = new_figure(*size, layout=None, ground=NIGHT["paper"])

    def axes(left: float, bottom: float, wide: float, high: float) -> Axes:
        return figure.add_axes((left / size[0], bottom / size[1], wide / size[0], high / size[1]))

    for row, channels in enumerate(_ROWS):
        for column, channel in enumerate(channels):
            left = _SIDE + column * (tile[0] + _GAP)
            bottom = _FOOT + (1 - row) * (tile[1] + _GAP)
            _draw_image(axes(left, bottom, *tile), sample.views, CAMERAS.index(channel), boxes[seen])
    _draw_bev(axes(size[0] - _SIDE - square, _FOOT, square, square), sample, boxes, seen)

    top = (size[1] - _HEAD / 2) / size[1]
    title = plain(f"{root.version}    sample {token}")
    figure.text(_SIDE / size[0], top, title, color=NIGHT["ink"], fontsize=12, va="center", family="monospace")
    present = [name for i, name in enumerate(CLASSES) if (boxes.label == i).any()]
    handles = [Line2D([], [], color=_COLORS[name], linewidth=4, label=name.replace("_", " ")) for name in present]
    handles.append(Line2D([], [], color=NIGHT["faint"], marker="o", markersize=3, linestyle="", label="LiDAR"))
    if sample.radar is not None:
        handles.append(Line2D([], [], color=_RADAR, marker="D", markersize=4, linestyle="", label="RADAR, velocity"))
    figure.legend(
        handles=handles,
        loc="center",
        bbox_to_anchor=(0.5, _FOOT / 2 / size[1]),
        ncols=len(handles),
        frameon=False,
        labelcolor=NIGHT["ink"],
        fontsize=11,
        handlelength=1.2,
    )
    return figure


def draw_instances(images: Sequence[tuple[UInt8[Tensor, "3 h w"], Instances]]) -> Figure:
    """Images with the masks of their instances in the colours of their classes, two in a row."""
    rows = math.ceil(len(images) / 2)
    height, width = images[0][0].shape[1:]
    figure = new_figure(2 * _IMAGE_INCHES, rows * _IMAGE_INCHES * height / width, layout=None, ground=NIGHT["paper"])
    palette = np.array([to_rgb(color) for color in _COLORS.values()])
    grid = figure.subplots(rows, 2, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    figure.subplots_adjust(0, 0, 1, 1)
    for axes in grid.ravel():
        axes.set_axis_off()
    for axes, (image, instances) in zip(grid.ravel(), images, strict=False):
        shown = rearrange(image.numpy(), "c h w -> h w c") / 255
        owner = instances.owner.numpy()
        is_mine = owner > 0
        color = palette[instances.label.numpy()[owner[is_mine].astype(int) - 1]]
        shown[is_mine] = 0.45 * shown[is_mine] + 0.55 * color
        axes.imshow(shown)
        for number, label in enumerate(instances.label.tolist(), start=1):
            rows_of, columns_of = np.nonzero(owner == number)
            if len(rows_of):
                axes.contour(owner == number, levels=[0.5], colors="white", linewidths=0.5)
                axes.text(columns_of.mean(), rows_of.min(), CLASSES[label], color="white", fontsize=5, ha="center")
    return figure


def read_whole(root: NuScenesRoot, token: str) -> Sample:
    """A sample with images of their own size and one sweep of every LiDAR and RADAR that the root has."""
    front = root.sweeps(token, "CAM_FRONT", 1)[0]
    height, width = read_image(root.path / front["filename"]).shape[:2]
    has_radar = all(channel in root.index.value("sample", token, "data") for channel in RADARS)
    return read(root, token, Inputs(image_size=(height, width), lidar_sweeps=1, radar_sweeps=int(has_radar)))


def into_camera(points: Float[Tensor, "k p 3"], views: CameraViews, camera: int) -> Float[Tensor, "k p 3"]:
    """Points of the BEV frame in a camera's frame (x right, y down, z forward), at the camera's own time."""
    camera_from_ego = torch.linalg.inv(views.ego_from_camera[camera].double())
    turned = einsum(camera_from_ego[:3, :3], points.double(), "i j, k p j -> k p i")
    return (turned + camera_from_ego[:3, 3]).to(points.dtype)


def pixels(points: Float[np.ndarray, "*n 3"], intrinsics: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "*n 2"]:
    """Columns and rows of points of a camera's frame that lie before it."""
    homogeneous = points @ intrinsics.T
    return homogeneous[..., :2] / homogeneous[..., 2:]


def cut_polygon(points: Float[np.ndarray, "p 3"], closed: bool = True) -> Float[np.ndarray, "q 3"]:
    """The part of a polygon, or of a line where it is not closed, that lies before a camera; empty where none does."""
    corners = []
    for i, end in enumerate(points):
        start = points[i - 1]
        if (closed or i) and (start[2] < _NEAR) != (end[2] < _NEAR):
            corners.append(start + (end - start) * (_NEAR - start[2]) / (end[2] - start[2]))
        if end[2] >= _NEAR:
            corners.append(end)
    return np.array(corners).reshape(-1, 3)


def _draw_image(axes: Axes, views: CameraViews, camera: int, boxes: Boxes) -> None:
    image = rearrange(views.images[camera], "c h w -> h w c").numpy()
    height, width = image.shape[:2]
    # Pixel (0, 0) has its corner at 0, as intrinsics of the reader have it.
    axes.imshow(image, extent=(0, width, height, 0), interpolation="antialiased")
    intrinsics = views.intrinsics[camera].numpy()
    lines, line_colors, faces, face_colors = [], [], [], []
    placed = into_camera(boxes.corners(), views, camera).numpy()
    # The farthest first, so that nearer ones are drawn over them.
    for index in np.argsort(-placed[..., 2].mean(axis=1)):
        color = _COLORS[CLASSES[boxes.label[index]]]
        for edge in _EDGES:
            ends = cut_polygon(placed[index][list(edge)], closed=False)
            if len(ends):
                lines.append(pixels(ends, intrinsics))
                line_colors.append(color)
        face = cut_polygon(placed[index][:4])
        if len(face):
            faces.append(pixels(face, intrinsics))
            face_colors.append(color)
    axes.add_collection(PolyCollection(faces, facecolors=face_colors, edgecolors="none", alpha=0.35))
    axes.add_collection(LineCollection(lines, colors=line_colors, linewidths=1.1))
    name = CAMERAS[camera].removeprefix("CAM_").replace("_", " ").lower()
    plate = {"boxstyle": "round,pad=0.3", "facecolor": NIGHT["paper"], "edgecolor": "none", "alpha": 0.65}
    axes.text(0.015, 0.965, name, transform=axes.transAxes, color=NIGHT["ink"], fontsize=10, va="top", bbox=plate)
    _frame(axes, (0.0, float(width)), (float(height), 0.0))


def _draw_bev(axes: Axes, sample: Sample, boxes: Boxes, seen: Bool[Tensor, " k"]) -> None:
    """Forward is up: the axes show (-y, x) of the BEV frame."""
    axes.set_facecolor(NIGHT["ground"])
    _frame(axes, (-REACH, REACH), (-REACH, REACH))
    _draw_rings(axes)
    if sample.lidar is not None:
        x, y, z = sample.lidar[:, :3].T.numpy()
        axes.scatter(-y, x, s=0.9, c=z, cmap="bone", vmin=-4.0, vmax=2.5, linewidths=0, zorder=2, rasterized=True)
    for i, flat in enumerate(boxes.corners()[:, [2, 3, 7, 6], :2].numpy()):
        color = _COLORS[CLASSES[boxes.label[i]]]
        points = _up(flat)
        style: dict[str, Any] = {"linewidth": 1.3} if seen[i] else {"linewidth": 0.9, "linestyle": (0, (2, 1.5))}
        fill = color + "30" if seen[i] else "none"
        axes.add_patch(Polygon(points, closed=True, facecolor=fill, edgecolor=color, zorder=3, **style))
        nose = np.stack([points.mean(axis=0), points[:2].mean(axis=0)])
        axes.plot(*nose.T, color=color, zorder=3, solid_capstyle="round", linewidth=style["linewidth"])
    if sample.radar is not None:
        _draw_radar(axes, sample.radar.numpy())
    # The ego car: nuScenes' frame has its origin at the middle of the rear axle.
    body: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.5", "facecolor": NIGHT["ink"], "edgecolor": "none"}
    axes.add_patch(FancyBboxPatch((-0.9, -1.0), 1.8, 4.1, zorder=5, **body))
    axes.add_patch(Polygon([(-0.6, 1.4), (0.6, 1.4), (0, 2.6)], facecolor=NIGHT["paper"], zorder=5))


def _draw_rings(axes: Axes) -> None:
    """One every ten metres; those that reach into the corners have no number."""
    plate = {"boxstyle": "round,pad=0.1", "facecolor": NIGHT["ground"], "edgecolor": "none", "alpha": 0.8}
    for metres in range(10, int(REACH * 1.5), 10):
        axes.add_patch(Circle((0, 0), metres, fill=False, edgecolor=NIGHT["ring"], linewidth=0.8, zorder=1))
        if metres <= REACH:
            at, words = metres * math.sqrt(0.5), f"{metres} m"
            axes.text(at, -at, words, color=NIGHT["faint"], fontsize=8, ha="center", va="center", bbox=plate, zorder=6)


def _draw_radar(axes: Axes, returns: Float[np.ndarray, "r 7"]) -> None:
    places, moved = _up(returns[:, :2]), _up(returns[:, 4:6]) * _RADAR_SECONDS
    axes.scatter(places[:, 0], places[:, 1], s=7, marker="D", c=_RADAR, linewidths=0, zorder=4)
    fast = np.hypot(*moved.T) > _RADAR_SECONDS * MOVING
    axes.quiver(
        *places[fast].T,
        *moved[fast].T,
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.003,
        headwidth=4,
        headlength=5,
        color=_RADAR,
        zorder=4,
    )


def _up(xy: Float[np.ndarray, "p 2"]) -> Float[np.ndarray, "p 2"]:
    return np.stack([-xy[:, 1], xy[:, 0]], axis=1)


def _frame(axes: Axes, across: tuple[float, float], along: tuple[float, float]) -> None:
    axes.set(xlim=across, ylim=along, xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
