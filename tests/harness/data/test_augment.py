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
from harness.data.augment import _cropped, _image_matrix, _is_crop, _warped, augment, bev_matrix, move_bev, warp_images
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
    "shift up": {"shift": (0.5, 1.0, -0.75)},
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
    scale, up = move.get("scale", 1.0), move.get("shift", ())[2:]
    assert_close(moved.boxes.center[:, 2], sample.boxes.center[:, 2] * scale + sum(up))
    height, height_after = (s.lidar[None, :, 2] - s.boxes.center[:, None, 2] for s in (sample, moved))
    assert_close(height_after, height * scale, atol=1e-5, rtol=1e-5)
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
        AugmentSpec(mirror_probability=0, rotation_degrees=0, scale=(1, 1), shift_std=(0, 0, 1)),
        _still(zoom=(0.9, 1.0)),
        AugmentSpec(mirror_probability=0, image={"resize": (0.9, 1.0)}),
        _still(rotation_degrees=5),
        _still(flip_probability=1),
    ]
    drawn = [draw(knob) for knob in knobs]
    for i, one in enumerate(drawn):
        assert not torch.equal(one, still)
        assert not any(torch.equal(one, other) for other in drawn[:i])


@pytest.mark.parametrize("size", [{"zoom": (0.9, 1.2)}, {"resize": (0.386, 0.55)}], ids=["zoom", "resize"])
@pytest.mark.parametrize("root", ["smoke_root", "real_root"])
def test_projection_commutes_with_augmentation_in_both_worlds(root, size, request):
    root = request.getfixturevalue(root)
    inputs = Inputs(image_size=(64, 176), lidar_sweeps=1, radar_sweeps=1)
    token = root.tokens("mini_train" if root.version == "v1.0-mini" else "synthetic_val")[0]
    spec = AugmentSpec(
        flip_probability=0.5, shift=2.0, shift_std=(0.5, 0.5, 0.5), image={**size, "rotation_degrees": 5.4}
    )
    whole = read(root, token, inputs, spec.image)
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


FULL, INPUT = (900, 1600), (256, 704)
BEVDEPTH = AugmentSpec(mirror_probability=0, image={"resize": (0.386, 0.55)})


def _from_file(zoom_share, crop_share, spec=BEVDEPTH, size=INPUT):
    """Pixels of the input from pixels of a file of nuScenes, at two of the four draws."""
    largest = spec.image.resize[1]
    read_at = (round(FULL[0] * largest), round(FULL[1] * largest))
    matrix = _image_matrix(spec, read_at, size, False, [zoom_share, 0.5, crop_share, 0.9])
    return matrix @ np.diag([largest, largest, 1.0])


def test_the_papers_crop_by_hand():
    # At 0.55 the image has 495 x 880 pixels: the bottom 256 rows, and 704 columns from the 88th of 0 to 176 on.
    np.testing.assert_allclose(_from_file(1.0, 0.5), [[0.55, 0, -88], [0, 0.55, -239], [0, 0, 1]], atol=1e-9)
    # A whole column: half of a column less.
    np.testing.assert_allclose(_from_file(1.0, 0.503)[0], [0.55, 0, -88], atol=1e-9)
    # At 0.386 it has 347.4 x 617.6: it begins at the left border, and its bottom row is the input's.
    np.testing.assert_allclose(_from_file(0.0, 0.7), [[0.386, 0, 0], [0, 0.386, -91.4], [0, 0, 1]], atol=1e-9)
    # At 0.44 it is as wide as the input, whatever the offset.
    share = (0.44 - 0.386) / (0.55 - 0.386)
    np.testing.assert_allclose(_from_file(share, 0.99), [[0.44, 0, 0], [0, 0.44, -140], [0, 0, 1]], atol=1e-9)


def test_what_a_resized_image_does_not_cover_is_black_on_the_right_and_at_the_top():
    spec = AugmentSpec(mirror_probability=0, image={"resize": (0.5, 0.5)})
    white = np.full((3, 20, 30), 255, np.uint8)  # of a file of 40 x 60
    matrix = _image_matrix(spec, (20, 30), (24, 36), False, [0.0, 0.5, 0.5, 0.9])
    shown = _warped(white, matrix, (24, 36), cv2.INTER_LINEAR)
    expected = np.zeros((3, 24, 36), np.uint8)
    expected[:, 4:, :30] = 255
    assert np.array_equal(shown, expected)


@given(zoom=st.floats(0, 1), crop=st.floats(0, 1, exclude_max=True))
def test_any_crop_of_the_papers_keeps_the_bottom_rows_and_stays_within_the_columns(zoom, crop):
    matrix = _from_file(zoom, crop)
    scale = matrix[0, 0]
    assert 0.386 - 1e-9 <= scale <= 0.55 + 1e-9
    assert matrix[1, 1] == pytest.approx(scale)
    assert (matrix @ [0, FULL[0], 1])[1] == pytest.approx(INPUT[0])
    (left, _, _), (right, _, _) = matrix @ [0, 0, 1], matrix @ [FULL[1], 0, 1]
    assert left == round(left)
    assert left <= 0
    assert right >= min(INPUT[1], scale * FULL[1]) - 1e-9


def test_images_are_read_as_large_as_the_largest_resize(smoke_root):
    token = smoke_root.tokens("synthetic_train")[0]
    inputs = Inputs(image_size=(32, 48))
    file = read(smoke_root, token, inputs, AugmentSpec(image={"resize": (0.5, 1.0)}).image)
    height, width = file.views.images.shape[-2:]
    assert torch.equal(file.views.from_file[0], torch.eye(3))
    half = read(smoke_root, token, inputs, AugmentSpec(image={"resize": (0.1, 0.5)}).image)
    assert half.views.images.shape[-2:] == (round(height / 2), round(width / 2))


def test_a_normal_shift_has_the_deviations_that_were_asked_for(sample):
    spec = AugmentSpec(mirror_probability=0, shift_std=(0.5, 1.0, 2.0))
    moved = [augment(replace(sample, views=None), spec, None, torch.Generator().manual_seed(n)) for n in range(800)]
    shifts = torch.stack([each.boxes.center[0] - sample.boxes.center[0] for each in moved])
    # Of 800 draws, the deviation has one of 2.5 %, and the mean one of 3.5 % of it.
    assert_close(shifts.std(dim=0), torch.tensor([0.5, 1.0, 2.0]), rtol=0.1, atol=0)
    assert (shifts.mean(dim=0).abs() < 0.15 * torch.tensor([0.5, 1.0, 2.0])).all()


# As they were before there was a normal shift or a resize ratio.
FORMER_DRAWS = {
    "rotation": AugmentSpec(mirror_probability=0, rotation_degrees=90),
    "shift": AugmentSpec(mirror_probability=0, shift=2.0),
}


@pytest.mark.parametrize("name", FORMER_DRAWS)
def test_former_draws_are_the_same_bit_for_bit(sample, name):
    chance = torch.rand(7, generator=torch.Generator().manual_seed(5)).tolist()
    spec = FORMER_DRAWS[name]
    expected = bev_matrix(
        angle=math.radians(spec.rotation_degrees) * (2 * chance[1] - 1),
        shift=(spec.shift * (2 * chance[5] - 1), spec.shift * (2 * chance[6] - 1)),
    )
    drawn = augment(sample, spec, SIZE, torch.Generator().manual_seed(5))
    assert torch.equal(drawn.boxes.center, sample.boxes.moved(expected).center)
    # The images' draws come next.
    generator = torch.Generator().manual_seed(5)
    torch.rand(7, generator=generator)
    warps = [
        _image_matrix(spec, (64, 96), SIZE, False, draw) for draw in torch.rand(2, 4, generator=generator).tolist()
    ]
    assert_close(drawn.views.from_file, torch.tensor(np.stack(warps)).float(), rtol=0, atol=0)


def test_zoom_and_resize_are_one_too_many():
    with pytest.raises(ValueError, match="zoom and resize are two ways"):
        AugmentSpec(image={"zoom": (1.0, 1.2), "resize": (0.4, 0.5)})
    assert "resize" not in AugmentSpec().model_dump()["image"]
    assert "shift_std" not in AugmentSpec().model_dump()
    given = AugmentSpec(image={"resize": (0.4, 0.5)}, shift_std=(1, 1, 0))
    assert AugmentSpec.model_validate(given.model_dump(mode="json")) == given


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
