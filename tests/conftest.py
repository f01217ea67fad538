"""Fixtures that several folders of tests share, and the shape checks that the whole test run executes."""

import math
import os
import signal
import sys
from pathlib import Path

# Before numba and anything of ours is imported. What is timed is what users run; everything else checks its indices, in
# compiled loops, too. Those that check are kept apart from those that do not: numba does not tell them from each other.
if "--benchmark-enable" not in sys.argv:
    os.environ["CROSSBEV_CHECK"] = os.environ["NUMBA_BOUNDSCHECK"] = "1"
    os.environ["NUMBA_CACHE_DIR"] = str(Path(__file__).parent / "__pycache__" / "numba")
    # Before torch is imported. There is a worker for each core: more threads on maps this small wait for one another.
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(threads, "1")

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

# Before the hook: numba cannot compile a function that is wrapped in a check.
import detectors.encoders.sparse_loops
import detectors.loops  # noqa: F401
import harness.evaluate.box_loops  # noqa: F401
from tests import typechecker

# Before anything of ours is imported, or its annotations stay unchecked. What is timed is what users run.
if "--benchmark-enable" not in sys.argv:
    install_import_hook(["detectors", "distill", "harness"], f"{typechecker.__name__}.check")

# A shell without job control starts what is in the background with Ctrl-C ignored; tests send it all the same.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A noisy machine makes no test wrong.
settings.register_profile("crossbev", deadline=None)
settings.load_profile("crossbev")


@pytest.fixture
def rng():
    """A seeded generator: no test draws from the global one."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def grid():
    """A small BEV grid, 12 rows by 16 columns, whose bounds are no mirror images."""
    from detectors.geometry.grid import BevGrid

    return BevGrid(x_range=(-4.0, 12.0), y_range=(-8.0, 4.0), z_range=(-3.0, 5.0), cell=1.0)


@pytest.fixture
def make_boxes(rng, grid):
    """Random boxes of one sample, all on the grid: ``make_boxes(k)``."""
    from detectors.geometry.boxes import CLASSES, Boxes

    def make(k):
        def uniform(low, high):
            return low + (high - low) * torch.rand(k, generator=rng)

        return Boxes(
            center=torch.stack([uniform(*grid.x_range), uniform(*grid.y_range), uniform(-1.0, 2.0)], dim=1),
            size=torch.stack([uniform(0.3, 8.0), uniform(0.3, 3.0), uniform(0.5, 3.0)], dim=1),
            yaw=uniform(-math.pi, math.pi),
            velocity=torch.randn(k, 2, generator=rng),
            label=torch.randint(len(CLASSES), (k,), generator=rng),
            score=torch.ones(k),
        )

    return make


@pytest.fixture
def make_batch(rng, make_boxes):
    """A batch with one sample an entry: ``make_batch([3, 0], image_size=(32, 48), points=200)`` has 3 and 0 boxes."""
    from detectors.batch import CameraViews, Sample, collate

    def make(boxes=(3, 2), image_size=(32, 48), points=200, cameras=2):
        h, w = image_size
        intrinsics = torch.tensor([[0.8 * w, 0.0, w / 2], [0.0, 0.8 * w, h / 2], [0.0, 0.0, 1.0]])
        # The first looks ahead (+x), the others are turned to the left; all hang 1.6 m above the ground.
        poses = []
        for i in range(cameras):
            yaw = 2 * math.pi * i / cameras
            cos, sin = math.cos(yaw), math.sin(yaw)
            poses.append([[sin, 0, cos, 0], [-cos, 0, sin, 0], [0, -1, 0, 1.6], [0, 0, 0, 1]])
        samples = []
        for i, k in enumerate(boxes):
            scale = torch.tensor([16.0, 12.0, 3.0, 1.0, 0.5])
            low = torch.tensor([-4.0, -8.0, -1.0, 0.0, 0.0])
            samples.append(
                Sample(
                    token=f"sample-{i}",
                    views=CameraViews(
                        images=torch.randint(256, (cameras, 3, h, w), generator=rng, dtype=torch.uint8),
                        intrinsics=intrinsics.expand(cameras, 3, 3).clone(),
                        ego_from_camera=torch.tensor(poses, dtype=torch.float32),
                        age=torch.zeros(cameras),
                    ),
                    lidar=low + scale * torch.rand(points, 5, generator=rng),
                    radar=torch.cat(
                        [low[:3] + scale[:3] * torch.rand(9, 3, generator=rng), torch.randn(9, 4, generator=rng)], dim=1
                    ),
                    boxes=make_boxes(k),
                )
            )
        return collate(samples)

    return make


@pytest.fixture
def tiny_batch(make_batch):
    """Two samples with three and two boxes, two views of 32 x 48 pixels and 200 points each."""
    return make_batch()
