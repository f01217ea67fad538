"""Converts points to voxels: the mean of all points in each voxel, or its first points."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
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


@dataclass(frozen=True)
class Groups:
    """The points of each voxel, the first of them at most so many."""

    sites: Sites
    rows: Int[Tensor, "v slots"]
    """Which points they are, in their order; -1 in slots that stay empty."""

    @property
    def is_point(self) -> Bool[Tensor, "v slots"]:
        """Whether a slot holds a point."""
        return self.rows >= 0

    def of(self, values: Float[Tensor, "p c"]) -> Float[Tensor, "v slots c"]:
        """What is said of the points; zero in empty slots."""
        # A row of zeros in front, which -1 leads to.
        return F.pad(values, (0, 0, 1, 0)).index_select(0, (self.rows + 1).flatten()).unflatten(0, self.rows.shape)

    def mean(self, values: Float[Tensor, "p c"]) -> Float[Tensor, "v c"]:
        """The mean over the points of each voxel."""
        return self.of(values).sum(dim=1) / self.is_point.sum(dim=1, keepdim=True)


def group_points(cloud: Points, grid: BevGrid, shape: Triple, most_points: int, most_voxels: int) -> Groups:
    """Hard voxelisation: points beyond a voxel's most, and voxels beyond a sample's most, are left out.

    As in SECOND, the first ones in the order of the points stay. Points outside of the grid are dropped.

    Args:
        cloud: x, y, z and more in the BEV frame.
        grid: Is cut into voxels of equal size.
        shape: Voxels over its z range, rows and columns.
        most_points: Of a voxel.
        most_voxels: Of a sample.
    """
    points = cloud.values
    low, high = grid.z_range
    height = (points[:, 2] - low) * (shape[0] / (high - low))
    column, row = (grid.cells_from_metres(points[:, :2]) * (shape[1] / grid.rows)).unbind(dim=1)
    position = torch.stack([height, row, column], dim=1)
    find = groups_by_loops if points.device.type == "cpu" else groups_by_sort
    index, rows = find(position, cloud.sample.long(), shape, most_points, most_voxels)
    return Groups(Sites(index, shape), rows)


def groups_by_loops(
    position: Float[Tensor, "p 3"], sample: Int[Tensor, " p"], shape: Triple, most_points: int, most_voxels: int
) -> tuple[Int[Tensor, "v 4"], Int[Tensor, "v slots"]]:
    """Voxels as `Sites` has them, and their points as `Groups` has them.

    Args:
        position: z, y, x in voxels.
        sample: Of each point; those of a sample come one after the other.
        shape: Voxels of a sample; points outside are dropped.
        most_points: Of a voxel.
        most_voxels: Of a sample.
    """
    from detectors.encoders import sparse_loops

    index, rows = sparse_loops.voxel_groups(position.numpy(), sample.numpy(), shape, most_points, most_voxels)
    return torch.from_numpy(index), torch.from_numpy(rows)


def groups_by_sort(
    position: Float[Tensor, "p 3"], sample: Int[Tensor, " p"], shape: Triple, most_points: int, most_voxels: int
) -> tuple[Int[Tensor, "v 4"], Int[Tensor, "v slots"]]:
    """The same as `groups_by_loops`, on any device."""
    inside = ((position >= 0) & (position < position.new_tensor(shape))).all(dim=1).nonzero()[:, 0]
    z, y, x = position[inside].long().unbind(dim=1)
    key, order = torch.sort(((sample[inside] * shape[0] + z) * shape[1] + y) * shape[2] + x, stable=True)
    is_first = torch.cat([key.new_ones(min(len(key), 1), dtype=torch.bool), key[1:] != key[:-1]])
    first = is_first.nonzero()[:, 0]
    # The rank of each voxel among those of its sample, by its first point: samples come one after the other.
    samples = int(sample.max()) + 1 if len(sample) else 1
    by_point = order[first].argsort()
    rank = torch.empty_like(by_point)
    rank[by_point] = torch.arange(len(first), device=key.device)
    of_sample = key[first] // (shape[0] * shape[1] * shape[2])
    before = F.pad(torch.bincount(of_sample, minlength=samples).cumsum(0), (1, 0))[of_sample]
    voxels = (rank - before < most_voxels).nonzero()[:, 0]

    slot = torch.arange(most_points, device=key.device)
    count = torch.diff(first, append=first.new_tensor([len(key)]))
    place = (first[voxels][:, None] + slot).clamp(max=max(len(key) - 1, 0))
    rows = torch.where(slot < count[voxels][:, None], inside[order][place] if len(key) else place, -1)
    index = torch.stack(torch.unravel_index(key[first][voxels], (samples, *shape)), dim=1)
    return index, rows
