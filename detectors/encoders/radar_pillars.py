"""RADAR pillars: returns with their states through a PointNet to a BEV map (BEVFusion's and CRKD's RADAR branch)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from detectors.asynchronous import constant
from detectors.batch import RADAR_STATES, Points
from detectors.conv_block import SECOND_NORM, NormSpec
from detectors.encoders.pillars import middles
from detectors.encoders.point_net import PointNet
from detectors.encoders.sparse_tables import dense
from detectors.encoders.voxels import group_points
from detectors.geometry.grid import BevGrid
from detectors.spec import Spec

_MOST_PILLARS = 1 << 40
"""No RADAR fills more."""
_PDH0 = 7
"""Steps of the false alarm probability, each of which has a channel: it is ordered."""


class RadarPillarSpec(Spec):
    """BEVFusion's RADAR encoder: one pillar a cell, and of each return its place, RCS, velocity, age and states."""

    kind: Literal["pillars"] = "pillars"
    sweeps: int = Field(default=6, ge=1)
    """Sweeps of each RADAR, the keyframe's and earlier ones."""
    states: bool = True
    """Whether returns come with their states, the doubtful ones among them, too: 45 values of each instead of 7."""
    compensated: bool = True
    """Whether a return is moved by its velocity for as long as it is old."""
    most_points: int = Field(default=20, ge=1)
    """Returns of a pillar; its first ones count."""
    widths: tuple[PositiveInt, ...] = Field(default=(128, 128, 128, 64), min_length=1)
    """Channels of each layer of the PointNet; the last one's are those of the map."""
    norm: NormSpec = SECOND_NORM
    """Of every batch norm."""

    @property
    def point_features(self) -> int:
        """Values of a return, the offsets from its pillar's middle included."""
        encoded = sum(RADAR_STATES.values()) - RADAR_STATES["pdh0"] + _PDH0
        return 7 + 2 + (encoded if self.states else 0)

    @property
    def channels(self) -> int:
        """Channels of the BEV map."""
        return self.widths[-1]

    def build(self, grid: BevGrid) -> "RadarPillars":
        """The encoder with fresh weights."""
        return RadarPillars(self, grid)


class RadarPillars(nn.Module):
    """Returns to a BEV map that is exactly zero where none is."""

    def __init__(self, spec: RadarPillarSpec, grid: BevGrid) -> None:
        super().__init__()
        self.spec = spec
        self.grid = grid
        self.points = PointNet(spec.point_features, spec.widths, spec.norm, repeats_maximum=False)

    def forward(self, points: Points, samples: int) -> Float[Tensor, "{samples} c y x"]:
        """The BEV map of each of the samples.

        Args:
            points: Columns as `Sample.radar` has them.
            samples: In the batch; some may be without returns.
        """
        spec, grid = self.spec, self.grid
        moved = Points(_compensated(points.values) if spec.compensated else points.values, points.sample)
        groups = group_points(moved, grid, (1, grid.rows, grid.columns), spec.most_points, _MOST_PILLARS)
        encoded = encode_states(moved.values[:, 7:]) if spec.states else moved.values[:, :0]
        values = groups.of(torch.cat([moved.values[:, :7], encoded], dim=1))
        xyz, others = values[..., :3], values[..., 3:]
        offset = (xyz - middles(groups, grid)[:, None])[..., :2]
        low, high = (constant(bound, xyz) for bound in zip(grid.x_range, grid.y_range, grid.z_range, strict=True))
        described = torch.cat([(xyz - low) / (high - low), others, offset], dim=-1)
        return dense(self.points(described, groups.is_point), groups.sites, samples)


def _compensated(values: Float[Tensor, "p c"]) -> Float[Tensor, "p c"]:
    """Returns where they would be by now if their velocity had stayed as it was."""
    place, velocity, age = values[:, :2], values[:, 4:6], values[:, 6:7]
    return torch.cat([place + velocity * age, values[:, 2:]], dim=1)


def encode_states(states: Float[Tensor, "p states"]) -> Float[Tensor, "p encoded"]:
    """One channel for each value of each of RADAR_STATES, but for the last, which is ordered: one for each step.

    A value that a state does not have counts as its nearest one.
    """
    encoded = []
    for values, (name, count) in zip(states.round().long().unbind(dim=1), RADAR_STATES.items(), strict=True):
        if name == "pdh0":
            encoded.append(values[:, None] > torch.arange(_PDH0, device=values.device))
        else:
            encoded.append(F.one_hot(values.clamp(0, count - 1), count))
    return torch.cat(encoded, dim=1).to(states.dtype)
