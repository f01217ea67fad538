"""Augmentation moves everything together: what a point projected to, and which box held it, stays true."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from detectors.batch import CameraViews, Inputs, Sample
from harness.data.augment import _cropped, _is_crop, _warped, augment, bev_matrix, move_bev, warp_images
from harness.data.nuscenes import read
from harness.study.schedule import AugmentSpec

SIZE = (32, 48)


@pytest.fixture
def sample(make_batch):
    """One sample with two views, LiDAR and RADAR points and boxes; its images are twice as large as `SIZE`."""
    batch = make_batch(boxes=(4,), image_size=(64, 96))
    views = CameraViews(
        batch.views.images[0], batch.views.intrinsics[0], batch.views.ego_from_camera[0], batch.views.age[0]
    )
    return Sample("a", views, lidar=batch.lidar.values, radar=batch.radar.values, boxes=batch.boxes[0])


def _pixels(views, points, camera):
    own = torch.linalg.inv(views.ego_from_camera[camera].double())
    xyz = points[:, :3].double() @ own[:3, :3].T + own[:3, 3]
    uvw = xyz @ views.intrinsics[camera].double().T
    return uvw[:, :2] / uvw[:, 2:], uvw[:, 2] > 0.5


def _in_box_axes(boxes, points):
    """Points relative to each box, along its length and to its left, in multiples of its size."""
    offset = points[None, :, :2] - boxes.center[:, None, :2]
    cos, sin = boxes.yaw.cos()[:, None], boxes.yaw.sin()[:, None]
    along = (cos * offset[..., 0] + sin * offset[..., 1]) / boxes.size[:, None, 0]
    return along, (cos * offset[..., 1] - sin * offset[..., 0]) / boxes.size[:, None, 1]


MOVES = {
    "turn": {"angle": 0.3},
    "turn far": {"angle": -2.0},
    "scale": {"scale": 0.9},
    "shift": {"shift": (2.0, -3.0)},
    "flip x": {"flip_x": True},
    "flip y": {"flip_y": True},
    "all": {"angle": 0.7, "scale": 1.1, "flip_y": True, "shift": (-1.0, 0.5)},
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
def test_moving_the_bev_frame_moves_points_boxes_and_cameras_together(sample, move):
    moved = move_bev(sample, bev_matrix(**move))
    for camera in range(2):
        (before, seen), (after, seen_after) = (_pixels(s.views, s.lidar, camera) for s in (sample, moved))
        assert torch.equal(seen, seen_after)
        assert_close(after[seen], before[seen], atol=1e-2, rtol=1e-4)
    along, left = _in_box_axes(sample.boxes, sample.lidar)
    along_after, left_after = _in_box_axes(moved.boxes, moved.lidar)
    mirrored = bool(move.get("flip_x")) != bool(move.get("flip_y"))
    assert_close(along_after, along, atol=1e-3, rtol=1e-4)
    assert_close(left_after, -left if mirrored else left, atol=1e-3, rtol=1e-4)
    # Heights scale about the ground of the ego car.
    scale = move.get("scale", 1.0)
    assert_close(moved.boxes.center[:, 2], sample.boxes.center[:, 2] * scale)
    assert_close(moved.boxes.size, sample.boxes.size * scale)
    assert (moved.boxes.yaw.abs() <= math.pi).all()


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
def test_velocities_are_differences_of_moved_places(sample, move):
    matrix = bev_matrix(**move)
    moved = move_bev(sample, matrix)
    boxes, radar = sample.boxes, sample.radar
    forward = torch.cat([boxes.velocity, torch.zeros(len(boxes), 1)], dim=1)
    later = move_bev(replace(sample, boxes=replace(boxes, center=boxes.center + forward)), matrix)
    assert_close(moved.boxes.velocity, (later.boxes.center - moved.boxes.center)[:, :2], atol=1e-4, rtol=1e-4)
    ahead = radar.clone()
    ahead[:, :2] += radar[:, 4:6]
    later = move_bev(replace(sample, radar=ahead), matrix)
    assert_close(moved.radar[:, 4:6], (later.radar - moved.radar)[:, :2], atol=1e-4, rtol=1e-4)
    assert torch.equal(moved.radar[:, [3, 6]], radar[:, [3, 6]])
    assert torch.equal(moved.lidar[:, 3:], sample.lidar[:, 3:])


def test_turn_by_a_right_angle_by_hand(sample):
    boxes = replace(
        sample.boxes[:1],
        center=torch.tensor([[3.0, 0.0, 1.0]]),
        yaw=torch.tensor([0.0]),
        velocity=torch.tensor([[2.0, 0.0]]),
    )
    moved = move_bev(replace(sample, boxes=boxes), bev_matrix(math.pi / 2)).boxes
    assert_close(moved.center, torch.tensor([[0.0, 3.0, 1.0]]), atol=1e-6, rtol=0)
    assert_close(moved.velocity, torch.tensor([[0.0, 2.0]]), atol=1e-6, rtol=0)
    assert_close(moved.yaw, torch.tensor([math.pi / 2]))


def test_a_velocity_that_was_not_annotated_stays_unknown(sample):
    unknown = replace(sample, boxes=replace(sample.boxes, velocity=torch.full((4, 2), math.nan)))
    assert move_bev(unknown, bev_matrix(0.2, flip_y=True)).boxes.velocity.isnan().all()


def test_nothing_is_edited_in_place(sample):
    kept = [t.clone() for t in (sample.lidar, sample.radar, sample.views.images, sample.boxes.center)]
    augment(sample, AugmentSpec(mirror_probability=1.0), SIZE, torch.Generator().manual_seed(0))
    for before, after in zip(kept, (sample.lidar, sample.radar, sample.views.images, sample.boxes.center), strict=True):
        assert torch.equal(before, after)


def test_warped_image_shows_at_the_new_pixel_what_it_showed_at_the_old_one(sample):
    # A smooth image, whose value at (column, row) is 2 * column + row, moved by an affine matrix.
    rows, columns = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    ramp = (2 * columns + 0.5 * rows).expand(2, 3, 64, 96).to(torch.uint8)
    angle = 0.1
    matrix = torch.tensor(
        [[math.cos(angle), -math.sin(angle), -20.0], [math.sin(angle), math.cos(angle), -18.0], [0, 0, 1]]
    )
    warped = warp_images(replace(sample.views, images=ramp), torch.stack([matrix, matrix]), SIZE)
    assert warped.images.shape == (2, 3, *SIZE)
    back = torch.linalg.inv(matrix)
    for column, row in ((10.5, 7.5), (30.5, 20.5), (40.5, 28.5)):
        x, y, _ = (back @ torch.tensor([column, row, 1.0])).tolist()
        assert warped.images[0, 0, int(row), int(column)] == pytest.approx(2 * x + 0.5 * y, abs=1.5)
    # The intrinsics take the same way: a place is projected to where the warped image shows it.
    for camera in range(2):
        (before, seen), (after, _) = (_pixels(v, sample.lidar, camera) for v in (sample.views, warped))
        moved = torch.cat([before, torch.ones(len(before), 1)], dim=1) @ matrix.double().T
        assert_close(after[seen], moved[seen, :2], atol=1e-3, rtol=1e-4)


def test_cropping_at_whole_pixels_changes_none(sample):
    crop = torch.tensor([[1.0, 0, -17], [0, 1, -32], [0, 0, 1]])
    warped = warp_images(sample.views, torch.stack([crop, crop]), SIZE)
    assert torch.equal(warped.images, sample.views.images[:, :, 32:64, 17:65])


@given(left=st.integers(-3, 12), top=st.integers(-3, 9), flip=st.booleans(), fraction=st.sampled_from([0.0, 0.25]))
def test_a_crop_by_slicing_is_the_crop_by_interpolating(left, top, flip, fraction):
    # 8x12 pixels out of 14x20; beyond the border, or between pixels, slicing is not asked.
    image = np.random.default_rng(0).integers(0, 256, (3, 14, 20), dtype=np.uint8)
    matrix = np.array([[1.0, 0, -left - fraction], [0, 1, -top], [0, 0, 1]])
    if flip:
        matrix = np.array([[-1.0, 0, 12], [0, 1, 0], [0, 0, 1]]) @ matrix
    whole = 0 <= left <= 20 - 12 and 0 <= top <= 14 - 8 and fraction == 0
    assert _is_crop(matrix, image.shape[1:], (8, 12)) == whole
    if whole:
        assert np.array_equal(_cropped(image, matrix, (8, 12)), _warped(image, matrix, (8, 12), cv2.INTER_LINEAR))


def test_mirrored_world_is_the_mirrored_image(sample):
    plain, mirrored = (augment(sample, _still(mirror), (64, 96), torch.Generator().manual_seed(0)) for mirror in (0, 1))
    assert torch.equal(mirrored.views.images, plain.views.images.flip(-1))
    assert torch.equal(mirrored.boxes.center[:, 1], -plain.boxes.center[:, 1])
    for camera in range(2):
        (before, seen), (after, seen_after) = (_pixels(s.views, s.lidar, camera) for s in (plain, mirrored))
        assert torch.equal(seen, seen_after)
        assert_close(after[seen, 0], 96 - before[seen, 0], atol=1e-2, rtol=1e-4)
        assert_close(after[seen, 1], before[seen, 1], atol=1e-2, rtol=1e-4)


def _still(mirror=0.0, **image):
    return AugmentSpec(mirror_probability=mirror, rotation_degrees=0, scale=(1, 1), image={"zoom": (1, 1), **image})


def test_no_augmentation_returns_the_sample(sample):
    same = augment(sample, _still(), (64, 96), torch.Generator().manual_seed(0))
    assert torch.equal(same.views.images, sample.views.images)
    assert_close(same.views.intrinsics, sample.views.intrinsics)
    assert_close(same.boxes.center, sample.boxes.center)
    assert_close(same.boxes.yaw, sample.boxes.yaw)
    assert torch.equal(same.lidar, sample.lidar)


def test_bev_draw_is_the_same_with_one_sensor_less(sample):
    variants = (sample, replace(sample, lidar=None), replace(sample, views=None))
    drawn = [
        augment(variant, AugmentSpec(shift=1.0), SIZE, torch.Generator().manual_seed(7)).boxes.center
        for variant in variants
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], sample.boxes.center)


def test_every_knob_turns_something(sample):
    def draw(spec):
        moved = augment(sample, spec, SIZE, torch.Generator().manual_seed(3))
        return torch.cat([t.flatten() for t in (moved.lidar, moved.views.intrinsics, moved.views.ego_from_camera)])

    still = draw(_still())
    knobs = [
        AugmentSpec(mirror_probability=1, rotation_degrees=0, scale=(1, 1), image={"zoom": (1, 1)}),
        AugmentSpec(mirror_probability=0, rotation_degrees=9, scale=(1, 1), image={"zoom": (1, 1)}),
        AugmentSpec(mirror_probability=0, rotation_degrees=0, scale=(0.8, 0.9), image={"zoom": (1, 1)}),
        AugmentSpec(mirror_probability=0, rotation_degrees=0, scale=(1, 1), shift=1, image={"zoom": (1, 1)}),
        AugmentSpec(mirror_probability=0, rotation_degrees=0, scale=(1, 1), flip_probability=1, image={"zoom": (1, 1)}),
        _still(zoom=(0.9, 1.0)),
        _still(rotation_degrees=5),
        _still(flip_probability=1),
    ]
    drawn = [draw(knob) for knob in knobs]
    for i, one in enumerate(drawn):
        assert not torch.equal(one, still)
        assert not any(torch.equal(one, other) for other in drawn[:i])


@pytest.mark.parametrize("root", ["smoke_root", "real_root"])
def test_projection_commutes_with_augmentation_in_both_worlds(root, request):
    root = request.getfixturevalue(root)
    inputs = Inputs(image_size=(64, 176), lidar_sweeps=1, radar_sweeps=1)
    token = root.tokens("mini_train" if root.version == "v1.0-mini" else "synthetic_val")[0]
    spec = AugmentSpec(flip_probability=0.5, shift=2.0, image={"zoom": (0.9, 1.2), "rotation_degrees": 5.4})
    whole = read(root, token, inputs, uncropped_zoom=1.2)
    shown = 0
    for seed in range(4):
        moved = augment(whole, spec, inputs.image_size, torch.Generator().manual_seed(seed))
        assert moved.views.images.shape == (6, 3, 64, 176)
        for camera in range(6):
            (before, seen), (after, _) = (_pixels(s.views, s.lidar, camera) for s in (whole, moved))
            # Pixels after are one affine function of pixels before, and the images follow it.
            ones = torch.cat([before, torch.ones(len(before), 1)], dim=1)
            affine = moved.views.intrinsics[camera].double() @ torch.linalg.inv(whole.views.intrinsics[camera].double())
            assert_close(after[seen], (ones @ affine.T)[seen, :2], atol=0.02, rtol=1e-3)
            inside = seen & (before > 2).all(dim=1) & (before[:, 0] < whole.views.images.shape[-1] - 2)
            inside &= before[:, 1] < whole.views.images.shape[-2] - 2
            inside &= (after > 2).all(dim=1) & (after[:, 0] < 174) & (after[:, 1] < 62)
            old = _at(whole.views.images[camera], before[inside])
            new = _at(moved.views.images[camera], after[inside])
            shown += int(inside.sum())
            if inside.sum() > 200:
                # The same places look the same: brightness of corresponding pixels goes together.
                assert torch.corrcoef(torch.stack([old, new]))[0, 1] > 0.8
    assert shown > 2000


def _at(image, pixels):
    column, row = pixels.long().unbind(dim=1)
    return image[:, row, column].float().mean(dim=0)


def test_views_remember_how_they_were_changed(sample):
    """Undone, what an augmented view says of its camera is what it said before."""
    spec = AugmentSpec(rotation_degrees=20.0, scale=(0.9, 1.1), flip_probability=0.5)
    changed = augment(sample, spec, SIZE, torch.Generator().manual_seed(3)).views
    assert not torch.equal(changed.from_file, sample.views.from_file)
    assert not torch.equal(changed.moved, sample.views.moved)
    intrinsics = torch.linalg.inv(changed.from_file) @ changed.intrinsics
    mount = torch.linalg.inv(changed.moved) @ changed.ego_from_camera
    assert_close(intrinsics, sample.views.intrinsics, rtol=1e-4, atol=1e-3)
    assert_close(mount, sample.views.ego_from_camera, rtol=1e-4, atol=1e-4)
    # One BEV frame, whatever the camera.
    assert torch.equal(changed.moved[0], changed.moved[1])
