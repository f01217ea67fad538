"""A camera's own depth loss: the nearest return of a feature names its bin, and the other bins are wrong."""

import math

import pytest
import torch
from torch.testing import assert_close

from detectors.batch import CameraViews, Points
from detectors.encoders.depth_supervision import depth_loss, depth_targets
from detectors.geometry.grid import BevGrid
from detectors.geometry.lift import LiftGeometry

STRIDE, SIZE = 16, (3, 4)
GRID = BevGrid(x_range=(-16.0, 16.0), y_range=(-16.0, 16.0), z_range=(-5.0, 3.0), cell=0.8)
GEOMETRY = LiftGeometry(grid=GRID, feature_size=SIZE, stride=STRIDE, depth_range=(2.0, 10.0), depth_bins=16)
AHEAD = torch.tensor([[0.0, 0, 1, 0.5], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])


def _views(count=1):
    """Cameras half a metre ahead of the origin that look along +x, focal length 40 px, middle at (32, 24)."""
    intrinsics = torch.tensor([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]]).expand(1, count, 3, 3)
    images = torch.zeros(1, count, 3, SIZE[0] * STRIDE, SIZE[1] * STRIDE, dtype=torch.uint8)
    return CameraViews(images, intrinsics, AHEAD.expand(1, count, 4, 4), torch.zeros(1, count))


def _at(column, row, depth):
    """The place that a pixel at a depth shows."""
    return [depth + 0.5, -(column - 32) / 40 * depth, 1.5 - (row - 24) / 40 * depth]


def test_the_nearest_of_a_patch_by_hand():
    points = torch.tensor(
        [
            _at(5, 5, 6.3),  # patch (0, 0): farther than the next one
            _at(12, 14, 4.6),
            _at(17, 5, 9.99),  # patch (0, 1): the last bin
            _at(40, 20, 1.5),  # patch (1, 2): nearer than all bins, and hides the next one
            _at(41, 20, 5.0),
            _at(60, 40, 12.0),  # patch (2, 3): farther than all bins
            _at(20, 40, -3.0),  # behind the camera
            _at(70, 20, 5.0),  # outside of the image
        ]
    )
    bins = depth_targets(points, _views()[0], GEOMETRY)
    wanted = torch.full((1, 3, 4), -1)
    # Bins of half a metre from 2 m on.
    wanted[0, 0, 0], wanted[0, 0, 1] = 5, 15
    assert torch.equal(bins, wanted)


def test_a_scaled_and_turned_world_has_the_same_depths():
    """Augmentation moves points and cameras together; depths are those of the images."""
    points = torch.tensor([_at(12, 14, 4.6), _at(20, 20, 7.1)])
    cos, sin = 1.05 * math.cos(0.3), 1.05 * math.sin(0.3)
    matrix = torch.tensor([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1.05, 0], [0, 0, 0, 1]])
    views = _views()
    moved = CameraViews(views.images, views.intrinsics, matrix @ views.ego_from_camera, views.age)
    same = depth_targets(points @ matrix[:3, :3].T, moved[0], GEOMETRY)
    assert torch.equal(same, depth_targets(points, views[0], GEOMETRY))
    assert (same >= 0).sum() == 2


def _cloud(places, ages):
    values = torch.cat([torch.tensor(places), torch.zeros(len(places), 1), torch.tensor(ages)[:, None]], dim=1)
    return Points(values, torch.zeros(len(places), dtype=torch.long))


def test_loss_by_loops_and_where_its_gradient_is(rng):
    depth = torch.softmax(torch.randn(1, 1, 16, *SIZE, generator=rng, dtype=torch.float64), dim=2).requires_grad_()
    cloud = _cloud([_at(12, 14, 4.6), _at(40, 20, 7.1), _at(60, 40, 12.0), _at(5, 40, 3.0)], [0.0, 0.0, 0.0, 0.1])
    loss = depth_loss(depth, _views(), cloud, GEOMETRY)
    # The third is out of range, and the fourth of an earlier sweep.
    known = {(0, 0): 5, (1, 2): 10}
    total = 0.0
    for (row, column), right in known.items():
        for d in range(16):
            p = depth[0, 0, d, row, column].item()
            total -= math.log(p) if d == right else math.log(1 - p)
    assert loss.item() == pytest.approx(total / 2)
    loss.backward()
    touched = depth.grad[0, 0].abs().sum(dim=0).nonzero().tolist()
    assert touched == [[0, 0], [1, 2]]
    assert depth.grad[0, 0, 5, 0, 0].item() == pytest.approx(-1 / depth[0, 0, 5, 0, 0].item() / 2)


def test_only_the_newest_keyframe_is_supervised(rng):
    geometry = GEOMETRY.model_copy(update={"keyframes": 2})
    depth = torch.softmax(torch.randn(1, 2, 16, *SIZE, generator=rng), dim=2).requires_grad_()
    depth_loss(depth, _views(2), _cloud([_at(12, 14, 4.6)], [0.0]), geometry).backward()
    assert depth.grad[:, 0].any()
    assert not depth.grad[:, 1].any()


def test_samples_of_a_batch_have_points_of_their_own(rng):
    views, one = _views(), _cloud([_at(12, 14, 4.6)], [0.0])
    both = CameraViews(*(torch.cat([value, value]) for value in vars(views).values()))
    depth = torch.softmax(torch.randn(2, 1, 16, *SIZE, generator=rng), dim=2)
    cloud = Points(torch.cat([one.values, _cloud([_at(40, 20, 7.1)], [0.0]).values]), torch.tensor([0, 1]))
    alone = depth_loss(depth[:1], views, one, GEOMETRY)
    other = depth_loss(depth[1:], views, _cloud([_at(40, 20, 7.1)], [0.0]), GEOMETRY)
    assert_close(depth_loss(depth, both, cloud, GEOMETRY), (alone + other) / 2)


@pytest.mark.parametrize("places", [[_at(70, 20, 5.0)], []])
def test_without_a_return_in_the_images_it_costs_nothing(places):
    depth = torch.full((1, 1, 16, *SIZE), 1 / 16, requires_grad=True)
    loss = depth_loss(
        depth,
        _views(),
        Points(
            torch.tensor(places).reshape(-1, 3).repeat(1, 2)[:, :5] * 1.0, torch.zeros(len(places), dtype=torch.long)
        ),
        GEOMETRY,
    )
    loss.backward()
    assert loss.item() == 0
    assert not depth.grad.any()


def test_a_bin_that_softmax_rounds_to_nothing_costs_no_infinity():
    depth = torch.zeros(1, 1, 16, *SIZE)
    depth[:, :, 0] = 1
    loss = depth_loss(depth.requires_grad_(), _views(), _cloud([_at(12, 14, 4.6)], [0.0]), GEOMETRY)
    loss.backward()
    assert loss.isfinite()
    assert depth.grad.isfinite().all()
