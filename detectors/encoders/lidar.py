"""LiDAR encoder: voxels through sparse 3D convolutions to a BEV map, height folded into channels."""

from dataclasses import dataclass
from typing import Literal, Self

from jaxtyping import Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from detectors.asynchronous import constant
from detectors.batch import Points
from detectors.encoders.sparse_conv import SparseUnit
from detectors.encoders.sparse_tables import ConvTable, Triple, dense, strided_table, submanifold_table
from detectors.encoders.voxels import VOXEL_FEATURES, voxelise
from detectors.geometry.grid import BevGrid
from detectors.spec import Spec
from detectors.sweeps import SweepSpec

_AROUND: Triple = (3, 3, 3)


class LidarSpec(Spec):
    """A sparse 3D encoder.

    Each level after the first halves the height, and the plane too until a voxel is as wide as a BEV cell.
    """

    later = frozenset({"kind", "age_unit", "earlier"})

    kind: Literal["sparse"] = "sparse"
    sweeps: int = Field(default=1, ge=1)
    """Sweeps of the keyframe and before it. Every point has its age."""
    earlier: SweepSpec = SweepSpec()
    """How the sweeps before the keyframe are read."""
    age_unit: float = Field(default=1.0, gt=0)
    """Seconds of the ages that the encoder reads; in a unit of 1 they are small beside a voxel's other features."""
    voxels_per_cell: int = Field(ge=1)
    """Along x and along y; a power of two."""
    height_bins: int = Field(ge=1)
    """Voxels over the grid's z range."""
    widths: tuple[PositiveInt, ...] = Field(min_length=1)
    """Channels of each level."""
    depths: tuple[PositiveInt, ...] = Field(min_length=1)
    """Submanifold convolutions of each level."""
    channels: int
    """Channels of the BEV map."""

    @model_validator(mode="after")
    def _levels_reach_the_grid(self) -> Self:
        halvings = len(self.widths) - 1
        if len(self.depths) != len(self.widths):
            raise ValueError(f"{len(self.depths)} depths for {len(self.widths)} widths")
        if self.voxels_per_cell not in {2**i for i in range(halvings + 1)}:
            raise ValueError(f"voxels_per_cell {self.voxels_per_cell} is not a power of two up to {2**halvings}")
        if self.height_bins % 2**halvings:
            raise ValueError(f"height_bins {self.height_bins} cannot be halved {halvings} times")
        return self

    def build(self, grid: BevGrid) -> "LidarEncoder":
        """The encoder with fresh weights."""
        return LidarEncoder(self, grid)


class LidarEncoder(nn.Module):
    """Points to a BEV map that is exactly zero where no point fell near."""

    def __init__(self, spec: LidarSpec, grid: BevGrid) -> None:
        super().__init__()
        self.spec = spec
        self.grid = grid
        self.strides = _strides(len(spec.widths), spec.voxels_per_cell)
        self._units = [spec.age_unit if name == "age" else 1.0 for name in VOXEL_FEATURES]
        self.levels = nn.ModuleList()
        channels = len(VOXEL_FEATURES)
        for width, depth, stride in zip(spec.widths, spec.depths, (None, *self.strides), strict=True):
            self.levels.append(_Level(channels, width, depth, stride))
            channels = width
        height = spec.height_bins // 2 ** (len(spec.widths) - 1)
        # Over the whole column at once: the same as stacking the heights as channels and a 1x1 convolution.
        self.fold = SparseUnit(channels, spec.channels, (height, 1, 1))

    def forward(self, points: Points, samples: int) -> Float[Tensor, "{samples} c y x"]:
        """The BEV map of each of the samples.

        Args:
            points: Of all samples; some may have none.
            samples: In the batch.
        """
        # A teacher, and students that train side by side, look at the same points.
        key = (self.grid, self.spec.voxels_per_cell, self.spec.height_bins, self.strides)
        if key not in points.derived:
            points.derived[key] = _pyramid(points, *key)
        pyramid: _Pyramid = points.derived[key]
        features = pyramid.features
        if self.spec.age_unit != 1:
            features = features / constant(tuple(self._units), features)
        for level, down, around in zip(self.levels, (None, *pyramid.down), pyramid.around, strict=True):
            features = level(features, down, around)
        return dense(self.fold(features, pyramid.column), pyramid.column.sites, samples)


def _strides(levels: int, voxels_per_cell: int) -> tuple[Triple, ...]:
    """Of each level after the first."""
    plane, strides = voxels_per_cell, []
    for _ in range(levels - 1):
        strides.append((2, 2, 2) if plane > 1 else (2, 1, 1))
        plane = max(plane // 2, 1)
    return tuple(strides)


@dataclass(frozen=True)
class _Pyramid:
    """What an encoder needs to know of a batch of points, whatever its widths, depths and weights are."""

    features: Float[Tensor, "v 7"]
    """Of the voxels of the first level."""
    around: tuple[ConvTable, ...]
    """Of the submanifold convolutions of each level."""
    down: tuple[ConvTable, ...]
    """From each level to the next."""
    column: ConvTable
    """From the last level to the BEV map."""


def _pyramid(
    points: Points, grid: BevGrid, voxels_per_cell: int, height_bins: int, strides: tuple[Triple, ...]
) -> _Pyramid:
    features, sites = voxelise(points, grid, voxels_per_cell, height_bins)
    around, down = [submanifold_table(sites, _AROUND)], []
    for stride in strides:
        # Windows that do not overlap: under a kernel of 3 the ground grows into a slab, at several times the cost.
        down.append(strided_table(sites, stride, stride, (0, 0, 0)))
        sites = down[-1].sites
        around.append(submanifold_table(sites, _AROUND))
    height = (sites.shape[0], 1, 1)
    return _Pyramid(features, tuple(around), tuple(down), strided_table(sites, height, height, (0, 0, 0)))


class _Level(nn.Module):
    """A strided convolution (but for the first level), then submanifold ones on one shared table."""

    def __init__(self, in_channels: int, width: int, depth: int, stride: Triple | None) -> None:
        super().__init__()
        self.down: SparseUnit | None = None
        if stride is not None:
            self.down = SparseUnit(in_channels, width, stride)
            in_channels = width
        self.units = nn.ModuleList(SparseUnit(in_channels if i == 0 else width, width, _AROUND) for i in range(depth))

    def forward(
        self, features: Float[Tensor, "v_in c_in"], down: ConvTable | None, around: ConvTable
    ) -> Float[Tensor, "v_out c_out"]:
        if self.down is not None:
            assert down is not None, "a level without a way to it"
            features = self.down(features, down)
        for unit in self.units:
            features = unit(features, around)
        return features
