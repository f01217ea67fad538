"""How much faster and smaller the splat is than LSS's sort and cumulative sum over a frustum tensor; both agree.

Measured only with ``pytest tests/benchmarks --benchmark-enable -s``; without it each body runs once, as a test.
"""

from functools import partial

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from detectors.encoders.view_transform import splat
from detectors.geometry.grid import BevGrid
from detectors.geometry.lift import plan_of_cells

# Depth bins, image features and BEV cells of a detector at nuScenes' usual small setting.
VIEWS, DEPTHS, ROWS, COLUMNS, CHANNELS, CELLS = 6, 59, 16, 44, 64, 128


def _sort_cumsum(features, depth, cells, cells_in_all):
    """Pooling as LSS published it: outer product, sort by cell, cumulative sum, difference at the ends of cells."""
    frustum = torch.einsum("bnchw,bndhw->bnhwdc", features, depth).reshape(-1, features.shape[2])
    flat = cells.reshape(-1).long()
    kept = flat >= 0
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
    grid = BevGrid(x_range=(-51.2, 51.2), y_range=(-51.2, 51.2), z_range=(-5, 3), cell=102.4 / CELLS)
    features = torch.randn(1, VIEWS, CHANNELS, ROWS, COLUMNS, generator=rng)
    depth = torch.randn(1, VIEWS, DEPTHS, ROWS, COLUMNS, generator=rng).softmax(2)
    # Scattered cells are the hard case for both; about a tenth of the bins lies outside the grid.
    cells = torch.randint(int(1.1 * CELLS**2), (VIEWS, ROWS, COLUMNS, DEPTHS), generator=rng, dtype=torch.int32)
    cells = torch.where(cells < CELLS**2, cells, -1)
    return features, depth, cells, grid


def _run(pool, features, depth):
    features, depth = features.clone().requires_grad_(), depth.clone().requires_grad_()
    out = pool(features, depth)
    out.square().sum().backward()
    return out.detach(), features.grad, depth.grad


def _extra_bytes(pool, features, depth):
    """Most that forward and backward hold at a time, besides the map, its gradient and the two that follow from it."""
    features, depth = features.clone().requires_grad_(), depth.clone().requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        out = pool(features, depth)
        given = torch.ones_like(out)
        gradients = torch.autograd.grad(out, (features, depth), given)
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    asked = sum(tensor.nbytes for tensor in (out, given, *gradients))
    assert peak >= asked, "the profiler missed the results themselves"
    return peak - asked


def test_splat_against_sort_and_cumsum(scene, benchmark, speedups):
    features, depth, cells, grid = scene
    plan = plan_of_cells(cells, CELLS**2)

    def with_plan_at_hand(f, d):
        return splat(f, d, plan, grid)

    def with_plan_made_here(f, d):
        return splat(f, d, plan_of_cells(cells, CELLS**2), grid)

    def sort_cumsum(f, d):
        return _sort_cumsum(f, d, cells, CELLS**2).T.reshape(1, CHANNELS, CELLS, CELLS)

    for a, b in zip(_run(with_plan_at_hand, features, depth), _run(sort_cumsum, features, depth), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)

    frustum = 4 * depth.numel() * CHANNELS
    share = _extra_bytes(with_plan_at_hand, features, depth) / frustum
    assert share <= 0.1

    if benchmark.enabled:
        ways = (with_plan_at_hand, with_plan_made_here, sort_cumsum)
        runs = {way.__name__.replace("_", " "): partial(_run, way, features, depth) for way in ways}
        benchmark.extra_info.update(speedups(runs, of="sort cumsum"))
        benchmark.extra_info["extra memory in frustums"] = round(share, 3)
        benchmark.extra_info["and of sort and cumsum"] = round(_extra_bytes(sort_cumsum, features, depth) / frustum, 1)
        print(benchmark.extra_info)
    benchmark(_run, with_plan_at_hand, features, depth)
