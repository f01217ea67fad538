"""The LiDAR encoder maps points to BEV cells and leaves the others exactly zero."""

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from detectors.batch import Points
from detectors.encoders.lidar import LidarSpec

SPEC = LidarSpec(voxels_per_cell=2, height_bins=8, widths=(4, 6, 8), depths=(1, 1, 1), channels=5)


@pytest.fixture
def encoder(grid):
    torch.manual_seed(0)
    return SPEC.build(grid)


def test_points_light_up_their_own_cell_and_at_most_their_surroundings(encoder):
    # Cell (row 8, column 4) holds the origin. Two heights and two samples give the norms something to average.
    points = torch.tensor([[0.1, 0.1, 0.0, 0.5, 0.0], [0.6, 0.4, 2.0, 0.1, 0.0], [5.3, -3.2, 1.0, 0.9, 0.0]])
    bev = encoder(Points(points, torch.tensor([0, 0, 1])), 3)
    lit = bev.abs().sum(dim=1).nonzero()
    assert bev.shape == (3, 5, 12, 16)
    assert lit.tolist() == [[0, 8, 4], [1, 4, 9]]


def test_a_map_does_not_depend_on_the_other_samples_in_eval_mode(encoder, tiny_batch):
    encoder.eval()
    both = encoder(tiny_batch.lidar, 2)
    second = tiny_batch.lidar.sample == 1
    alone = encoder(Points(tiny_batch.lidar.values[second], torch.zeros(int(second.sum()), dtype=torch.long)), 1)
    assert_close(both[1], alone[0])


@pytest.mark.parametrize("points", [0, 1])
def test_a_batch_of_too_few_points_for_statistics_leaves_them_alone(encoder, points):
    before = encoder.levels[0].units[0].norm.running_mean.clone()
    bev = encoder(Points(torch.zeros(points, 5), torch.zeros(points, dtype=torch.long)), 2)
    bev.sum().backward()
    assert bev.shape == (2, 5, 12, 16)
    assert bev.isfinite().all()
    assert torch.equal(encoder.levels[0].units[0].norm.running_mean, before)
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize(
    "change",
    [
        {"voxels_per_cell": 3},
        {"voxels_per_cell": 8},
        {"height_bins": 6},
        {"depths": (1, 1)},
        {"depths": (1, 0, 1)},
        {"widths": ()},
    ],
)
def test_an_impossible_encoder_is_refused(change):
    with pytest.raises(ValidationError):
        LidarSpec(**(SPEC.model_dump() | change))
