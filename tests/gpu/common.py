"""What the sections share: cases, batches, timing, and the file that a section's rows go to."""

import importlib
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from detectors.batch import Batch, Instances, Points
from detectors.cost import example_batch
from detectors.detector import DetectorSpec
from detectors.encoders import sparse_conv
from detectors.encoders.camera import CameraSpec
from detectors.encoders.image import ImageSpec
from detectors.encoders.lidar import LidarSpec
from detectors.encoders.resnet import ResNetSpec
from detectors.encoders.sparse_library import PLAIN
from detectors.geometry.grid import BevGrid
from detectors.geometry.lift import join_plans
from detectors.presets import PRESETS, TINY_PRESETS
from distill.objective import LOSSES, Objective, loss_spec

VARIANTS: dict[str, dict[str, Any]] = {
    "feature": {},
    "feature gaussian": {"loss": "feature", "region": "gaussian", "adapter": "conv3x3"},
    "feature map": {"loss": "feature", "region": "map"},
    "relation": {},
    "response": {},
    "response split": {"loss": "response", "parts": "split", "scores": "all", "region": "map"},
    "output": {"score_threshold": 0.02},
    "activation": {},
    "adversarial": {},
    "instance": {},
    "channelwise": {},
    "contrastive": {},
    "depth": {},
}
"""Losses to try, and their fields beside the weight."""
assert {fields.get("loss", name) for name, fields in VARIANTS.items()} == set(LOSSES)

_GRID = BevGrid(x_range=(-51.2, 51.2), y_range=(-51.2, 51.2), z_range=(-5.0, 3.0), cell=0.8)
_NECK, _HEAD = PRESETS["tiny_camera"].neck, PRESETS["tiny_camera"].head
LARGE = {
    "camera, ResNet-34, 256x704, 128x128": DetectorSpec(
        grid=_GRID,
        camera=CameraSpec(
            image_size=(256, 704),
            image=ImageSpec(
                backbone=ResNetSpec(stem_width=64, widths=(64, 128, 256, 512), depths=(3, 4, 6, 3)), channels=64
            ),
            depth_range=(2.0, 61.0),
            depth_bins=59,
            channels=64,
        ),
        neck=_NECK,
        head=_HEAD,
    ),
    "LiDAR, 0.1 m, 10 sweeps, 128x128": DetectorSpec(
        grid=_GRID,
        lidar=LidarSpec(
            sweeps=10, voxels_per_cell=8, height_bins=40, widths=(16, 32, 64, 128), depths=(2, 2, 2, 2), channels=64
        ),
        neck=_NECK,
        head=_HEAD,
    ),
}
"""Detectors of about the papers' input sizes, of the parts that there are."""


class Rows:
    """The file of a section's rows; each is written at once."""

    def __init__(self) -> None:
        self._path = Path(sys.argv[1])

    def add(self, **row: Any) -> None:
        """Write and print one row."""
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def full_batch(batch_size: int) -> Batch:
    """Everything that any preset or loss asks for, on the CPU, with the cameras' plan as the loader adds it."""
    parts = [example_batch(PRESETS[name], batch_size) for name in ("tiny_camera_lidar", "tiny_radar")]
    batch = with_plan(parts[0], PRESETS["tiny_camera_lidar"])
    assert batch.views is not None
    height, width = batch.views.images.shape[-2:]
    owner = torch.zeros(batch_size, batch.views.images.shape[1], height, width, dtype=torch.uint8)
    owner[..., 10:40, 10:50], owner[..., 10:40, 60:90] = 1, 2
    ahead = owner.shape[:2]
    instances = Instances(owner, torch.tensor([0, 5]).expand(*ahead, 2).clone(), torch.ones(*ahead, 2))
    return replace(batch, radar=parts[1].radar, instances=instances)


def with_plan(batch: Batch, spec: DetectorSpec) -> Batch:
    """The batch with the view transform's plan, if the detector has cameras."""
    lifts = {}
    for geometry in spec.inputs.lifts:
        views = batch.views
        assert views is not None
        plans = [geometry.plan(*one) for one in zip(views.intrinsics, views.ego_from_camera, strict=True)]
        lifts[geometry] = join_plans(plans)
    return replace(batch, lifts=lifts)


def large_batch(spec: DetectorSpec, batch_size: int, rng: torch.Generator) -> Batch:
    """Sensors of nuScenes' sizes; points as a spinning LiDAR of 32 rings returns them from ground and walls."""
    batch = with_plan(example_batch(spec, batch_size), spec)
    if spec.lidar is None:
        return batch
    clouds = []
    for _ in range(batch_size * spec.lidar.sweeps):
        azimuth = 2 * torch.pi * torch.rand(34_700, generator=rng)
        ring = torch.randint(32, azimuth.shape, generator=rng)
        elevation = torch.deg2rad(-30.7 + 41.4 * ring / 31)
        wall = 8 + 40 * (0.5 + 0.5 * torch.sin(3 * azimuth)) + torch.randn(azimuth.shape, generator=rng) * 0.05
        ground = torch.where(elevation < 0, -1.8 / elevation.sin().clamp(max=-1e-3), torch.tensor(1e3))
        distance = torch.minimum(wall / elevation.cos(), ground)
        x, y = distance * elevation.cos() * azimuth.cos(), distance * elevation.cos() * azimuth.sin()
        z = 1.8 + distance * elevation.sin()
        age = torch.rand(1, generator=rng).expand_as(x)
        clouds.append(torch.stack([x, y, z - 1.8, torch.rand(x.shape, generator=rng), age], dim=1))
    values = torch.cat(clouds)
    sample = torch.arange(batch_size).repeat_interleave(len(values) // batch_size)
    return replace(batch, lidar=Points(values, sample))


def objective_of(student: str, teacher: str | None, losses: Mapping[str, Mapping[str, Any]]) -> Objective:
    """A seeded student, and the teacher that its losses ask."""
    torch.manual_seed(0)
    specs = {name: loss_spec(name, {"weight": 1.0, **fields}) for name, fields in losses.items()}
    student_module = PRESETS[student].build()
    asked = teacher is not None and set(losses) != {"instance"}
    return Objective(student_module, PRESETS[teacher].build() if asked and teacher else None, specs)


def cases() -> Iterator[tuple[str, str, str | None, dict[str, Any]]]:
    """Name, student, teacher and losses."""
    for preset in TINY_PRESETS:
        yield preset, preset, None, {}
    for student in ("tiny_camera", "tiny_lidar"):
        for name, fields in VARIANTS.items():
            if student == "tiny_camera" or fields.get("loss", name) not in ("depth", "instance"):
                yield f"{student}: {name}", student, "tiny_camera_lidar", {name: fields}


def asked_cases() -> Iterator[tuple[str, str, str | None, dict[str, Any]]]:
    """Those cases whose names the command line has after its file of rows, or all."""
    names = sys.argv[2:]
    return (case for case in cases() if not names or case[0] in names)


def libraries(*, compiling: bool = False) -> dict[str, ModuleType | None]:
    """The sparse convolutions that can be had here, by name; None is plain torch.

    Args:
        compiling: Also spconv-triton, which compiles and tunes each size for minutes on first use.
    """
    there: dict[str, ModuleType | None] = {PLAIN: None}
    if importlib.util.find_spec("spconv") and not importlib.import_module("spconv.cppconstants").CPU_ONLY_BUILD:
        there["spconv"] = importlib.import_module("spconv.pytorch")
    if compiling and importlib.util.find_spec("spconv_triton"):
        there["spconv-triton"] = importlib.import_module("spconv_triton.pytorch")
    return there


@contextmanager
def sparse_by(library: ModuleType | None) -> Iterator[None]:
    """Compute sparse convolutions on CUDA with this library."""
    chosen = sparse_conv.cuda_library
    sparse_conv.cuda_library = lambda: library  # type: ignore[assignment]
    try:
        yield
    finally:
        sparse_conv.cuda_library = chosen


def milliseconds(call: Callable[[], Any], repeats: int = 10, warm: int = 3) -> float:
    """Median time of a call on the card, by its own events."""
    for _ in range(warm):
        call()
    times = []
    for _ in range(repeats):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        call()
        ended.record()
        torch.cuda.synchronize()
        times.append(began.elapsed_time(ended))
    return statistics.median(times)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Norm of the difference over the norm of the second, both on the CPU in float64."""
    a, b = a.detach().double().cpu().flatten(), b.detach().double().cpu().flatten()
    return float((a - b).norm() / b.norm().clamp(min=1e-30))
