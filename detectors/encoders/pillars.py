"""PointPillars: columns of points through a PointNet to a BEV map."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from detectors.batch import Points
from detectors.conv_block import SECOND_NORM, NormSpec
from detectors.encoders.point_net import PointNet
from detectors.encoders.sparse_tables import dense
from detectors.encoders.voxels import Groups, group_points
from detectors.geometry.grid import BevGrid
from detectors.spec import Spec
from detectors.sweeps import SweepSpec


class PillarSpec(Spec):
    """PointPillars (Lang et al., 2019), as in CenterPoint.

    Of a point the network knows x, y, z, intensity and age, its offsets from the mean of the pillar's points, and those
    from the middle of the pillar.
    """

    later = frozenset({"earlier"})

    kind: Literal["pillars"] = "pillars"
    sweeps: int = Field(default=10, ge=1)
    """Sweeps of the keyframe and before it. Every point has its age."""
    earlier: SweepSpec = SweepSpec()
    """How the sweeps before the keyframe are read."""
    pillars_per_cell: int = Field(default=4, ge=1)
    """Along x and along y: the map has as many more rows and columns than the grid, which the neck's strides undo."""
    most_points: int = Field(default=20, ge=1)
    """Points of a pillar; its first ones count."""
    most_pillars: tuple[PositiveInt, PositiveInt] = (30_000, 40_000)
    """Of a sample, in training and after it."""
    widths: tuple[PositiveInt, ...] = Field(default=(64,), min_length=1)
    """Channels of each layer of the PointNet; the last one's are those of the map."""
    middle_axes: Literal[2, 3] = 3
    """Whether the offset from the pillar's middle has a height (mmdetection3d) or not (det3d)."""
    age: bool = True
    """Whether points have an age: without it and with two axes, they have nine values (the paper's)."""
    norm: NormSpec = SECOND_NORM
    """Of every batch norm."""

    @property
    def point_features(self) -> int:
        """Values of a point."""
        return 4 + self.age + 3 + self.middle_axes

    @property
    def channels(self) -> int:
        """Channels of the BEV map."""
        return self.widths[-1]

    def build(self, grid: BevGrid) -> "PillarEncoder":
        """The encoder with fresh weights."""
        return PillarEncoder(self, grid)


class PillarEncoder(nn.Module):
    """Points to a BEV map, finer than the grid, that is exactly zero where no point fell."""

    def __init__(self, spec: PillarSpec, grid: BevGrid) -> None:
        super().__init__()
        self.spec = spec
        self.grid = grid
        self.points = PointNet(spec.point_features, spec.widths, spec.norm, repeats_maximum=True)

    def forward(self, points: Points, samples: int) -> Float[Tensor, "{samples} c y x"]:
        """The BEV map of each of the samples.

        Args:
            points: Of all samples; some may have none.
            samples: In the batch.
        """
        spec, grid = self.spec, self.grid
        most_pillars = spec.most_pillars[0 if self.training else 1]
        # A teacher, and students that train side by side, look at the same points.
        key = (spec.kind, grid, spec.pillars_per_cell, spec.most_points, most_pillars)
        if key not in points.derived:
            shape = (1, grid.rows * spec.pillars_per_cell, grid.columns * spec.pillars_per_cell)
            points.derived[key] = group_points(points, grid, shape, spec.most_points, most_pillars)
        groups: Groups = points.derived[key]
        values = groups.of(points.values[:, : 4 + spec.age])
        xyz = values[..., :3]
        mean = xyz.sum(dim=1, keepdim=True) / groups.is_point.sum(dim=1)[:, None, None]
        offset = xyz - middles(groups, grid)[:, None]
        described = torch.cat([values, xyz - mean, offset[..., : spec.middle_axes]], dim=-1)
        return dense(self.points(described, groups.is_point), groups.sites, samples)


def middles(groups: Groups, grid: BevGrid) -> Float[Tensor, "v 3"]:
    """The middle of each pillar, metres."""
    index = groups.sites.index
    per_cell = groups.sites.shape[1] / grid.rows
    plane = grid.metres_from_cells((index[:, [3, 2]] + 0.5) / per_cell)
    return torch.cat([plane, torch.full_like(plane[:, :1], sum(grid.z_range) / 2)], dim=1)
