"""The RADAR encoder says something where returns are, and nothing elsewhere."""

import pytest
import torch
from torch.testing import assert_close

from detectors.batch import Points
from detectors.encoders.radar import RadarSpec

SPEC = RadarSpec(width=6, depth=1, channels=5)


@pytest.fixture
def encoder(grid):
    torch.manual_seed(0)
    return SPEC.build(grid)


def _points(*rows, sample=None):
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 7)
    return Points(values, torch.zeros(len(values), dtype=torch.long) if sample is None else torch.tensor(sample))


# Grid of the tests: x from -4, y from -8, cells of 1 m, 12 rows, 16 columns.
ONE = [2.5, -5.5, 0.3, 12.0, 3.0, -1.0, 0.1]


def test_a_return_lights_its_cell_and_what_a_convolution_reaches(encoder):
    bev = encoder(_points(ONE, sample=[1]), 3)
    assert bev.shape == (3, 5, 12, 16)
    lit = bev.abs().sum(dim=1).nonzero()
    assert set(lit[:, 0].tolist()) == {1}
    assert lit[:, 1].min() >= 1
    assert lit[:, 1].max() <= 3
    assert lit[:, 2].min() >= 5
    assert lit[:, 2].max() <= 7
    # One more convolution reaches one more cell.
    torch.manual_seed(0)
    wider = RadarSpec(width=6, depth=2, channels=5).build(encoder.grid)(_points(ONE), 1)
    assert wider.abs().sum(dim=1).nonzero()[:, 2].max() <= 8


def test_the_order_of_returns_does_not_matter_and_outside_ones_are_dropped(encoder):
    other = [2.7, -5.1, 0.0, -3.0, 0.0, 2.0, 0.0]
    outside = [[12.0, 0, 0, 0, 0, 0, 0], [0, 4.0, 0, 0, 0, 0, 0], [-4.1, 0, 0, 0, 0, 0, 0]]
    assert_close(encoder(_points(ONE, other), 1), encoder(_points(other, *outside, ONE), 1))


def test_velocity_rcs_and_age_are_seen(encoder):
    plain = encoder(_points(ONE), 1)
    for column in (3, 4, 5, 6):
        changed = list(ONE)
        changed[column] += 5.0
        assert not torch.allclose(encoder(_points(changed), 1), plain)


def test_no_returns_give_an_empty_map_and_gradients(encoder):
    bev = encoder(_points(), 2)
    bev.sum().backward()
    assert torch.equal(bev, torch.zeros(2, 5, 12, 16))
    assert all(parameter.grad is not None for parameter in encoder.parameters())
