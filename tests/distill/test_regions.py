"""Regions: models are compared at the objects, and rows are y."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detectors.lidar_presets import LIDAR_PRESETS
from distill.regions import boxes_inside, center_gaussians, level_channels, mean_over_boxes, sample_keypoints


@pytest.fixture
def ramp(scene):
    """A map whose two channels hold the x and the y of each cell's centre."""
    row, column = torch.meshgrid(
        torch.arange(scene.grid.rows) + 0.5, torch.arange(scene.grid.columns) + 0.5, indexing="ij"
    )
    xy = scene.grid.metres_from_cells(torch.stack([column, row], dim=-1).double())
    return xy.movedim(-1, 0).expand(2, -1, -1, -1)


def test_a_map_is_read_where_the_keypoint_is(scene, ramp):
    inside = slice(0, 1), slice(0, 2)  # all nine points of these boxes are inside the map
    sampled = sample_keypoints(ramp, scene.batch.boxes, scene.grid)
    assert_close(sampled[inside], scene.batch.boxes.keypoints()[inside])


def test_swapped_points_are_read_at_the_mirror_image_across_the_diagonal_of_the_map(scene, ramp):
    # By hand, on 14 m by 9 m from (-6, -5): what is a share of the one axis becomes that share of the other.
    x, y = scene.batch.boxes.keypoints()[0, 1].unbind(-1)  # a small box well inside
    mirrored = torch.stack([-6 + 14 * (y + 5) / 9, -5 + 9 * (x + 6) / 14], dim=-1)
    sampled = sample_keypoints(ramp, scene.batch.boxes, scene.grid, points="swapped")
    assert_close(sampled[0, 1], mirrored)
    assert (sampled[0, 1] - scene.batch.boxes.keypoints()[0, 1]).abs().min() > 0.1


def test_a_finer_map_of_the_same_grid_is_read_at_the_same_place(scene, ramp):
    finer = F.interpolate(ramp, scale_factor=(3, 2), mode="bilinear", align_corners=False)
    assert_close(sample_keypoints(finer, scene.batch.boxes, scene.grid)[0, :2], scene.batch.boxes.keypoints()[0, :2])


def test_beyond_the_map_there_is_nothing(scene):
    boxes = replace(scene.batch.boxes, center=scene.batch.boxes.center + 100)
    assert not sample_keypoints(torch.ones(2, 3, 9, 14).double(), boxes, scene.grid).any()


def test_half_precision_maps_are_read_at_full_precision_coordinates(scene, rng):
    maps = torch.randn(2, 3, 9, 14, generator=rng).bfloat16()
    boxes = scene.batch.boxes
    assert_close(
        sample_keypoints(maps, boxes, scene.grid), sample_keypoints(maps.double(), boxes, scene.grid), atol=0, rtol=0
    )


def test_a_box_counts_where_its_centre_is_inside(scene):
    valid = boxes_inside(scene.batch.boxes, scene.batch.is_box, scene.grid)
    assert [tuple(index) for index in valid.nonzero().tolist()] == list(scene.valid)


@pytest.mark.parametrize(
    ("x", "y", "inside"),
    [(-6.0, -5.0, True), (-6.01, 0, False), (0, -5.01, False), (7.99, 3.99, True), (8.0, 0, False), (0, 4.0, False)],
)
def test_the_lower_edge_is_inside_and_the_upper_is_not(scene, x, y, inside):
    center = torch.tensor([x, y, 0.0], dtype=torch.float64).expand(2, 4, 3)
    boxes = replace(scene.batch.boxes, center=center)
    assert boxes_inside(boxes, torch.ones(2, 4, dtype=torch.bool), scene.grid)[0, 0] == inside


def test_mean_is_over_the_objects_of_the_whole_batch():
    values = torch.tensor([[1.0, 2.0, 30.0], [6.0, math.nan, math.inf]])
    is_object = torch.tensor([[True, True, False], [True, False, False]])
    assert_close(mean_over_boxes(values, is_object), torch.tensor(3.0))


def test_mean_over_no_object_is_zero_and_has_a_gradient():
    values = torch.ones(2, 3, requires_grad=True)
    mean = mean_over_boxes(values, torch.zeros(2, 3, dtype=torch.bool))
    mean.backward()
    assert mean == 0
    assert not values.grad.any()


def test_mask_peaks_at_one_in_the_cell_of_each_centre(scene):
    mask = center_gaussians(scene.batch.boxes, scene.batch.is_box, scene.grid, min_overlap=0.1)
    peaks = {tuple(index) for index in (mask == 1).nonzero().tolist()}
    # Sample, row (y + 5) and column (x + 6) of every valid box.
    assert peaks == {(0, 6, 3), (0, 2, 9), (0, 8, 13), (1, 5, 11)}
    assert 0 <= mask.min() <= mask.max() == 1


def test_mask_is_the_maximum_over_boxes_whatever_their_class(scene):
    # Two samples of four large boxes, one cell apart, of classes 0, 5, 1, 0 and 2, 0, 9, 0: their Gaussians overlap.
    x = torch.arange(4, dtype=torch.float64).expand(2, 4)
    boxes = replace(
        scene.batch.boxes,
        center=torch.stack([x, -x, x], dim=-1),
        size=torch.full((2, 4, 3), 9.0, dtype=torch.float64),
    )
    each = torch.eye(4, dtype=torch.bool)
    alone = [center_gaussians(boxes, each[box].expand(2, 4), scene.grid, min_overlap=0.1) for box in range(4)]
    assert ((alone[0] > 0) & (alone[1] > 0)).any()
    everything = torch.ones(2, 4, dtype=torch.bool)
    together = center_gaussians(boxes, everything, scene.grid, min_overlap=0.1)
    assert_close(together, torch.stack(alone).amax(dim=0))
    relabelled = replace(boxes, label=boxes.label.flip(1))
    assert_close(center_gaussians(relabelled, everything, scene.grid, min_overlap=0.1), together)


def test_mask_falls_off_as_a_gaussian_within_the_radius(scene):
    only_last = scene.batch.is_box & torch.tensor([[False], [True]])
    square = replace(scene.batch.boxes, size=torch.full((2, 4, 3), 12.0, dtype=torch.float64))
    mask = center_gaussians(square, only_last, scene.grid, min_overlap=0.5)
    # A square of side 12 keeps half of itself when each side moves in by 12 (1 - sqrt 0.5) / 2 = 1.76 cells; moving
    # out or aside it may go further. The radius is 1, sigma is (2 * 1 + 1) / 6.
    sigma = 0.5
    assert mask[0].count_nonzero() == 0
    assert mask[1].count_nonzero() == 9
    assert_close(mask[1, 5, 12].item(), math.exp(-1 / (2 * sigma**2)))
    assert_close(mask[1, 6, 10].item(), math.exp(-2 / (2 * sigma**2)))


def test_small_object_keeps_the_cell_of_its_centre_only(scene):
    second = scene.batch.is_box & torch.tensor([False, True, False, False]) & torch.tensor([[True], [False]])
    mask = center_gaussians(scene.batch.boxes, second, scene.grid, min_overlap=0.1)
    assert mask.sum() == mask[0, 2, 9] == 1


def test_mask_without_boxes_is_zero(scene):
    assert not center_gaussians(
        scene.batch.boxes, torch.zeros(2, 4, dtype=torch.bool), scene.grid, min_overlap=0.1
    ).any()


def test_a_low_level_map_that_is_finer_than_the_grid_is_refused():
    pillars = LIDAR_PRESETS["centerpoint_pillar02"]
    with pytest.raises(ValueError, match="4 x 4 cells in one of the grid; set level: high"):
        level_channels(pillars, "low")
    assert level_channels(pillars, "high") == 384
