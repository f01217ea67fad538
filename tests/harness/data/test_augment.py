"""Augmentation moves everything together: what a point projected to, and which box held it, stays true."""

import math
from dataclasses import replace

import pytest
import torch


@pytest.fixture
def sample(make_batch):
    """One sample with two views, points and boxes."""
    from detectors.batch import CameraViews, Sample

    batch = make_batch(boxes=(4,), image_size=(32, 48))
    views = CameraViews(batch.views.images[0], batch.views.intrinsics[0], batch.views.ego_from_camera[0])
    return Sample(token="a", views=views, points=batch.points, boxes=batch.boxes[0])


def _pixels(sample, camera):
    own = torch.linalg.inv(sample.views.ego_from_camera[camera])
    xyz = sample.points[:, :3] @ own[:3, :3].T + own[:3, 3]
    uvw = xyz @ sample.views.intrinsics[camera].T
    seen = xyz[:, 2] > 0.5
    return (uvw[:, :2] / uvw[:, 2:])[seen], seen


def _in_box_axes(sample):
    """Points relative to each box, along its length and to its left."""
    offset = sample.points[None, :, :2] - sample.boxes.center[:, None, :2]
    cos, sin = sample.boxes.yaw.cos()[:, None], sample.boxes.yaw.sin()[:, None]
    return cos * offset[..., 0] + sin * offset[..., 1], cos * offset[..., 1] - sin * offset[..., 0]


@pytest.mark.parametrize("angle", [0.3, -2.0])
def test_turn_moves_points_boxes_and_cameras_together(sample, angle):
    from harness.data.augment import turn

    turned = turn(sample, angle)
    for camera in range(2):
        (before, seen), (after, seen_after) = _pixels(sample, camera), _pixels(turned, camera)
        assert torch.equal(seen, seen_after)
        torch.testing.assert_close(after, before, atol=1e-2, rtol=1e-4)
    for before, after in zip(_in_box_axes(sample), _in_box_axes(turned), strict=True):
        torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-4)
    assert (turned.boxes.yaw.abs() <= math.pi).all()


def test_turn_by_a_right_angle_by_hand(sample):
    from harness.data.augment import turn

    boxes = replace(
        sample.boxes[:1],
        center=torch.tensor([[3.0, 0.0, 1.0]]),
        yaw=torch.tensor([0.0]),
        velocity=torch.tensor([[2.0, 0.0]]),
    )
    turned = turn(replace(sample, boxes=boxes), math.pi / 2).boxes
    torch.testing.assert_close(turned.center, torch.tensor([[0.0, 3.0, 1.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(turned.velocity, torch.tensor([[0.0, 2.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(turned.yaw, torch.tensor([math.pi / 2]))


def test_mirrored_point_projects_to_the_mirrored_pixel(sample):
    from harness.data.augment import mirror

    mirrored = mirror(sample)
    for camera in range(2):
        (before, seen), (after, seen_after) = _pixels(sample, camera), _pixels(mirrored, camera)
        assert torch.equal(seen, seen_after)
        torch.testing.assert_close(after[:, 0], 48 - before[:, 0], atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(after[:, 1], before[:, 1], atol=1e-2, rtol=1e-4)
        # Rotations stay rotations: a reflection would turn boxes seen by this camera inside out.
        assert torch.linalg.det(mirrored.views.ego_from_camera[camera]) == pytest.approx(1, abs=1e-4)
    assert torch.equal(mirrored.views.images[..., 0], sample.views.images[..., -1])


def test_mirrored_boxes_hold_the_mirrored_points(sample):
    from harness.data.augment import mirror

    mirrored = mirror(sample)
    (ahead, left), (ahead_after, left_after) = _in_box_axes(sample), _in_box_axes(mirrored)
    torch.testing.assert_close(ahead_after, ahead, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(left_after, -left, atol=1e-4, rtol=1e-4)
    assert torch.equal(mirrored.boxes.velocity[:, 1], -sample.boxes.velocity[:, 1])


def test_mirror_twice_is_nothing(sample):
    from harness.data.augment import mirror

    again = mirror(mirror(sample))
    assert torch.equal(again.views.images, sample.views.images)
    torch.testing.assert_close(again.views.ego_from_camera, sample.views.ego_from_camera)
    torch.testing.assert_close(again.boxes.yaw, sample.boxes.yaw)
    assert torch.equal(again.points, sample.points)


def test_no_augmentation_returns_the_sample(sample):
    from harness.data.augment import augment
    from harness.study.spec import AugmentSpec

    nothing = AugmentSpec(mirror_probability=0, rotation_degrees=0)
    same = augment(sample, nothing, torch.Generator().manual_seed(0))
    torch.testing.assert_close(same.boxes.center, sample.boxes.center)
    torch.testing.assert_close(same.points, sample.points)


def test_draw_is_the_same_with_one_sensor_less(sample):
    from harness.data.augment import augment
    from harness.study.spec import AugmentSpec

    drawn = [
        augment(variant, AugmentSpec(), torch.Generator().manual_seed(7)).boxes.center
        for variant in (sample, replace(sample, points=None), replace(sample, views=None))
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], sample.boxes.center)
