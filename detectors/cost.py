"""Measures the cost of a detector: parameters, operations, memory of its maps and time of a training step."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from detectors.batch import RADAR_STATES, Batch, CameraViews, Instances, Sample, collate
from detectors.detector import DetectorSpec
from detectors.geometry.boxes import CLASSES, Boxes
from detectors.segmenter import SegmenterSpec

LIDAR_POINTS, RADAR_POINTS = 3000, 60
"""Of a sweep in the example batch: about as many as the embedded world's."""
CAMERAS = 6
INSTANCES = 8
"""In an example image."""
STEPS = 5


@dataclass(frozen=True)
class Cost:
    """Of one detector."""

    parameters: int
    flops: int
    """Multiply-adds of a sample's forward pass, each counted as two operations."""
    bev_shape: tuple[int, int, int]
    """Channels, rows and columns of the low-level map, which the student's is compared with."""
    step_seconds: float
    """Median of a training step: forward, backward, optimizer."""


def measure(spec: DetectorSpec, batch_size: int, device: str, steps: int = STEPS) -> Cost:
    """Build the detector and train it for some steps on an example batch."""
    torch.manual_seed(0)
    detector = spec.build().to(device)
    single, batch = (example_batch(spec, b).to(device) for b in (1, batch_size))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = detector.eval()(single)

    def loss() -> torch.Tensor:
        return torch.stack(list(detector.loss(detector(batch), batch).terms.values())).sum()

    step_seconds = _time_steps(detector, loss, device, steps)
    _, channels, rows, columns = output.bev_low.shape
    return Cost(
        parameters=sum(p.numel() for p in detector.parameters()),
        flops=counter.get_total_flops(),
        bev_shape=(channels, rows, columns),
        step_seconds=step_seconds,
    )


def segmenter_step_seconds(spec: SegmenterSpec, batch_size: int, device: str, steps: int = STEPS) -> float:
    """`Cost.step_seconds` of a segmenter, on random images with a few square instances each."""
    torch.manual_seed(0)
    segmenter = spec.build().to(device)
    height, width = spec.image_size
    owner = torch.zeros(batch_size, height, width, dtype=torch.uint8)
    for number in range(INSTANCES):
        left = number * (width // INSTANCES)
        owner[:, : height // 4, left : left + width // (2 * INSTANCES)] = number + 1
    instances = Instances(
        owner=owner,
        label=torch.arange(INSTANCES).repeat(batch_size, 1) % len(CLASSES),
        score=torch.ones(batch_size, INSTANCES),
    ).to(device)
    images = torch.randint(256, (batch_size, 3, height, width), dtype=torch.uint8).to(device)

    def loss() -> torch.Tensor:
        parts = segmenter.loss(segmenter(images), instances)
        return parts.heatmap + parts.masks

    return _time_steps(segmenter, loss, device, steps)


def _time_steps(model: torch.nn.Module, loss: Callable[[], torch.Tensor], device: str, steps: int) -> float:
    """Median seconds of a training step; the first one warms up and does not count."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
    seconds = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def example_batch(spec: DetectorSpec, batch_size: int) -> Batch:
    """Random sensors of the sizes that the detector asks for, on its grid."""
    rng = torch.Generator().manual_seed(0)
    grid, inputs = spec.grid, spec.training_inputs
    low = torch.tensor([grid.x_range[0], grid.y_range[0], grid.z_range[0]])
    high = torch.tensor([grid.x_range[1], grid.y_range[1], grid.z_range[1]])

    def points(count: int, columns: int) -> torch.Tensor:
        xyz = low + (high - low) * torch.rand(count, 3, generator=rng)
        return torch.cat([xyz, torch.rand(count, columns - 3, generator=rng)], dim=1)

    def returns() -> torch.Tensor:
        cloud = points(LIDAR_POINTS * max(1, inputs.lidar_sweeps), 5)
        if not inputs.lidar_sweeps:  # a loss wants those of the keyframe
            cloud[:, 4] = 0
        return cloud

    radar_columns = 7 + (len(RADAR_STATES) if inputs.radar_states else 0)
    samples = []
    for i in range(batch_size):
        center = points(30, 3)
        samples.append(
            Sample(
                token=str(i),
                views=None if inputs.image_size is None else _views(inputs.image_size, inputs.keyframes, rng),
                lidar=returns() if inputs.lidar_read else None,
                radar=points(RADAR_POINTS * 5 * inputs.radar_sweeps, radar_columns) if inputs.radar_sweeps else None,
                boxes=Boxes(
                    center=center,
                    size=0.5 + 4 * torch.rand(30, 3, generator=rng),
                    yaw=math.pi * torch.rand(30, generator=rng),
                    velocity=torch.randn(30, 2, generator=rng),
                    label=torch.randint(len(CLASSES), (30,), generator=rng),
                    score=torch.ones(30),
                ),
            )
        )
    return collate(samples)


def _views(image_size: tuple[int, int], keyframes: int, rng: torch.Generator) -> CameraViews:
    (height, width), count = image_size, CAMERAS * keyframes
    poses = []
    for i in range(count):
        cos, sin = math.cos(2 * math.pi * i / CAMERAS), math.sin(2 * math.pi * i / CAMERAS)
        poses.append([[sin, 0, cos, 0], [-cos, 0, sin, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    intrinsic = torch.tensor([[0.7 * width, 0, width / 2], [0, 0.7 * width, height / 2], [0, 0, 1]])
    return CameraViews(
        images=torch.randint(256, (count, 3, height, width), generator=rng, dtype=torch.uint8),
        intrinsics=intrinsic.expand(count, 3, 3).clone(),
        ego_from_camera=torch.tensor(poses, dtype=torch.float32),
        age=torch.zeros(count),
    )
