"""A plan sends every depth bin of every feature to the BEV cell on its ray, cell by cell."""

import math
from itertools import pairwise

import pytest
import torch
from einops import rearrange
from torch.testing import assert_close

from detectors.geometry.lift import LiftGeometry, join_plans, plan_of_cells

STRIDE = 8
FOCAL = 8.0


@pytest.fixture
def make(grid):
    def geometry(h, w, depth_range, depth_bins=1):
        return LiftGeometry(
            grid=grid, feature_size=(h, w), stride=STRIDE, depth_range=depth_range, depth_bins=depth_bins
        )

    return geometry


def _intrinsics(h, w):
    return torch.tensor([[FOCAL, 0.0, w * STRIDE / 2], [0.0, FOCAL, h * STRIDE / 2], [0.0, 0.0, 1.0]])[None]


def _looking_ahead(x=0.0, y=0.0, z=0.0):
    # Camera x (right) is -y, camera y (down) is -z, camera z (forward) is x.
    return torch.tensor([[0.0, 0, 1, x], [-1, 0, 0, y], [0, -1, 0, z], [0, 0, 0, 1]])[None]


def _cell(grid, x, y):
    return math.floor(y - grid.y_range[0]) * grid.columns + math.floor(x - grid.x_range[0])


def test_one_feature_lands_where_its_ray_and_depth_say(make, grid):
    # A map of 3 rows and 5 columns; feature (1, 4) sits in the middle row, at column 4.5 * 8 = 36 px, 16 px right of
    # the centre. At a depth of 3 m with a focal length of 8 px it is 6 m to the right: y = 1.2 - 6.
    cells = make(3, 5, (2.5, 4.5), 2).cells(_intrinsics(3, 5), _looking_ahead(0.3, 1.2))
    assert cells[0, 1, 4, 0] == _cell(grid, 0.3 + 3, 1.2 - 6)
    assert cells[0, 1, 4, 1] == _cell(grid, 0.3 + 4, 1.2 - 8)


def test_a_turned_camera_turns_its_ray(make, grid):
    # Looking to +y from (2, -7): the middle feature at 5 m is at (2, -2).
    left = torch.tensor([[1.0, 0, 0, 2.0], [0, 0, 1, -7.0], [0, -1, 0, 0], [0, 0, 0, 1]])[None]
    assert make(1, 1, (4.5, 5.5)).cells(_intrinsics(1, 1), left).item() == _cell(grid, 2.0, -2.0)


@pytest.mark.parametrize("height", [5.5, -3.5])
def test_points_above_or_below_the_grid_are_dropped(make, grid, height):
    five_ahead = make(1, 1, (4.5, 5.5))
    outside = five_ahead.cells(_intrinsics(1, 1), _looking_ahead(z=height))
    inside = five_ahead.cells(_intrinsics(1, 1), _looking_ahead(z=1.0))
    assert outside.item() == -1
    assert inside.item() == _cell(grid, 5.0, 0.0)


@pytest.mark.parametrize("depth", [12.5, 40.0])
def test_points_beyond_the_grid_are_dropped(make, grid, depth):
    cells = make(1, 1, (depth - 0.5, depth + 0.5)).cells(_intrinsics(1, 1), _looking_ahead())
    assert cells.item() == -1


def test_autocast_does_not_move_points(tiny_batch, make):
    # So many depths that some points are close to a border of cells.
    views, geometry = tiny_batch.views, make(8, 12, (1.0, 13.0), 200)
    exact = geometry.cells(views.intrinsics[0], views.ego_from_camera[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same = geometry.cells(views.intrinsics[0], views.ego_from_camera[0])
    assert torch.equal(exact, same)


def test_depth_bins_share_the_range_evenly(make):
    assert_close(make(1, 1, (1.0, 7.0), 3).depths(), torch.tensor([2.0, 4.0, 6.0]))


def test_the_loop_finds_the_cells_that_torch_finds(tiny_batch, make):
    # What a GPU computes, to the last bit on this processor: the same operations in the same order.
    views, geometry = tiny_batch.views, make(8, 12, (1.0, 13.0), 200)
    for intrinsics, pose in zip(views.intrinsics, views.ego_from_camera, strict=True):
        ray, origin = geometry.rays(intrinsics, pose)
        loop, plain = geometry.cells_by_loop(ray, origin), geometry.cells_by_torch(ray, origin)
        assert torch.equal(loop, plain)
        assert loop.dtype == plain.dtype
        assert (loop < 0).any()
        assert (loop >= 0).any()


@pytest.mark.parametrize("count", [10, 40_000])  # sorted in 16 bits, and in more
def test_terms_list_every_bin_on_the_grid_under_its_cell(rng, count):
    n, h, w, d = 2, 4, 5, 3
    cells = torch.randint(-1, count, (n, h, w, d), generator=rng, dtype=torch.int32)
    terms = plan_of_cells(cells, count).terms
    on_grid = (cells.flatten() >= 0).nonzero()[:, 0].tolist()
    features = torch.arange(n * h * w).repeat_interleave(d)

    by_cell = [end - begin for begin, end in pairwise(terms.starts.tolist())]
    assert len(by_cell) == count
    assert sorted(terms.bin.tolist()) == on_grid
    assert torch.equal(cells.flatten()[terms.bin].long(), torch.arange(count).repeat_interleave(torch.tensor(by_cell)))
    assert torch.equal(features[terms.bin], terms.feature.long())


@pytest.mark.parametrize("count", [10, 40_000])
def test_terms_of_a_gpu_begin_with_those_on_the_grid_and_end_with_each_features_others(rng, count):
    n, h, w, d = 2, 4, 5, 3
    cells = torch.randint(-1, count, (n, h, w, d), generator=rng, dtype=torch.int32)
    cells[0, 1] = -1
    plan = plan_of_cells(cells, count)
    on_grid, anywhere = plan.terms_on_grid(), plan.terms_anywhere()

    inside = len(on_grid.bin)
    assert torch.equal(anywhere.bin[:inside], on_grid.bin)
    assert torch.equal(anywhere.feature[:inside], on_grid.feature)
    assert torch.equal(anywhere.starts[: count + 1], on_grid.starts)
    off_grid = rearrange(cells < 0, "n h w d -> (n h w) d")
    assert anywhere.bin[inside:].tolist() == off_grid.flatten().nonzero()[:, 0].tolist()
    assert anywhere.starts[count:].diff().tolist() == off_grid.sum(dim=1).tolist()


@pytest.mark.parametrize("keyframes", [1, 2])
def test_the_plan_of_a_batch_made_at_once_is_that_of_its_samples_joined(tiny_batch, make, keyframes):
    geometry = make(8, 12, (1.0, 13.0), 20).model_copy(update={"keyframes": keyframes})
    cameras = [
        torch.cat([each, each], dim=1) for each in (tiny_batch.views.intrinsics, tiny_batch.views.ego_from_camera)
    ]
    cameras[1][:, -1, 0, 3] += 1.5
    joined = join_plans([geometry.plan(*each) for each in zip(*cameras, strict=True)])
    at_once = geometry.batch_plan(*cameras)
    assert at_once.cells == joined.cells
    assert torch.equal(at_once.cell, joined.cell)


def test_the_plan_of_a_batch_is_that_of_one_sample_with_all_its_views_and_cells(rng):
    n, h, w, d, count = 2, 4, 5, 3, 7
    samples = [torch.randint(-1, count, (n, h, w, d), generator=rng, dtype=torch.int32) for _ in range(3)]
    joined = join_plans([plan_of_cells(cells, count) for cells in samples])
    shifted = [torch.where(cells >= 0, cells + i * count, -1) for i, cells in enumerate(samples)]
    together = plan_of_cells(torch.cat(shifted), 3 * count)
    assert joined.cells == together.cells
    assert torch.equal(joined.cell, together.cell)


def test_lift_splats_frustum_spreads_features_to_the_edges_and_puts_bins_at_their_near_ends(make, grid):
    plain = make(2, 3, (1.0, 7.0), 3)
    frustum = plain.model_copy(update={"frustum": "lift_splat"})
    assert_close(frustum.depths(), torch.tensor([1.0, 3.0, 5.0]))
    # Two rows and three columns of 8 pixels: from the first pixel to the last one.
    assert_close(frustum.pixels(2), torch.tensor([0.0, 15.0]))
    assert_close(frustum.pixels(3), torch.tensor([0.0, 11.5, 23.0]))
    assert_close(plain.pixels(3), torch.tensor([4.0, 12.0, 20.0]))
    cells = frustum.cells(_intrinsics(2, 3), _looking_ahead(0.3, 1.2))
    # The last column at 3 m, 11 px right of the middle with a focal length of 8 px: 4.125 m to the right.
    assert cells[0, 0, 2, 1] == _cell(grid, 0.3 + 3, 1.2 - 3 * 11 / 8)


def test_the_frustum_of_stored_specs_is_in_the_middles(make):
    assert "frustum" not in make(2, 3, (1.0, 7.0)).model_dump()
