"""CenterPoint's LiDAR encoder: mean features of voxels through a sparse 3D network of residual blocks to a BEV map."""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from detectors.batch import Points
from detectors.conv_block import SECOND_NORM, NormSpec
from detectors.encoders.sparse_conv import SparseConv, SparseUnit, norm_rows
from detectors.encoders.sparse_tables import ConvTable, Triple, dense, strided_table, submanifold_table
from detectors.encoders.voxels import group_points
from detectors.geometry.grid import BevGrid
from detectors.spec import Spec
from detectors.sweeps import SweepSpec

_AROUND: Triple = (3, 3, 3)
_HALVE: Triple = (2, 2, 2)
_OUT: Triple = (3, 1, 1)
_OUT_STRIDE: Triple = (2, 1, 1)
POINT_FEATURES = 5
"""x, y, z, intensity, age."""


class VoxelNetSpec(Spec):
    """SECOND's sparse encoder (Yan et al., 2018) with residual blocks, as in CenterPoint (Yin et al., 2021)."""

    later = frozenset({"earlier"})

    kind: Literal["voxel_net"] = "voxel_net"
    sweeps: int = Field(default=10, ge=1)
    """Sweeps of the keyframe and before it. Every point has its age."""
    earlier: SweepSpec = SweepSpec()
    """How the sweeps before the keyframe are read."""
    voxels_per_cell: int = Field(default=8, ge=1)
    """Along x and along y: what the strided convolutions, one less than widths, bring down to 1."""
    height_bins: int = Field(default=40, ge=1)
    """Voxels over the grid's z range; the sparse grid has one more, which stays empty."""
    most_points: int = Field(default=10, ge=1)
    """Points of a voxel; its first ones count."""
    most_voxels: tuple[PositiveInt, PositiveInt] = (90_000, 120_000)
    """Voxels of a sample, in training and after it."""
    widths: tuple[PositiveInt, ...] = (16, 32, 64, 128)
    """Channels of each level."""
    blocks: int = Field(default=2, ge=1)
    """Residual blocks of each level."""
    column_width: PositiveInt = 128
    """Channels of each of the heights that are left when the map is made."""
    bias: bool = False
    """Whether convolutions of blocks have a bias, as in det3d's, OpenPCDet's and UniDistill's; it does nothing."""
    norm: NormSpec = SECOND_NORM
    """Of every batch norm."""

    @model_validator(mode="after")
    def _levels_reach_the_grid(self) -> Self:
        levels = len(self.widths)
        if self.voxels_per_cell != 2 ** (levels - 1):
            raise ValueError(f"voxels_per_cell is {self.voxels_per_cell}; {levels} widths need {2 ** (levels - 1)}")
        if self._heights < 1:
            raise ValueError(f"height_bins {self.height_bins} are too few for {levels} levels")
        return self

    @property
    def strides(self) -> tuple[tuple[Triple, Triple, Triple], ...]:
        """Kernel, stride and padding of the convolution before each level but the first, and of the last one."""
        halvings = len(self.widths) - 1
        # The last of them does not pad the height, as everywhere since SECOND.
        paddings = [(1, 1, 1)] * (halvings - 1) + [(0, 1, 1)] * min(halvings, 1)
        return (*((_AROUND, _HALVE, padding) for padding in paddings), (_OUT, _OUT_STRIDE, (0, 0, 0)))

    @property
    def _heights(self) -> int:
        """Of the last level's output."""
        heights = self.height_bins + 1
        for kernel, stride, padding in self.strides:
            heights = (heights + 2 * padding[0] - kernel[0]) // stride[0] + 1
        return heights

    @property
    def channels(self) -> int:
        """Channels of the BEV map."""
        return self.column_width * self._heights

    def build(self, grid: BevGrid) -> "VoxelNet":
        """The encoder with fresh weights."""
        return VoxelNet(self, grid)


class VoxelNet(nn.Module):
    """Points to a BEV map that is exactly zero where no point fell near."""

    def __init__(self, spec: VoxelNetSpec, grid: BevGrid) -> None:
        super().__init__()
        self.spec = spec
        self.grid = grid
        self.stem = SparseUnit(POINT_FEATURES, spec.widths[0], _AROUND, spec.norm)
        self.down, self.levels = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(spec.widths):
            if i:
                self.down.append(SparseUnit(spec.widths[i - 1], width, _AROUND, spec.norm))
            self.levels.append(nn.ModuleList(ResidualBlock(width, spec.bias, spec.norm) for _ in range(spec.blocks)))
        self.out = SparseUnit(spec.widths[-1], spec.column_width, _OUT, spec.norm)

    def forward(self, points: Points, samples: int) -> Float[Tensor, "{samples} c y x"]:
        """The BEV map of each of the samples.

        Args:
            points: Of all samples; some may have none.
            samples: In the batch.
        """
        spec = self.spec
        most_voxels = spec.most_voxels[0 if self.training else 1]
        # A teacher, and students that train side by side, look at the same points.
        how = (self.grid, spec.voxels_per_cell, spec.height_bins, spec.most_points, most_voxels, spec.strides)
        key = (spec.kind, *how)
        if key not in points.derived:
            points.derived[key] = _pyramid(points, *how)
        pyramid: _Pyramid = points.derived[key]
        features = self.stem(pyramid.features, pyramid.around[0])
        for i, (level, around) in enumerate(zip(self.levels, pyramid.around, strict=True)):
            if i:
                features = self.down[i - 1](features, pyramid.strided[i - 1])
            for block in level:  # type: ignore[attr-defined]
                features = block(features, around)
        last = pyramid.strided[-1]
        return dense(self.out(features, last), last.sites, samples)


@dataclass(frozen=True)
class _Pyramid:
    """What an encoder needs to know of a batch of points, whatever its widths and weights are."""

    features: Float[Tensor, "v 5"]
    """Of the voxels of the first level."""
    around: tuple[ConvTable, ...]
    """Of the submanifold convolutions of each level."""
    strided: tuple[ConvTable, ...]
    """From each level to the next, and from the last to the map."""


def _pyramid(
    points: Points,
    grid: BevGrid,
    voxels_per_cell: int,
    height_bins: int,
    most_points: int,
    most_voxels: int,
    strides: tuple[tuple[Triple, Triple, Triple], ...],
) -> _Pyramid:
    shape = (height_bins, grid.rows * voxels_per_cell, grid.columns * voxels_per_cell)
    groups = group_points(points, grid, shape, most_points, most_voxels)
    sites = groups.sites.taller(1)
    around, strided = [], []
    for kernel, stride, padding in strides:
        around.append(submanifold_table(sites, _AROUND))
        strided.append(strided_table(sites, kernel, stride, padding))
        sites = strided[-1].sites
    return _Pyramid(groups.mean(points.values), tuple(around), tuple(strided))


class ResidualBlock(nn.Module):
    """Two submanifold convolutions beside the identity."""

    def __init__(self, width: int, bias: bool, norm: NormSpec) -> None:
        super().__init__()
        self.conv1 = SparseConv(width, width, _AROUND, bias)
        self.norm1 = norm.build_rows(width)
        self.conv2 = SparseConv(width, width, _AROUND, bias)
        self.norm2 = norm.build_rows(width)

    def forward(self, features: Float[Tensor, "v c"], table: ConvTable) -> Float[Tensor, "v c"]:
        """The refined features."""
        inner = torch.relu(norm_rows(self.norm1, self.conv1(features, table)))
        return torch.relu(norm_rows(self.norm2, self.conv2(inner, table)) + features)
