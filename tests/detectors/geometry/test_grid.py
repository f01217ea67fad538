"""BevGrid turns metres into cells and back, rows along y and columns along x."""

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from detectors.geometry.grid import BevGrid


def test_rows_count_y_and_columns_count_x(grid):
    assert (grid.rows, grid.columns) == (12, 16)


def test_lower_corner_is_cell_zero_and_cell_middles_are_at_half(grid):
    cells = grid.cells_from_metres(torch.tensor([[-4.0, -8.0], [-1.5, -7.5]]))
    assert_close(cells, torch.tensor([[0.0, 0.0], [2.5, 0.5]]))


def test_metres_survive_the_round_trip(rng, grid):
    metres = 20 * torch.randn(5, 7, 2, generator=rng)
    assert_close(grid.metres_from_cells(grid.cells_from_metres(metres)), metres)


def test_sampling_a_map_of_positions_returns_them(rng, grid):
    y, x = torch.meshgrid(torch.arange(12) + 0.5, torch.arange(16) + 0.5, indexing="ij")
    positions = grid.metres_from_cells(torch.stack([x, y], dim=-1))
    wanted = torch.tensor([[-3.0, -7.0], [11.0, 3.0], [0.3, -1.7]])
    sampled = torch.nn.functional.grid_sample(
        positions.permute(2, 0, 1)[None], grid.sampling_from_metres(wanted)[None, None], align_corners=False
    )
    assert_close(sampled[0, :, 0].T, wanted)


@pytest.mark.parametrize(
    "change", [{"x_range": (0.0, 1.5)}, {"y_range": (1.0, 0.0)}, {"z_range": (1.0, 1.0)}, {"cell": 0.0}, {"rows": 3}]
)
def test_an_impossible_grid_is_refused(grid, change):
    with pytest.raises(ValidationError):
        BevGrid(**(grid.model_dump() | change))


def test_the_grid_contains_its_lower_edges_and_not_its_upper_ones(grid):
    # x from -4 to 12 m, y from -8 to 4 m.
    inside = torch.tensor([[-4.0, -8.0], [11.9, 3.9], [0.0, 0.0]])
    outside = torch.tensor([[-4.1, 0.0], [12.0, 0.0], [0.0, -8.1], [0.0, 4.0], [torch.nan, 0.0]])
    assert grid.contains(inside).tolist() == [True] * 3
    assert grid.contains(outside).tolist() == [False] * 5
