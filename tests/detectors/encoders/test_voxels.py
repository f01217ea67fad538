"""Voxels hold the mean of their points, and only voxels that hold a point exist."""

import math

import torch
from torch.testing import assert_close

from detectors.batch import Points
from detectors.encoders.voxels import VOXEL_FEATURES, means_by_loops, means_by_sort, voxelise

# The grid of the tests: x from -4, y from -8, z from -3 to 5, cells of 1 m; here voxels of 0.5 x 0.5 x 1 m.
HOW = {"voxels_per_cell": 2, "height_bins": 8}


def _points(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)


def test_two_points_in_a_voxel_by_hand(grid):
    points = _points([-3.9, -7.8, 0.6, 0.2, 0.0], [-3.7, -7.6, 0.8, 0.6, 0.1])
    features, sites = voxelise(Points(points, torch.tensor([0, 0])), grid, **HOW)
    assert sites.index.tolist() == [[0, 3, 0, 0]]
    # Means: x -3.8 is 0.4 voxels from the border, y -7.7 is 0.6, z 0.7 is 0.7 of a voxel and 3.7 of 8 m high.
    expected = {
        "offset_x": -0.1,
        "offset_y": 0.1,
        "offset_z": 0.2,
        "height": 3.7 / 8,
        "intensity": 0.4,
        "age": 0.05,
        "log_count": math.log(2),
    }
    assert_close(features[0], torch.tensor([expected[name] for name in VOXEL_FEATURES]), atol=1e-5, rtol=0)


def test_points_of_two_samples_do_not_share_a_voxel(grid):
    points = _points(*[[0.1, 0.1, 0.1, 0.5, 0.0]] * 3)
    features, sites = voxelise(Points(points, torch.tensor([0, 2, 2])), grid, **HOW)
    assert sites.index.tolist() == [[0, 3, 16, 8], [2, 3, 16, 8]]
    assert_close(features[:, -1], torch.tensor([0.0, math.log(2)]))


def test_points_outside_the_grid_are_dropped(grid):
    outside = [[12.0, 0, 0], [-4.1, 0, 0], [0, 4.0, 0], [0, -8.1, 0], [0, 0, 5.0], [0, 0, -3.1], [math.nan, 0, 0]]
    points = _points([11.9, 3.9, 4.9, 0.0, 0.0], *[[*xyz, 0.0, 0.0] for xyz in outside])
    _, sites = voxelise(Points(points, torch.zeros(8, dtype=torch.long)), grid, **HOW)
    assert sites.index.tolist() == [[0, 7, 23, 31]]
    assert sites.shape == (8, 24, 32)


def test_sites_are_sorted_and_their_counts_add_up(rng, grid):
    points = torch.tensor([-4.0, -8.0, -3.0, 0, 0]) + torch.rand(500, 5, generator=rng) * torch.tensor(
        [16.0, 12, 8, 1, 1]
    )
    features, sites = voxelise(Points(points, torch.randint(3, (500,), generator=rng)), grid, **HOW)
    assert torch.equal(sites.index, torch.unique(sites.index, dim=0))
    assert_close(features[:, -1].exp().sum(), torch.tensor(500.0), atol=1e-2, rtol=0)


def test_the_order_of_the_points_does_not_matter(rng, tiny_batch, grid):
    shuffled = torch.randperm(len(tiny_batch.lidar.values), generator=rng)
    features, sites = voxelise(tiny_batch.lidar, grid, **HOW)
    cloud = Points(tiny_batch.lidar.values[shuffled], tiny_batch.lidar.sample[shuffled])
    again, sites_again = voxelise(cloud, grid, **HOW)
    assert torch.equal(sites.index, sites_again.index)
    assert_close(features, again)


def test_no_points_give_no_voxels(grid):
    features, sites = voxelise(Points(_points(), torch.zeros(0, dtype=torch.long)), grid, **HOW)
    assert features.shape == (0, len(VOXEL_FEATURES))
    assert len(sites) == 0


def test_loops_and_sorts_find_the_same_means(rng):
    shape = (4, 5, 6)
    # Some are outside, some on a border, one is nowhere.
    position = (torch.rand(300, 3, generator=rng) * 8 - 1).double()
    position[::7] = position[::7].round()
    position[3, 1] = math.nan
    given = position, torch.randint(3, (300,), generator=rng), torch.randn(300, 3, generator=rng).double(), shape
    for mine, theirs in zip(means_by_loops(*given), means_by_sort(*given), strict=True):
        assert_close(mine, theirs)
