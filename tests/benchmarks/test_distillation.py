"""How much faster the losses are, forward and backward, than loops over boxes that do the same; and they agree.

Measured only with ``pytest tests/benchmarks --benchmark-enable -s``, at UniDistill's size: 4 samples, 180 x 180 cells,
256 channels. Without it each body runs once, on less, as a test.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detectors.batch import Batch
from detectors.geometry.boxes import Boxes
from detectors.geometry.grid import BevGrid
from detectors.heads.center_loss import gaussian_radius
from detectors.outputs import DetectorOutput, HeadOutput
from detectors.presets import PRESETS
from distill.objective import LOSSES

SAMPLES, BOXES = 4, 30


@pytest.fixture
def scene(benchmark, rng):
    """Grid, batch and the outputs of student and teacher."""
    cells, channels = (180, 256) if benchmark.enabled else (45, 16)
    grid = BevGrid(x_range=(-54, 54), y_range=(-54, 54), z_range=(-5, 3), cell=108 / cells)

    def uniform(low, high, *last):
        return low + (high - low) * torch.rand(SAMPLES, BOXES, *last, generator=rng)

    boxes = Boxes(
        center=uniform(-50, 50, 3),
        size=uniform(0.5, 10, 3),
        yaw=uniform(-math.pi, math.pi),
        velocity=uniform(-1, 1, 2),
        label=torch.randint(10, (SAMPLES, BOXES), generator=rng),
        score=torch.ones(SAMPLES, BOXES),
    )

    def output():
        def maps(*parts):
            return torch.randn(SAMPLES, *parts, cells, cells, generator=rng)

        low = maps(channels)
        head = HeadOutput(heatmap=maps(10), boxes=maps(6, 10))
        return DetectorOutput(None, None, None, None, None, bev_low=low, bev_high=low, head=head)

    is_box = torch.ones(SAMPLES, BOXES, dtype=torch.bool)
    batch = Batch(tokens=("",) * SAMPLES, views=None, lidar=None, radar=None, boxes=boxes, is_box=is_box)
    return grid, batch, output(), output()


def _points(maps, sample, points):
    """Features of one sample at the points of one box."""
    read = F.grid_sample(maps[sample : sample + 1], points[None, None], mode="bilinear", align_corners=False)
    return read[0, :, 0].T


def _feature(grid, batch, student, teacher):
    where = grid.sampling_from_metres(batch.boxes.keypoints())
    losses = [
        (_points(student.bev_low, b, where[b, k]) - _points(teacher.bev_low, b, where[b, k])).abs().mean()
        for b in range(SAMPLES)
        for k in range(BOXES)
    ]
    return torch.stack(losses).mean()


def _relation(grid, batch, student, teacher):
    def affinity(maps, b, k):
        unit = F.normalize(_points(maps, b, where[b, k]), dim=-1, eps=1e-3)
        return unit @ unit.T

    where = grid.sampling_from_metres(batch.boxes.keypoints())
    losses = [
        (affinity(student.bev_high, b, k) - affinity(teacher.bev_high, b, k)).abs().mean()
        for b in range(SAMPLES)
        for k in range(BOXES)
    ]
    return torch.stack(losses).mean()


def _response(grid, batch, student, teacher):
    rows, columns = torch.arange(grid.rows)[:, None], torch.arange(grid.columns)
    gaps, regions = [], []
    for b in range(SAMPLES):
        region = torch.zeros(grid.rows, grid.columns)
        for k in range(BOXES):
            radius = int(gaussian_radius(batch.boxes.size[b, k, :2] / grid.cell, 0.1))
            column, row = grid.cells_from_metres(batch.boxes.center[b, k, :2]).floor().tolist()
            bump = torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * ((2 * radius + 1) / 6) ** 2))
            near = ((rows - row).abs() <= radius) & ((columns - column).abs() <= radius)
            region = torch.maximum(region, bump * near)
        score = student.head.heatmap[b].amax(0).sigmoid() - teacher.head.heatmap[b].amax(0).sigmoid()
        codes = (student.head.boxes[b] - teacher.head.boxes[b]).abs().flatten(0, 1)
        gaps.append((region * (score.abs() + codes.sum(0)) / (1 + len(codes))).sum())
        regions.append(region.sum())
    return torch.stack(gaps).sum() / torch.stack(regions).sum().clamp(min=1)


@pytest.mark.parametrize("name", ["feature", "relation", "response"])
def test_losses_against_loops_over_boxes(scene, benchmark, speedups, name):
    grid, batch, student, teacher = scene
    detector = PRESETS["tiny_lidar"].model_copy(update={"grid": grid})
    term = LOSSES[name](weight=1.0).build(detector, detector)
    loop = {"feature": _feature, "relation": _relation, "response": _response}[name]
    maps = [student.bev_low, student.head.heatmap, student.head.boxes]
    for leaf in maps:
        leaf.requires_grad_()

    def gradients(loss):
        found = torch.autograd.grad(loss, maps, allow_unused=True)
        return [loss.detach(), *(gradient for gradient in found if gradient is not None)]

    def ours():
        return gradients(term(student, teacher, batch))

    def loops():
        return gradients(loop(grid, batch, student, teacher))

    for a, b in zip(ours(), loops(), strict=True):
        assert_close(a, b, atol=1e-6, rtol=1e-4)
    if benchmark.enabled:
        benchmark.extra_info.update(speedups({"ours": ours, "loops": loops}, of="loops", rounds=5))
        print(name, benchmark.extra_info)
    benchmark(ours)
