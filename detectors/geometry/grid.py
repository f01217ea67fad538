"""BevGrid: metres to bird's-eye-view cells and back; the only place that knows the BEV axes."""

from typing import Literal, Self

from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from detectors.asynchronous import constant
from detectors.spec import Spec

BevFrame = Literal["ego", "lidar"]
"""The BEV frame of a detector, at the time of the LiDAR keyframe: the ego car's (x forward, y left, origin on the
ground below the rear axle) or LIDAR_TOP's (x right, y forward, origin in the sensor, about 1.8 m above the ground)."""


class BevGrid(Spec):
    """A rectangle of square cells in the BEV frame (`BevFrame`; z up, metres).

    BEV maps are stored ``[..., y, x]``: the row counts cells along y, the column along x, both from the lower bound.
    Continuous cell coordinates put the edge of the first cell at 0 and its centre at 0.5.
    """

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    z_range: tuple[float, float]
    cell: float = Field(gt=0)

    @model_validator(mode="after")
    def _ranges_are_whole_cells(self) -> Self:
        for name in ("x_range", "y_range"):
            low, high = getattr(self, name)
            cells = (high - low) / self.cell
            if cells < 1 or abs(cells - round(cells)) > 1e-6:
                raise ValueError(f"{name} [{low}, {high}] is not a whole number of cells of {self.cell} m")
        if self.z_range[1] <= self.z_range[0]:
            raise ValueError(f"z_range {self.z_range} is empty")
        return self

    @property
    def rows(self) -> int:
        """Cells along y."""
        return round((self.y_range[1] - self.y_range[0]) / self.cell)

    @property
    def columns(self) -> int:
        """Cells along x."""
        return round((self.x_range[1] - self.x_range[0]) / self.cell)

    @property
    def reach(self) -> float:
        """Radius around the origin up to which the grid has cells in every direction, metres."""
        return min(-self.x_range[0], self.x_range[1], -self.y_range[0], self.y_range[1])

    def cells_from_metres(self, xy: Float[Tensor, "*any 2"]) -> Float[Tensor, "*any 2"]:
        """Continuous (column, row) of BEV positions."""
        return (xy - constant((self.x_range[0], self.y_range[0]), xy)) / self.cell

    def metres_from_cells(self, cells: Float[Tensor, "*any 2"]) -> Float[Tensor, "*any 2"]:
        """BEV positions of continuous (column, row)."""
        return cells * self.cell + constant((self.x_range[0], self.y_range[0]), cells)

    def contains(self, xy: Float[Tensor, "*any 2"]) -> Bool[Tensor, "*any"]:
        """Whether BEV positions are on the grid; its lower edges are, its upper ones are not."""
        cells = self.cells_from_metres(xy)
        return ((cells >= 0) & (cells < constant((self.columns, self.rows), cells))).all(dim=-1)

    def sampling_from_metres(self, xy: Float[Tensor, "*any 2"]) -> Float[Tensor, "*any 2"]:
        """Coordinates for ``grid_sample(..., align_corners=False)`` on a map of this grid, whatever its resolution."""
        return self.cells_from_metres(xy) * constant((2 / self.columns, 2 / self.rows), xy) - 1
