"""The view transform puts every feature, weighed by its depths, into the BEV cells that the plan names."""

import pytest
import torch
from torch.testing import assert_close

from detectors.encoders import view_transform
from detectors.encoders.view_transform import splat
from detectors.geometry.lift import LiftPlan, join_plans, plan_of_cells


def _plan(cells, count):
    return join_plans([plan_of_cells(sample, count) for sample in cells])


@pytest.fixture(params=["loops", "gathered"])
def either_way(request, monkeypatch):
    """A processor takes the loops; here it also takes the way of a GPU."""
    if request.param == "gathered":
        monkeypatch.setattr(view_transform, "_LoopedSums", view_transform._GatheredSums)
        monkeypatch.setattr(LiftPlan, "terms_on_grid", LiftPlan.terms_anywhere)


def test_splat_equals_the_scattered_outer_product(rng, grid, either_way):
    b, n, c, d, h, w = 2, 3, 4, 5, 2, 6
    features = torch.randn(b, n, c, h, w, generator=rng, requires_grad=True)
    depth = torch.rand(b, n, d, h, w, generator=rng, requires_grad=True)
    count = grid.rows * grid.columns
    # Few distinct cells, so that many points share one; some points are outside.
    cells = torch.randint(20, (b, n, h, w, d), generator=rng, dtype=torch.int32)
    cells = torch.where(torch.rand(cells.shape, generator=rng) < 0.2, -1, cells)
    # Neighbouring bins in one cell, off the grid, and at the end of a ray.
    cells[:, :, 0, 0] = torch.tensor([7, 7, -1, -1, 3])
    cells[:, :, 1, 5] = torch.tensor([2, 5, 4, 4, 4])

    maps = []
    for i in range(b):
        total = torch.zeros(count + 1, c)
        for j in range(n):
            frustum = torch.einsum("chw,dhw->hwdc", features[i, j], depth[i, j])
            total = total.index_add(0, cells[i, j].flatten() % (count + 1), frustum.reshape(-1, c))
        maps.append(total[:-1].reshape(grid.rows, grid.columns, c).movedim(-1, 0))
    slow = torch.stack(maps)

    fast = splat(features, depth, _plan(cells, count), grid)
    assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    mine = torch.autograd.grad(fast.sin().sum(), (features, depth))
    theirs = torch.autograd.grad(slow.sin().sum(), (features, depth))
    assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_nothing_on_the_grid_gives_an_empty_map_with_zero_gradients(grid, either_way):
    count = grid.rows * grid.columns
    features = torch.ones(1, 1, 4, 2, 3, requires_grad=True)
    depth = torch.ones(1, 1, 5, 2, 3, requires_grad=True)
    bev = splat(features, depth, _plan(torch.full((1, 1, 2, 3, 5), -1, dtype=torch.int32), count), grid)
    bev.sum().backward()
    assert not bev.any()
    assert not features.grad.any()
    assert not depth.grad.any()
