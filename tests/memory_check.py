"""A training step of every detector, segmenter and loss, to be run under a memory checker.

    PYTHONMALLOC=malloc valgrind --undef-value-errors=no --error-limit=no --log-file=memory.log \\
        python -m tests.memory_check && grep -c "Invalid write" memory.log

takes the better part of an hour, most of it for the presets. Words after it pick cases; `--control` adds a step that is
known to write past its memory.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F

from detectors.batch import Batch, Instances
from detectors.cost import example_batch
from detectors.detector import DetectorSpec
from detectors.encoders.bev_neck import BevNeckSpec
from detectors.encoders.camera import CameraSpec
from detectors.encoders.fusion import FusionSpec
from detectors.encoders.image import ImageSpec
from detectors.encoders.lidar import LidarSpec
from detectors.encoders.resnet import ResNetSpec
from detectors.geometry.grid import BevGrid
from detectors.heads.center import CenterHeadSpec
from detectors.presets import PRESETS, SEGMENTERS
from detectors.segmenter import SegmenterSpec
from detectors.spec import Spec
from distill.loss import DetectorLossSpec, LossSpec
from distill.objective import LOSSES, Objective

CAMERA = CameraSpec(
    image_size=(32, 48),
    image=ImageSpec(backbone=ResNetSpec(stem_width=4, widths=(4, 6, 8, 10), depths=(1, 1, 1, 1)), channels=7),
    depth_range=(1.0, 13.0),
    depth_bins=9,
    channels=7,
)
LIDAR = LidarSpec(voxels_per_cell=2, height_bins=8, widths=(4, 6), depths=(1, 1), channels=7)


def _narrow(**sensors: Spec) -> DetectorSpec:
    """Few channels, in no multiple of what a processor adds up at once, on a grid that is not square."""
    return DetectorSpec(
        grid=BevGrid(x_range=(-4, 12), y_range=(-8, 4), z_range=(-3, 5), cell=1),
        neck=BevNeckSpec(fine_width=8, coarse_width=10),
        head=CenterHeadSpec(width=12),
        **sensors,
    )


STUDENT, TEACHER = _narrow(camera=CAMERA), _narrow(camera=CAMERA, lidar=LIDAR, fusion=FusionSpec(channels=7))


def _instances(batch_size: tuple[int, ...], size: tuple[int, int]) -> Instances:
    owner = torch.zeros(*batch_size, *size, dtype=torch.uint8)
    h, w = size
    owner[..., h // 8 : h // 2, w // 8 : w // 2], owner[..., h // 3 : h, w // 3 : w] = 1, 2
    label, score = torch.tensor([2, 7]), torch.tensor([0.9, 0.8])
    return Instances(owner, label.expand(*batch_size, 2), score.expand(*batch_size, 2))


def _detector(spec: DetectorSpec) -> None:
    model, batch = spec.build(), example_batch(spec, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    loss = model.loss(model(batch), batch)
    (loss.heatmap + loss.boxes).backward()
    optimizer.step()
    with torch.no_grad():
        model.eval().decode(model(batch))


def _segmenter(spec: SegmenterSpec) -> None:
    model = spec.build()
    images = torch.randint(256, (2, 3, *spec.image_size), dtype=torch.uint8)
    loss = model.loss(model(images), _instances((2,), spec.image_size))
    (loss.heatmap + loss.masks).backward()
    with torch.no_grad():
        model.eval().decode(model(images))


def _loss(spec: LossSpec) -> None:
    taught = isinstance(spec, DetectorLossSpec)
    objective = Objective(STUDENT.build(), TEACHER.build() if taught else None, {"loss": spec})
    batch: Batch = example_batch(TEACHER if taught else STUDENT, 2)
    if not taught:
        assert batch.views is not None
        views = batch.views.images
        batch = replace(batch, instances=_instances((2, views.shape[1]), (views.shape[-2], views.shape[-1])))
    objective(batch).total.backward()


def _control() -> None:
    """A write past the end of memory (``detectors/encoders/pointwise.py``), which a checker has to report."""
    x = torch.ones(4, 4, 8, 12).contiguous(memory_format=torch.channels_last)
    F.conv2d(x, torch.ones(6, 4, 1, 1, requires_grad=True), stride=2).sum().backward()


def _cases() -> Iterator[tuple[str, Callable[[], None]]]:
    yield "narrow_camera", partial(_detector, STUDENT)
    yield "narrow_camera_lidar", partial(_detector, TEACHER)
    for name, spec in PRESETS.items():
        yield name, partial(_detector, spec)
    for name, segmenter in SEGMENTERS.items():
        yield name, partial(_segmenter, segmenter)
    for name, loss in LOSSES.items():
        yield f"loss_{name}", partial(_loss, loss(weight=0.5))
    adapted = LOSSES["feature"].model_validate({"weight": 0.5, "adapter": "conv3x3", "level": "high"})
    yield "loss_feature_adapted", partial(_loss, adapted)


def main(words: list[str]) -> None:
    """Run the cases whose names hold one of the words, or all."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cases = dict(_cases()) | ({"control": _control} if "--control" in words else {})
    picked = [word for word in words if not word.startswith("-")]
    for name, case in cases.items():
        if name == "control" or not picked or any(word in name for word in picked):
            case()
            print(name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
