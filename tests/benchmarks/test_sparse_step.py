"""How much faster the LiDAR encoder's parts are on a CPU than what the library has for them; and they agree.

Measured only with ``pytest tests/benchmarks --benchmark-enable -s``, at the size of `tiny_lidar` and a batch of 4.
Without it each body runs once, as a test.
"""

from functools import partial

import pytest
import torch
from einops import rearrange
from torch.testing import assert_close

from detectors.batch import Points
from detectors.encoders.sparse_conv import SparseConv
from detectors.encoders.sparse_tables import (
    Sites,
    strided_by_sort,
    strided_table,
    submanifold_by_search,
    submanifold_table,
)
from detectors.encoders.voxels import means_by_loops, means_by_sort, voxelise
from detectors.presets import PRESETS

SAMPLES, POINTS = 4, 4500
SPEC = PRESETS["tiny_lidar"]
AROUND, HALVED = (3, 3, 3), ((2, 2, 2), (2, 2, 2), (0, 0, 0))


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cloud(rng):
    """Rings on the ground, and things that stand on it."""
    azimuth = 6.2832 * torch.rand(SAMPLES * POINTS, generator=rng)
    distance = 3 + 2 * torch.randint(9, azimuth.shape, generator=rng) + 0.3 * torch.rand(azimuth.shape, generator=rng)
    stands = torch.rand(azimuth.shape, generator=rng) < 0.3
    azimuth = torch.where(stands, (azimuth * 3).round() / 3, azimuth)
    height = -1.8 + stands * 2.5 * torch.rand(azimuth.shape, generator=rng)
    place = torch.stack([distance * azimuth.cos(), distance * azimuth.sin(), height], dim=1)
    values = torch.cat([place, torch.rand(len(place), 2, generator=rng)], dim=1)
    return Points(values, torch.arange(SAMPLES).repeat_interleave(POINTS))


@pytest.fixture
def sites(cloud):
    _, sites = voxelise(cloud, SPEC.grid, SPEC.lidar.voxels_per_cell, SPEC.lidar.height_bins)
    assert 4000 < len(sites) < 9000
    return sites


def _report(benchmark, speedups, ways, of):
    if benchmark.enabled:
        benchmark.extra_info.update(speedups(ways, of=of, rounds=40))
        print(benchmark.name, benchmark.extra_info)


def test_voxels(cloud, benchmark, speedups, one_thread, rng):
    shape = (16, 80, 80)
    position = torch.rand(len(cloud.values), 3, generator=rng) ** 2 * 1.1 * torch.tensor(shape)
    given = position, cloud.sample, cloud.values[:, 2:], shape
    loops, sort = partial(means_by_loops, *given), partial(means_by_sort, *given)
    for mine, theirs in zip(loops(), sort(), strict=True):
        assert_close(mine, theirs)
    _report(benchmark, speedups, {"loops": loops, "sort": sort}, of="sort")
    benchmark(loops)


@pytest.mark.parametrize("kind", ["submanifold", "strided"])
def test_tables(sites, benchmark, speedups, one_thread, kind):
    if kind == "submanifold":
        loops, library = partial(submanifold_table, sites, AROUND), partial(submanifold_by_search, sites, AROUND)
    else:
        loops, library = partial(strided_table, sites, *HALVED), partial(strided_by_sort, sites, *HALVED)
    mine, theirs = loops(), library()
    assert torch.equal(mine.sites.index, theirs.sites.index)
    assert torch.equal(mine.rows_in, theirs.rows_in)
    assert torch.equal(mine.rows_out, theirs.rows_out)
    _report(benchmark, speedups, {"loops": loops, "library": library}, of="library")
    benchmark(loops)


class _OffsetByOffset(torch.autograd.Function):
    """What each offset adds, by the library's `index_add_`: the first formulation."""

    @staticmethod
    def forward(ctx, features, weight, table):
        ctx.save_for_backward(features, weight)
        ctx.rows = table.rows
        total = features.new_zeros(len(table.sites), weight.shape[2])
        for kernel, (rows_in, rows_out) in zip(weight, ctx.rows, strict=True):
            if len(rows_in):
                total.index_add_(0, rows_out, features.index_select(0, rows_in) @ kernel)
        return total

    @staticmethod
    def backward(ctx, grad):
        features, weight = ctx.saved_tensors
        grad_features, grad_weight = torch.zeros_like(features), torch.zeros_like(weight)
        for i, (rows_in, rows_out) in enumerate(ctx.rows):
            if len(rows_in):
                grad_here = grad.index_select(0, rows_out)
                grad_weight[i] = features.index_select(0, rows_in).T @ grad_here
                grad_features.index_add_(0, rows_in, grad_here @ weight[i].T)
        return grad_features, grad_weight, None


@pytest.mark.parametrize(("channels", "kind"), [((7, 16), "submanifold"), ((32, 32), "submanifold"),
                                                ((16, 32), "strided"), ((48, 48), "submanifold")])  # fmt: skip
def test_convolution(sites, benchmark, speedups, one_thread, rng, channels, kind):
    if channels[0] >= 32:  # of a level further up
        sites = Sites(strided_table(sites, *HALVED).sites.index, (8, 40, 40))
    table = submanifold_table(sites, AROUND) if kind == "submanifold" else strided_table(sites, *HALVED)
    conv = SparseConv(*channels, table.kernel)
    with torch.no_grad():
        conv.weight.copy_(0.1 * torch.randn(conv.weight.shape, generator=rng))
    features = torch.randn(len(sites), channels[0], generator=rng, requires_grad=True)
    given = torch.randn(len(table.sites), channels[1], generator=rng)

    def ours():
        result = conv(features, table)
        return result, *torch.autograd.grad(result, (features, conv.weight), given)

    def offset_by_offset():
        weight = rearrange(conv.weight, "o kz ky kx i -> (kz ky kx) i o")
        result = _OffsetByOffset.apply(features, weight, table)
        return result, *torch.autograd.grad(result, (features, conv.weight), given)

    for mine, theirs in zip(ours(), offset_by_offset(), strict=True):
        assert_close(mine, theirs, atol=1e-3, rtol=1e-3)
    _report(benchmark, speedups, {"ours": ours, "offset by offset": offset_by_offset}, of="offset by offset")
    benchmark(ours)


def test_encoder_of_a_second_student(cloud, benchmark, speedups, one_thread):
    """A student beside another one finds the tables made."""
    torch.manual_seed(0)
    encoder = SPEC.lidar.build(SPEC.grid)

    def step(points):
        bev = encoder(points, SAMPLES)
        bev.square().mean().backward()
        return bev.detach()

    assert torch.equal(step(cloud), step(Points(cloud.values, cloud.sample)))
    ways = {"second": lambda: step(cloud), "alone": lambda: step(Points(cloud.values, cloud.sample))}
    _report(benchmark, speedups, ways, of="alone")
    benchmark(step, cloud)
