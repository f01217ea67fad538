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


def test_encoders_that_see_the_same_points_share_voxels_and_tables(encoder, tiny_batch, grid):
    points = tiny_batch.lidar
    wider = SPEC.model_copy(update={"widths": (8, 10, 12), "depths": (2, 1, 1)}).build(grid)
    finer = SPEC.model_copy(update={"voxels_per_cell": 4}).build(grid)
    with torch.no_grad():
        wider(points, 2)
    shared = dict(points.derived)
    bev = encoder(points, 2)
    assert len(shared) == 1
    assert points.derived == shared
    finer(points, 2)
    assert len(points.derived) == 2
    # What is shared is what would have been made.
    alone = encoder(Points(points.values, points.sample), 2)
    assert torch.equal(bev, alone)
    for mine, theirs in zip(
        torch.autograd.grad(bev.sum(), list(encoder.parameters())),
        torch.autograd.grad(alone.sum(), list(encoder.parameters())),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_points_elsewhere_know_nothing_yet(encoder, tiny_batch):
    encoder(tiny_batch.lidar, 2)
    assert not tiny_batch.lidar.to("cpu").derived


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


def test_ages_are_read_in_their_unit(grid, tiny_batch):
    plain, scaled = (SPEC.model_copy(update={"age_unit": unit}).build(grid).eval() for unit in (1.0, 0.125))
    scaled.load_state_dict(plain.state_dict())
    values = tiny_batch.lidar.values
    older = torch.cat([values[:, :4], 8 * values[:, 4:]], dim=1)
    assert values[:, 4].max() > 0
    seen = scaled(tiny_batch.lidar, 2)
    assert_close(seen, plain(Points(older, tiny_batch.lidar.sample), 2))
    assert (seen != plain(tiny_batch.lidar, 2)).any()
