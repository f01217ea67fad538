"""Hard voxelisation keeps the first points of the first voxels, by loops and by sorts alike."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from detectors.batch import Points
from detectors.encoders.voxels import group_points, groups_by_loops, groups_by_sort

SHAPE = (2, 3, 4)


def _point_by_point(position, sample, most_points, most_voxels):
    """Each voxel and its points, in a dict."""
    groups, voxels = {}, [0] * 9
    for point, (place, number) in enumerate(zip(position.tolist(), sample.tolist(), strict=True)):
        if not all(0 <= at < cells for at, cells in zip(place, SHAPE, strict=True)):
            continue
        key = (number, *(int(at) for at in place))
        if key not in groups:
            groups[key] = []
            voxels[number] += 1
            if voxels[number] > most_voxels:
                groups[key] = None
        if groups[key] is not None and len(groups[key]) < most_points:
            groups[key].append(point)
    return {key: points for key, points in sorted(groups.items()) if points is not None}


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 2), *(st.floats(-0.5, extent + 0.5, width=32) for extent in SHAPE)), max_size=40),
    st.integers(1, 3),
    st.integers(1, 6),
)
def test_loops_sorts_and_a_plain_walk_agree(rows, most_points, most_voxels):
    rows.sort(key=lambda row: row[0])  # samples come one after the other
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    position, sample = table[:, 1:].contiguous(), table[:, 0].long()
    expected = _point_by_point(position, sample, most_points, most_voxels)
    for find in (groups_by_loops, groups_by_sort):
        index, points = find(position, sample, SHAPE, most_points, most_voxels)
        assert [tuple(place) for place in index.tolist()] == list(expected)
        assert [[point for point in row if point >= 0] for row in points.tolist()] == list(expected.values())
        assert points.shape == (len(expected), most_points)


def test_mean_by_hand(grid):
    # Three points in one voxel of 1 m, of which two count, and one in another.
    values = torch.tensor([[0.1, 0.1, 0.1, 0.2], [0.3, 0.5, 0.1, 0.4], [0.9, 0.9, 0.9, 0.9], [3.5, 0.1, 0.1, 0.7]])
    cloud = Points(values, torch.zeros(4, dtype=torch.long))
    groups = group_points(cloud, grid, (8, grid.rows, grid.columns), most_points=2, most_voxels=9)
    assert groups.sites.index.tolist() == [[0, 3, 8, 4], [0, 3, 8, 7]]
    assert groups.is_point.tolist() == [[True, True], [True, False]]
    assert_close(groups.mean(values), torch.tensor([[0.2, 0.3, 0.1, 0.3], [3.5, 0.1, 0.1, 0.7]]))
    assert_close(groups.of(values)[1, 1], torch.zeros(4))
