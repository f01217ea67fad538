"""Aggregated frustums: features times depths, refined along width and depth of each image row, then summed by cell."""

import torch
from torch.testing import assert_close

from detectors.encoders.depth_aggregation import DepthAggregation
from detectors.encoders.view_transform import splat, splat_frustum
from detectors.geometry.lift import plan_of_cells


def _cells(rng, grid, b, n, h, w, d):
    return torch.randint(-1, grid.rows * grid.columns, (b * n, h, w, d), generator=rng, dtype=torch.int32)


def test_rows_of_the_image_are_refined_one_by_one(rng):
    torch.manual_seed(0)
    net = DepthAggregation(3).double().eval()
    features = torch.randn(1, 2, 3, 4, 5, generator=rng, dtype=torch.float64)
    depth = torch.rand(1, 2, 6, 4, 5, generator=rng, dtype=torch.float64)
    refined = net(features, depth)
    assert refined.shape == (1, 2, 3, 6, 4, 5)
    for view in range(2):
        for row in range(4):
            product = torch.zeros(1, 3, 5, 6, dtype=torch.float64)
            for c in range(3):
                for w in range(5):
                    for d in range(6):
                        product[0, c, w, d] = features[0, view, c, row, w] * depth[0, view, d, row, w]
            first = net.reduce_conv(product)
            wanted = net.out_conv(net.conv(first) + first)[0]
            assert_close(refined[0, view, :, :, row], wanted.transpose(1, 2))


def test_the_splat_of_a_frustum_by_loops_and_its_gradient(rng, grid):
    b, n, c, d, h, w = 1, 2, 3, 4, 2, 3
    cells = _cells(rng, grid, b, n, h, w, d)
    frustum = torch.randn(b, n, c, d, h, w, generator=rng, dtype=torch.float64, requires_grad=True)
    bev = splat_frustum(frustum, plan_of_cells(cells, grid.rows * grid.columns), grid)
    wanted = torch.zeros(c, grid.rows * grid.columns, dtype=torch.float64)
    for view in range(n):
        for row in range(h):
            for column in range(w):
                for k in range(d):
                    if (cell := cells[view, row, column, k]) >= 0:
                        wanted[:, cell] += frustum[0, view, :, k, row, column].detach()
    assert_close(bev[0].flatten(1), wanted)
    weight = torch.randn(bev.shape, generator=rng, dtype=torch.float64)
    (bev * weight).sum().backward()
    for view, row, column, k in ((0, 0, 0, 0), (1, 1, 2, 3), (1, 0, 1, 2)):
        cell = int(cells[view, row, column, k])
        there = weight[0].flatten(1)[:, cell] if cell >= 0 else torch.zeros(c, dtype=torch.float64)
        assert_close(frustum.grad[0, view, :, k, row, column], there)


def test_of_a_product_it_is_the_plain_splat(rng, grid):
    b, n, c, d, h, w = 2, 2, 3, 4, 2, 3
    plan = plan_of_cells(_cells(rng, grid, b, n, h, w, d), grid.rows * grid.columns)
    features, depth = torch.randn(b, n, c, h, w, generator=rng), torch.rand(b, n, d, h, w, generator=rng)
    frustum = torch.einsum("bnchw,bndhw->bncdhw", features, depth)
    assert_close(splat_frustum(frustum, plan, grid), splat(features, depth, plan, grid))
