"""The view transform puts every feature, weighed by its depths, into the BEV cells on its ray."""

import math

import pytest
import torch
from torch.testing import assert_close

from detectors.encoders.view_transform import bin_centres, frustum_cells, splat

STRIDE = 8
FOCAL = 8.0


def _intrinsics(h, w):
    return torch.tensor([[FOCAL, 0.0, w * STRIDE / 2], [0.0, FOCAL, h * STRIDE / 2], [0.0, 0.0, 1.0]])[None, None]


def _looking_ahead(x=0.0, y=0.0, z=0.0):
    # Camera x (right) is -y, camera y (down) is -z, camera z (forward) is x.
    return torch.tensor([[0.0, 0, 1, x], [-1, 0, 0, y], [0, -1, 0, z], [0, 0, 0, 1]])[None, None]


def _cell(grid, x, y):
    return math.floor(y - grid.y_range[0]) * grid.columns + math.floor(x - grid.x_range[0])


def test_one_feature_lands_where_its_ray_and_depth_say(grid):
    # A map of 3 rows and 5 columns; feature (1, 4) sits in the middle row, at column 4.5 * 8 = 36 px, 16 px right of
    # the centre. At a depth of 3 m with a focal length of 8 px it is 6 m to the right: y = 1.2 - 6.
    cells = frustum_cells(_intrinsics(3, 5), _looking_ahead(0.3, 1.2), torch.tensor([3.0, 4.0]), (3, 5), STRIDE, grid)
    features = torch.zeros(1, 1, 2, 3, 5)
    features[0, 0, :, 1, 4] = torch.tensor([2.0, -1.0])
    depth = torch.zeros(1, 1, 2, 3, 5)
    depth[0, 0, 0] = 0.75
    bev = splat(features, depth, cells, grid)
    row, column = math.floor(1.2 - 6 + 8), math.floor(0.3 + 3 + 4)
    assert_close(bev[0, :, row, column], torch.tensor([1.5, -0.75]))
    assert bev.count_nonzero() == 2


def test_a_turned_camera_turns_its_ray(grid):
    # Looking to +y from (2, -7): the middle feature at 5 m is at (2, -2).
    left = torch.tensor([[1.0, 0, 0, 2.0], [0, 0, 1, -7.0], [0, -1, 0, 0], [0, 0, 0, 1]])[None, None]
    cells = frustum_cells(_intrinsics(1, 1), left, torch.tensor([5.0]), (1, 1), STRIDE, grid)
    assert cells.item() == _cell(grid, 2.0, -2.0)


@pytest.mark.parametrize("height", [5.5, -3.5])
def test_points_above_or_below_the_grid_are_dropped(grid, height):
    how = (torch.tensor([5.0]), (1, 1), STRIDE, grid)
    outside = frustum_cells(_intrinsics(1, 1), _looking_ahead(z=height), *how)
    inside = frustum_cells(_intrinsics(1, 1), _looking_ahead(z=1.0), *how)
    assert outside.item() == grid.rows * grid.columns
    assert inside.item() == _cell(grid, 5.0, 0.0)


@pytest.mark.parametrize("depth", [12.5, 40.0])
def test_points_beyond_the_grid_are_dropped(grid, depth):
    cells = frustum_cells(_intrinsics(1, 1), _looking_ahead(), torch.tensor([depth]), (1, 1), STRIDE, grid)
    assert cells.item() == grid.rows * grid.columns


def test_autocast_does_not_move_points(rng, tiny_batch, grid):
    # Depths at random: some points are close to a border of cells.
    views, how = tiny_batch.views, (1 + 12 * torch.rand(200, generator=rng), (8, 12), 4, grid)
    exact = frustum_cells(views.intrinsics, views.ego_from_camera, *how)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same = frustum_cells(views.intrinsics, views.ego_from_camera, *how)
    assert torch.equal(exact, same)


def test_a_second_sample_has_its_own_cells(grid):
    pose, intrinsics = _looking_ahead().repeat(2, 1, 1, 1), _intrinsics(1, 1).repeat(2, 1, 1, 1)
    first, second = frustum_cells(intrinsics, pose, torch.tensor([5.0]), (1, 1), STRIDE, grid)
    assert second.item() - first.item() == grid.rows * grid.columns


def test_splat_equals_the_scattered_outer_product(rng, grid):
    b, n, c, d, h, w = 2, 3, 4, 5, 2, 6
    features = torch.randn(b, n, c, h, w, generator=rng, requires_grad=True)
    depth = torch.rand(b, n, d, h, w, generator=rng, requires_grad=True)
    per_sample = grid.rows * grid.columns
    # Few distinct cells, so that many points share one; some points are outside.
    cells = torch.randint(20, (b, n, d, h, w), generator=rng) + per_sample * torch.arange(b).reshape(b, 1, 1, 1, 1)
    cells = torch.where(torch.rand(cells.shape, generator=rng) < 0.2, b * per_sample, cells)

    slow = torch.zeros(b * per_sample + 1, c)
    for i in range(b):
        for j in range(n):
            frustum = torch.einsum("chw,dhw->dhwc", features[i, j], depth[i, j])
            slow = slow.index_add(0, cells[i, j].flatten(), frustum.reshape(-1, c))
    slow = slow[:-1].reshape(b, grid.rows, grid.columns, c).movedim(-1, 1)

    fast = splat(features, depth, cells, grid)
    assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    mine = torch.autograd.grad(fast.sin().sum(), (features, depth))
    theirs = torch.autograd.grad(slow.sin().sum(), (features, depth))
    assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_nothing_on_the_grid_gives_an_empty_map_with_zero_gradients(grid):
    features = torch.ones(1, 1, 4, 2, 3, requires_grad=True)
    depth = torch.ones(1, 1, 5, 2, 3, requires_grad=True)
    bev = splat(features, depth, torch.full((1, 1, 5, 2, 3), grid.rows * grid.columns), grid)
    bev.sum().backward()
    assert not bev.any()
    assert not features.grad.any()
    assert not depth.grad.any()


def test_depth_bins_share_the_range_evenly():
    assert_close(bin_centres((1.0, 7.0), 3), torch.tensor([2.0, 4.0, 6.0]))
