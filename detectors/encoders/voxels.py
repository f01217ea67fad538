"""Converts points to voxels: the mean of all points in each voxel, or its first points."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detectors.asynchronous import constant, places, unravelled
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
    key, order, first = _sorted(position, sample, shape)
    # The only time that the host waits for a GPU.
    voxels, points = torch.stack([first.sum(), (key < _LAST).sum()]).tolist()
    starts, order = places(first, voxels), order[:points]
    cell = position.floor()
    count = torch.diff(starts, append=starts.new_full((1,), points))
    mean = F.embedding_bag(order, torch.cat([(position - cell - 0.5).flip(1), others], dim=1), starts, mode="mean")
    return torch.stack(unravelled(key[starts], (1, *shape)), dim=1), mean, count


_LAST = torch.iinfo(torch.int64).max
"""The key of points outside of the shape, which are sorted behind all others."""


def _sorted(
    position: Float[Tensor, "p 3"], sample: Int[Tensor, " p"], shape: Triple
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"], Bool[Tensor, " p"]]:
    """Keys of the points' voxels in ascending order, which points they are of, and which are the first of a voxel."""
    inside = ((position >= 0) & (position < constant(shape, position))).all(dim=1)
    z, y, x = position.long().unbind(dim=1)
    key = ((sample * shape[0] + z) * shape[1] + y) * shape[2] + x
    key, order = torch.sort(torch.where(inside, key, _LAST), stable=True)
    first = torch.diff(key, prepend=constant((-1,), key)) > 0
    return key, order, first & (key < _LAST)


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
    key, order, first = _sorted(position, sample, shape)
    voxels, points = torch.stack([first.sum(), (key < _LAST).sum()]).tolist()
    starts = places(first, voxels)
    count = torch.diff(starts, append=starts.new_full((1,), points))
    if most_voxels < shape[0] * shape[1] * shape[2]:
        # The rank of each voxel among those of its sample, by its first point: samples come one after the other.
        by_point = order[starts].argsort()
        rank = torch.empty_like(by_point)
        rank[by_point] = torch.arange(voxels, device=key.device)
        of_sample = key[starts] // (shape[0] * shape[1] * shape[2])
        before = torch.searchsorted(of_sample, of_sample)
        stays = (rank - before < most_voxels).nonzero()[:, 0]
        starts, count = starts[stays], count[stays]

    slot = torch.arange(most_points, device=key.device)
    place = (starts[:, None] + slot).clamp(max=max(len(key) - 1, 0))
    rows = torch.where(slot < count[:, None], order[place] if len(key) else place, -1)
    return torch.stack(unravelled(key[starts], (1, *shape)), dim=1), rows
