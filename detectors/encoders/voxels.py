"""Converts points to voxels: one sort, and the mean of the points in each voxel."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from detectors.batch import Points
from detectors.encoders.sparse_tables import Sites, Triple
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
    points = cloud.values
    low, high = grid.z_range
    height = (points[:, 2] - low) / (high - low)
    across = grid.cells_from_metres(points[:, :2]) * voxels_per_cell
    position = torch.stack([height * height_bins, across[:, 1], across[:, 0]], dim=1)
    shape = (height_bins, grid.rows * voxels_per_cell, grid.columns * voxels_per_cell)
    others = torch.cat([rearrange(height, "p -> p 1"), points[:, 3:]], dim=1)
    find = means_by_loops if points.device.type == "cpu" else means_by_sort
    index, mean, count = find(position, cloud.sample.long(), others, shape)
    features = torch.cat([mean, rearrange(count.to(mean.dtype).log(), "v -> v 1")], dim=1)
    return features, Sites(index, shape)


Means = tuple[Int[Tensor, "v 4"], Float[Tensor, "v c"], Int[Tensor, " v"]]
"""Occupied voxels as `Sites` has them; the mean of each, offsets from its middle first; its points."""


def means_by_loops(
    position: Float[Tensor, "p 3"], sample: Int[Tensor, " p"], others: Float[Tensor, "p more"], shape: Triple
) -> Means:
    """Means of the points in each voxel.

    Args:
        position: z, y, x in voxels.
        sample: Of each point.
        others: More to take the mean of.
        shape: Voxels of a sample; points outside are dropped.
    """
    from detectors.encoders import sparse_loops

    index, mean, count = sparse_loops.voxel_means(position.numpy(), sample.numpy(), others.numpy(), shape)
    return torch.from_numpy(index), torch.from_numpy(mean), torch.from_numpy(count)


def means_by_sort(
    position: Float[Tensor, "p 3"], sample: Int[Tensor, " p"], others: Float[Tensor, "p more"], shape: Triple
) -> Means:
    """The same as `means_by_loops`, on any device."""
    inside = ((position >= 0) & (position < position.new_tensor(shape))).all(dim=1)
    position, others = position[inside], others[inside]
    cell = position.floor()
    z, y, x = cell.long().unbind(dim=1)
    key, order = torch.sort(((sample[inside] * shape[0] + z) * shape[1] + y) * shape[2] + x, stable=True)
    is_first = torch.cat([key.new_ones(min(len(key), 1), dtype=torch.bool), key[1:] != key[:-1]])
    first = is_first.nonzero()[:, 0]
    count = torch.diff(first, append=first.new_tensor([len(key)]))
    mean = F.embedding_bag(order, torch.cat([(position - cell - 0.5).flip(1), others], dim=1), first, mode="mean")
    samples = int(key[-1]) // (shape[0] * shape[1] * shape[2]) + 1 if len(key) else 1
    return torch.stack(torch.unravel_index(key[first], (samples, *shape)), dim=1), mean, count
