"""Converts points to voxels: one sort, and the mean of the points in each voxel."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from detectors.batch import Points
from detectors.encoders.sparse_tables import Sites, sorted_keys
from detectors.geometry.grid import BevGrid

VOXEL_FEATURES = ("offset_x", "offset_y", "offset_z", "height", "intensity", "age", "log_count")
"""Offsets from the voxel's middle in voxels, height in [0, 1] over the grid's z range, age in seconds."""


def voxelise(
    cloud: Points,
    grid: BevGrid,
    voxels_per_cell: int,
    height_bins: int,
) -> tuple[Float[Tensor, "v 7"], Sites]:
    """Mean features (VOXEL_FEATURES) of the voxels that hold a point; points outside the grid are dropped.

    Args:
        cloud: x, y, z, intensity, age in the BEV frame.
        grid: Its cells are cut into voxels.
        voxels_per_cell: Along x and along y.
        height_bins: Voxels in the grid's z range.
    """
    points, point_sample = cloud.values, cloud.sample
    low, high = grid.z_range
    height = (points[:, 2] - low) / (high - low)
    across = grid.cells_from_metres(points[:, :2]) * voxels_per_cell
    position = torch.stack([height * height_bins, across[:, 1], across[:, 0]], dim=1)
    shape = (height_bins, grid.rows * voxels_per_cell, grid.columns * voxels_per_cell)

    inside = ((position >= 0) & (position < position.new_tensor(shape))).all(dim=1)
    position, height, points = position[inside], height[inside], points[inside]
    cell = position.floor()
    z, y, x = cell.long().unbind(dim=1)
    sample = point_sample[inside].long()
    samples = int(sample.max()) + 1 if len(sample) else 1
    key = ((sample * shape[0] + z) * shape[1] + y) * shape[2] + x
    key, order = sorted_keys(key, samples * shape[0] * shape[1] * shape[2])
    is_first = torch.cat([key.new_ones(min(len(key), 1), dtype=torch.bool), key[1:] != key[:-1]])
    first = is_first.nonzero()[:, 0]
    count = torch.diff(first, append=first.new_tensor([len(key)]))

    described = torch.cat(
        [(position - cell - 0.5).flip(1), rearrange(height, "p -> p 1"), points[:, 3:]],
        dim=1,
    )
    mean = F.embedding_bag(order, described, first, mode="mean")
    features = torch.cat([mean, rearrange(count.to(mean.dtype).log(), "v -> v 1")], dim=1)

    index = torch.stack(torch.unravel_index(key[first], (samples, *shape)), dim=1)
    return features, Sites(index, shape)
