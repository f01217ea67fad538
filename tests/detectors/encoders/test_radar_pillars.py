"""RADAR pillars: states as channels, returns moved by their velocity, the maximum over a cell."""

import pytest
import torch
from torch.testing import assert_close

from detectors.batch import Points
from detectors.encoders.radar_pillars import RadarPillarSpec, encode_states

SPEC = RadarPillarSpec(widths=(6, 4), most_points=4)


def _points(*rows):
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 11)
    return Points(values, torch.zeros(len(values), dtype=torch.long))


# x, y, z, RCS, velocity along x and y, age; dynamic property, ambiguity, validity, false alarm probability.
PARKED = [0.2, 0.3, 0.5, 8.0, 0.0, 0.0, 0.1, 1, 3, 0, 1]
DRIVING = [0.2, 0.3, 0.5, 8.0, 10.0, -5.0, 0.2, 0, 3, 0, 1]


def test_a_state_is_a_channel_and_an_ordered_one_several():
    encoded = encode_states(torch.tensor([[2.0, 3.0, 17.0, 3.0], [0.0, 0.0, 0.0, 0.0]]))
    assert encoded.shape == (2, 8 + 5 + 18 + 7)
    assert encoded[0].nonzero()[:, 0].tolist() == [2, 8 + 3, 8 + 5 + 17, 31, 32, 33]
    assert encoded[1].nonzero()[:, 0].tolist() == [0, 8, 13]


def test_published_returns_have_45_values_and_two_offsets():
    assert RadarPillarSpec().point_features == 45 + 2
    assert RadarPillarSpec(states=False).point_features == 7 + 2


def test_a_return_is_moved_by_its_velocity(grid):
    torch.manual_seed(0)
    encoder = SPEC.build(grid).eval()
    for norm in encoder.points.norms:
        norm.bias.data.fill_(1.0)
    column, row = 4, 8
    assert encoder(_points(PARKED), 1).amax(dim=1)[0].nonzero().tolist() == [[row, column]]
    # 0.2 s at 10 m/s along x and -5 m/s along y.
    assert encoder(_points(DRIVING), 1).amax(dim=1)[0].nonzero().tolist() == [[row - 1, column + 2]]
    still = SPEC.model_copy(update={"compensated": False}).build(grid).eval()
    still.load_state_dict(encoder.state_dict())
    assert still(_points(DRIVING), 1).amax(dim=1)[0].nonzero().tolist() == [[row, column]]


def test_described_by_hand(grid):
    spec = RadarPillarSpec(states=False, compensated=False, widths=(9,), most_points=1)
    encoder = spec.build(grid).eval()
    encoder.points.linears[0].weight.data.copy_(torch.eye(9))
    norm = encoder.points.norms[0]
    norm.weight.data.fill_((1 + norm.eps) ** 0.5)
    bev = encoder(_points([0.7, 0.8, 1.0, 8.0, 3.0, 4.0, 0.1, 0, 0, 0, 0]), 1)
    # Shares of the grid, which reaches from -4, -8 and -3 over 16, 12 and 8 m, then offsets from the cell's middle.
    expected = torch.tensor([4.7 / 16, 8.8 / 12, 0.5, 8.0, 3.0, 4.0, 0.1, 0.2, 0.3])
    assert_close(bev[0, :, 8, 4], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spec", [SPEC, SPEC.model_copy(update={"states": False})])
def test_no_returns_give_an_empty_map(grid, spec):
    bev = spec.build(grid)(_points(), 2)
    assert bev.shape == (2, 4, grid.rows, grid.columns)
    assert not bev.any()
