"""RADAR encoder: returns to pillars, one BEV cell each, and a few convolutions that spread their sparse features."""

from itertools import pairwise
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from detectors.asynchronous import constant
from detectors.batch import Points
from detectors.geometry.grid import BevGrid
from detectors.spec import Spec

RETURN_FEATURES = ("offset_x", "offset_y", "x", "y", "rcs", "velocity_x", "velocity_y", "speed", "age")
"""Offsets from the cell's middle in cells, place in shares of the grid from -1 to 1, RCS in tens of dBsm, velocities
in tens of m/s, age in seconds."""


class RadarSpec(Spec):
    """A pillar encoder: what is said of each return, the maximum over a cell, then 3x3 convolutions."""

    later = frozenset({"kind"})

    kind: Literal["cells"] = "cells"
    sweeps: int = Field(default=3, ge=1)
    """Sweeps of each RADAR, the keyframe's and earlier ones."""
    width: int = Field(ge=1)
    """Channels of a return's features and of the hidden convolutions."""
    depth: int = Field(default=2, ge=1)
    """Convolutions; a RADAR sees a corner of what a box covers, and each of them reaches a cell further."""
    channels: int
    """Channels of the BEV map."""

    @property
    def states(self) -> bool:
        """Whether returns come with their states."""
        return False

    def build(self, grid: BevGrid) -> "RadarEncoder":
        """The encoder with fresh weights."""
        return RadarEncoder(self, grid)


class RadarEncoder(nn.Module):
    """Returns to a BEV map that is exactly zero where none is near."""

    def __init__(self, spec: RadarSpec, grid: BevGrid) -> None:
        super().__init__()
        self.grid = grid
        self.describe = nn.Sequential(
            nn.Linear(len(RETURN_FEATURES), spec.width), nn.ReLU(), nn.Linear(spec.width, spec.width), nn.ReLU()
        )
        widths = [spec.width] * spec.depth + [spec.channels]
        layers: list[nn.Module] = []
        for wide, wide_out in pairwise(widths):
            # Without bias or normalisation: empty ground stays exactly zero, and the neck normalises what comes out.
            layers += [nn.Conv2d(wide, wide_out, 3, padding=1, bias=False), nn.ReLU()]
        self.spread = nn.Sequential(*layers)

    def forward(self, points: Points, samples: int) -> Float[Tensor, "{samples} c y x"]:
        """The BEV map of each of the samples.

        Args:
            points: Columns as `Sample.radar` has them.
            samples: In the batch; some may be without returns.
        """
        rows, columns = self.grid.rows, self.grid.columns
        cell = self.grid.cells_from_metres(points.values[:, :2])
        inside = self.grid.contains(points.values[:, :2])
        values, sample = points.values, points.sample
        if cell.device.type == "cpu":
            # Of a GPU the host would have to ask how many these are.
            cell, values, sample, inside = (each[inside] for each in (cell, values, sample, inside))
        corner = cell.floor()
        column, row = corner.long().unbind(dim=1)
        described = torch.cat(
            [
                cell - corner - 0.5,
                2 * cell / constant((columns, rows), cell) - 1,
                values[:, 3:6] / 10,
                rearrange(values[:, 4:6].norm(dim=1), "p -> p 1") / 10,
                values[:, 6:],
            ],
            dim=1,
        )
        features = self.describe(described)
        # Behind the last cell there is one for the returns that are not on the grid.
        cells = samples * rows * columns
        index = torch.where(inside, (sample * rows + row) * columns + column, cells)
        # Features are not negative, so that an empty cell's zero never wins over a return.
        empty = features.new_zeros(cells + 1, features.shape[1])
        pillars = empty.scatter_reduce(0, index[:, None].expand_as(features), features, "amax")[:cells]
        bev = rearrange(pillars, "(b y x) c -> b c y x", y=rows, x=columns)
        result: Tensor = self.spread(bev)
        return result
