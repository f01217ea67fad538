"""The view transform puts every feature, weighed by its depths, into the BEV cells that the plan names."""

import torch
from torch.testing import assert_close

from detectors.encoders.view_transform import splat
from detectors.geometry.lift import join_plans, plan_of_cells


def _plan(cells, count):
    _, n, d, h, w = cells.shape
    return join_plans([plan_of_cells(sample, count) for sample in cells], n * h * w, n * d * h * w)


def test_splat_equals_the_scattered_outer_product(rng, grid):
    b, n, c, d, h, w = 2, 3, 4, 5, 2, 6
    features = torch.randn(b, n, c, h, w, generator=rng, requires_grad=True)
    depth = torch.rand(b, n, d, h, w, generator=rng, requires_grad=True)
    count = grid.rows * grid.columns
    # Few distinct cells, so that many points share one; some points are outside.
    cells = torch.randint(20, (b, n, d, h, w), generator=rng)
    cells = torch.where(torch.rand(cells.shape, generator=rng) < 0.2, count, cells)

    maps = []
    for i in range(b):
        total = torch.zeros(count + 1, c)
        for j in range(n):
            frustum = torch.einsum("chw,dhw->dhwc", features[i, j], depth[i, j])
            total = total.index_add(0, cells[i, j].flatten(), frustum.reshape(-1, c))
        maps.append(total[:-1].reshape(grid.rows, grid.columns, c).movedim(-1, 0))
    slow = torch.stack(maps)

    fast = splat(features, depth, _plan(cells, count), grid)
    assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    mine = torch.autograd.grad(fast.sin().sum(), (features, depth))
    theirs = torch.autograd.grad(slow.sin().sum(), (features, depth))
    assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_nothing_on_the_grid_gives_an_empty_map_with_zero_gradients(grid):
    count = grid.rows * grid.columns
    features = torch.ones(1, 1, 4, 2, 3, requires_grad=True)
    depth = torch.ones(1, 1, 5, 2, 3, requires_grad=True)
    bev = splat(features, depth, _plan(torch.full((1, 1, 5, 2, 3), count), count), grid)
    bev.sum().backward()
    assert not bev.any()
    assert not features.grad.any()
    assert not depth.grad.any()
