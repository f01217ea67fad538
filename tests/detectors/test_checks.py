"""An index that names no row is refused by name, before an operation that does not check reads past a table."""

from dataclasses import replace

import pytest
import torch

from detectors.checks import check_indices, checking
from detectors.encoders.sparse_conv import SparseConv
from detectors.encoders.sparse_tables import Sites, submanifold_table
from detectors.encoders.view_transform import splat
from detectors.geometry.grid import BevGrid
from detectors.geometry.lift import plan_of_cells


def test_the_test_run_checks():
    assert checking()


@pytest.mark.parametrize(("value", "asked"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_the_environment_asks_for_checks(monkeypatch, value, asked):
    monkeypatch.delenv("CROSSBEV_CHECK")
    if value is not None:
        monkeypatch.setenv("CROSSBEV_CHECK", value)
    assert checking() is asked


def test_indices_name_rows():
    check_indices("rows", torch.tensor([0, 4]), 5)
    check_indices("rows", torch.empty(0, dtype=torch.long), 0)
    for wrong in ([0, 5], [-1, 2]):
        with pytest.raises(IndexError, match=f"rows: indices {wrong[0]} to {wrong[1]} into 5 rows"):
            check_indices("rows", torch.tensor(wrong), 5)


GRID = BevGrid(x_range=(0, 3), y_range=(0, 2), z_range=(0, 1), cell=1)


@pytest.fixture
def plan():
    """Of one view with 2 x 2 features of 3 bins on 2 x 3 cells."""
    return plan_of_cells(torch.arange(12, dtype=torch.int32).reshape(1, 2, 2, 3) % 7 - 1, 6)


def _splat(plan, h=2):
    return splat(torch.ones(1, 1, 5, h, 2), torch.ones(1, 1, 3, h, 2), plan, GRID)


def test_a_plan_of_its_own_views_is_taken(plan):
    assert _splat(plan).shape == (1, 5, 2, 3)


def test_a_plan_of_other_views_is_refused(plan):
    with pytest.raises(IndexError, match="made for 4 features, not for 2"):
        _splat(plan, h=1)
    with pytest.raises(IndexError, match="made for 4 features, not for 6"):
        _splat(plan, h=3)


@pytest.mark.parametrize("wrong", [6, -2])
def test_a_damaged_plan_is_refused(plan, wrong):
    damaged = plan.cell.clone()
    damaged[-1, -1] = wrong
    with pytest.raises(IndexError, match="lift plan, cell"):
        _splat(replace(plan, cell=damaged))


def test_a_table_of_other_sites_is_refused():
    sites = Sites(torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3]]), (4, 4, 4))
    conv = SparseConv(3, 2, (3, 3, 3))
    table = submanifold_table(sites, (3, 3, 3))
    assert conv(torch.ones(2, 3), table).shape == (2, 2)
    with pytest.raises(IndexError, match="sparse convolution, input rows: indices 0 to 1 into 1 rows"):
        conv(torch.ones(1, 3), table)
    with pytest.raises(IndexError, match="sparse convolution, output rows"):
        conv(torch.ones(2, 3), replace(table, sites=Sites(sites.index[:1], sites.shape)))
