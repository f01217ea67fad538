"""How much faster the splat is than LSS's sort and cumulative sum over a frustum tensor; and that both agree.

Measured only with ``pytest tests/benchmarks --benchmark-enable -s``; without it each body runs once, as a test.
"""

import statistics
import time

import pytest
import torch

# Depth bins, image features and BEV cells of a detector at nuScenes' usual small setting.
VIEWS, DEPTHS, ROWS, COLUMNS, CHANNELS, CELLS = 6, 59, 16, 44, 64, 128


def _sort_cumsum(features, depth, cells, cells_in_all):
    """Pooling as LSS published it: outer product, sort by cell, cumulative sum, difference at the ends of cells."""
    frustum = torch.einsum("bnchw,bndhw->bndhwc", features, depth).reshape(-1, features.shape[2])
    flat = cells.reshape(-1)
    kept = flat < cells_in_all
    frustum, flat = frustum[kept], flat[kept]
    order = flat.argsort()
    frustum, flat = frustum[order], flat[order]
    total = frustum.double().cumsum(0)
    last = torch.ones_like(flat, dtype=torch.bool)
    last[:-1] = flat[1:] != flat[:-1]
    ends, at = total[last], flat[last]
    sums = torch.cat([ends[:1], ends[1:] - ends[:-1]]).to(features.dtype)
    return torch.zeros(cells_in_all, features.shape[2]).index_copy(0, at, sums)


@pytest.fixture
def scene(rng):
    from detectors.geometry.grid import BevGrid

    grid = BevGrid(x_range=(-51.2, 51.2), y_range=(-51.2, 51.2), z_range=(-5, 3), cell=102.4 / CELLS)
    features = torch.randn(1, VIEWS, CHANNELS, ROWS, COLUMNS, generator=rng)
    depth = torch.randn(1, VIEWS, DEPTHS, ROWS, COLUMNS, generator=rng).softmax(2)
    # Scattered cells are the hard case for both; about a tenth of the bins lies outside the grid.
    cells = torch.randint(int(1.1 * CELLS**2), depth.shape, generator=rng).clamp(max=CELLS**2)
    return features, depth, cells, grid


def _run(pool, features, depth):
    features, depth = features.clone().requires_grad_(), depth.clone().requires_grad_()
    out = pool(features, depth)
    out.square().sum().backward()
    return out.detach(), features.grad, depth.grad


def test_splat_against_sort_and_cumsum(scene, benchmark):
    from detectors.encoders.view_transform import splat

    features, depth, cells, grid = scene

    def ours(f, d):
        return splat(f, d, cells, grid)[0].flatten(1).T

    def theirs(f, d):
        return _sort_cumsum(f, d, cells, CELLS**2)

    for a, b in zip(_run(ours, features, depth), _run(theirs, features, depth), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)

    if benchmark.enabled:
        seconds = {ours: [], theirs: []}
        for _ in range(7):
            for pool, times in seconds.items():
                began = time.perf_counter()
                _run(pool, features, depth)
                times.append(time.perf_counter() - began)
        for name, of in (("minima", min), ("medians", statistics.median)):
            benchmark.extra_info[f"speedup of {name}"] = round(of(seconds[theirs]) / of(seconds[ours]), 1)
        print(benchmark.extra_info)
    benchmark(_run, ours, features, depth)
