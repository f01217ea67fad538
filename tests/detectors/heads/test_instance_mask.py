"""The instance head draws each mask by its own small network, looks for it at its centroid, and keeps the best ones."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detectors.batch import Instances
from detectors.heads.instance_mask import (
    InstanceDecodeSpec,
    InstanceMaps,
    InstanceMaskSpec,
    dice_loss,
    instance_targets,
    mask_iou,
)

CHANNELS = 3
BUS, CAR, PEDESTRIAN = 3, 0, 7
"""Any three channels of ten."""
WEIGHTS = (CHANNELS + 2 + 1) * CHANNELS + (CHANNELS + 1) * CHANNELS + (CHANNELS + 1)
"""Of the three layers that draw one mask, each with its biases."""


@pytest.fixture
def spec():
    return InstanceMaskSpec(width=6, mask_channels=CHANNELS)


@pytest.fixture
def decode(head):
    """``decode(maps, size, **fields)``: the instances of each view, and how they are chosen."""
    return lambda maps, size, **fields: head.decode(maps, size, InstanceDecodeSpec(**fields))


@pytest.fixture
def head(spec):
    torch.manual_seed(0)
    return spec.build(5)


def _maps(rng, views=3, size=(6, 9)):
    heatmap, kernel, feature = (torch.randn(views, c, *size, generator=rng) for c in (10, WEIGHTS, CHANNELS))
    return InstanceMaps(heatmap, kernel, feature)


def _indices(*values):
    return torch.tensor(values, dtype=torch.long)


def test_maps_are_twice_as_fine_as_the_features(head):
    maps = head(torch.zeros(3, 5, 4, 7))
    assert maps.heatmap.shape == (3, 10, 8, 14)
    assert maps.kernel.shape == (3, WEIGHTS, 8, 14)
    assert maps.feature.shape == (3, CHANNELS, 8, 14)
    assert maps.size == (8, 14)


def test_before_training_every_class_has_the_prior_probability(spec):
    head = spec.model_copy(update={"prior": 0.3}).build(5)
    assert_close(head.heatmap.bias.sigmoid(), torch.full((10,), 0.3))


def test_masks_are_those_of_a_network_a_mask_written_out(head, rng):
    maps = _maps(rng)
    view, row, column = _indices(2, 0, 2, 1), _indices(5, 0, 1, 3), _indices(8, 4, 0, 2)
    drawn = head.draw(maps, view, row, column)
    assert drawn.shape == (4, 6, 9)
    for i, (v, r, c) in enumerate(zip(view, row, column, strict=True)):
        weights = maps.kernel[v, :, r, c]
        first, first_bias, second, second_bias, last, last_bias = weights.split([15, 3, 9, 3, 3, 1])
        down, across = torch.meshgrid(torch.arange(6), torch.arange(9), indexing="ij")
        place = torch.stack([(across - c) / 3, (down - r) / 3])
        seen = torch.cat([place, maps.feature[v]])[None]
        seen = F.conv2d(seen, first.reshape(3, 5, 1, 1), first_bias).relu()
        seen = F.conv2d(seen, second.reshape(3, 3, 1, 1), second_bias).relu()
        seen = F.conv2d(seen, last.reshape(1, 3, 1, 1), last_bias)
        assert_close(drawn[i], seen[0, 0], atol=1e-4, rtol=1e-4)


def _kernel(channel, bias=0.0, scale=1.0):
    """Weights that draw ``scale`` times one of the inputs (x, y, then the features), if positive, plus the bias."""
    weights = torch.zeros(WEIGHTS)
    weights[channel] = 1.0
    weights[18] = 1.0
    weights[30], weights[33] = scale, bias
    return weights


def test_a_mask_knows_how_far_right_and_how_far_below_its_centre_a_cell_is(head, rng):
    maps = _maps(rng, views=2, size=(4, 10))
    maps.kernel[1, :, 1, 3] = _kernel(0)
    maps.kernel[0, :, 1, 3] = _kernel(1)
    right, below = head.draw(maps, _indices(1, 0), _indices(1, 1), _indices(3, 3))
    # Half of four rows are one unit of length, along both axes; what is left or above is cut off at 0.
    assert_close(right, torch.tensor([0, 0, 0, 0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]).expand(4, 10))
    assert_close(below, torch.tensor([[0.0], [0.0], [0.5], [1.0]]).expand(4, 10))


def test_no_object_draws_no_mask(head, rng):
    nothing = torch.zeros(0, dtype=torch.long)
    assert head.draw(_maps(rng), nothing, nothing, nothing).shape == (0, 6, 9)


def _instances(size, *views, room=3):
    """``views``: of each, [(rows, columns, label), ...] as slices of pixels; later ones stand in front."""
    owner = torch.zeros(len(views), *size, dtype=torch.uint8)
    label = torch.full((len(views), room), -1)
    score = torch.zeros(len(views), room)
    for v, instances in enumerate(views):
        for number, (rows, columns, name) in enumerate(instances):
            owner[v, rows, columns] = number + 1
            label[v, number] = name
            score[v, number] = 1 - 0.125 * number
    return Instances(owner, label, score)


def test_target_of_a_rectangle_by_hand(spec):
    # In cells of 2 x 2 pixels: rows 1 to 9 and columns 4 to 16, so nine by thirteen cells around row 5, column 10.
    instances = _instances((24, 40), [(slice(2, 20), slice(8, 34), BUS)])
    targets = instance_targets(instances, (12, 20), spec)
    assert (targets.view.tolist(), targets.row.tolist(), targets.column.tolist()) == ([0], [5], [10])
    assert targets.confidence.tolist() == [1.0]
    mask = torch.zeros(12, 20)
    mask[1:10, 4:17] = 1
    assert torch.equal(targets.mask, mask[None])
    # (22 - sqrt(22^2 - 4 * 117 * 0.7)) / 4 = 2.4 cells, so 2: a deviation of 5/6, a window of 5 x 5.
    heatmap = targets.heatmap[0]
    assert heatmap[BUS, 5, 10] == 1
    assert (heatmap == 1).sum() == 1
    assert_close(heatmap[BUS, 6, 10], torch.tensor(math.exp(-0.72)))
    assert_close(heatmap[BUS, 3, 8], torch.tensor(math.exp(-8 * 0.72)))
    assert heatmap.count_nonzero() == heatmap[BUS, 3:8, 8:13].count_nonzero() == 25


def test_targets_are_the_same_however_many_masks_are_drawn_at_once(spec, monkeypatch):
    boxes = [(slice(2 * n, 2 * n + 9), slice(3 * n, 3 * n + 14), BUS) for n in range(5)]
    instances = _instances((24, 40), boxes, [], boxes[:2], room=5)
    expected = instance_targets(instances, (12, 20), spec)
    monkeypatch.setattr("detectors.heads.instance_mask.MASKS_AT_ONCE", 2)
    targets = instance_targets(instances, (12, 20), spec)
    assert len(targets.mask) > 2
    assert torch.equal(targets.mask, expected.mask)
    assert torch.equal(targets.heatmap, expected.heatmap)


def test_cells_of_which_half_is_covered_count_for_the_size_of_a_window(spec):
    # As above without a margin of one pixel, half a cell: still nine by thirteen cells. Of the seven by eleven that are
    # covered in whole the radius would be (18 - sqrt(18^2 - 4 * 77 * 0.7)) / 4 = 1.9, so 1.
    targets = instance_targets(_instances((24, 40), [(slice(3, 19), slice(9, 33), BUS)]), (12, 20), spec)
    assert (targets.row.tolist(), targets.column.tolist()) == ([5], [10])
    assert targets.heatmap.count_nonzero() == targets.heatmap[0, BUS, 3:8, 8:13].count_nonzero() == 25


def test_a_centre_is_the_centroid_of_the_mask_not_of_its_bounding_box(spec):
    # An L: rows 0 to 7 of column 0, and columns 1 to 11 of row 7, in cells of 1 x 1 pixels.
    instances = _instances((9, 14), [(slice(0, 8), slice(0, 1), CAR)])
    instances.owner[0, 7, 1:12] = 1
    targets = instance_targets(instances, (9, 14), spec)
    # Rows: (0 + ... + 7 + 11 * 7) / 19 = 5.5; columns: (1 + ... + 11) / 19 = 3.5; rounded as they are, to 6 and 3.
    assert (targets.row.tolist(), targets.column.tolist()) == ([6], [3])


def test_cells_at_the_border_are_covered_in_part(spec):
    # Cells of 2 rows x 4 columns; the mask begins in the middle of row 1 and a quarter into column 1.
    instances = _instances((12, 20), [(slice(3, 6), slice(5, 12), CAR)])
    targets = instance_targets(instances, (6, 5), spec)
    expected = torch.zeros(6, 5)
    expected[1:3, 1:3] = torch.tensor([[0.375, 0.5], [0.75, 1.0]])
    assert torch.equal(targets.mask[0], expected)


def test_the_thinnest_object_has_a_window_of_three_cells(spec):
    # A pole of one pixel covers no cell by half.
    instances = _instances((24, 40), [(slice(2, 18), slice(9, 10), PEDESTRIAN)])
    targets = instance_targets(instances, (6, 10), spec)
    assert (targets.row.tolist(), targets.column.tolist()) == ([2], [2])
    assert targets.heatmap[0, PEDESTRIAN].count_nonzero() == targets.heatmap.count_nonzero() == 9


def test_what_is_too_small_is_not_looked_for(spec):
    # In cells of 2 x 2 pixels: three pixels are less than one cell, four are one even across two cells.
    views = [(slice(0, 1), slice(0, 3), CAR)], [(slice(0, 1), slice(9, 13), CAR)]
    targets = instance_targets(_instances((12, 20), *views), (6, 10), spec)
    assert targets.view.tolist() == [1]
    assert targets.mask.sum() == 1
    assert not targets.heatmap[0].any()
    stricter = spec.model_copy(update={"min_cells": 1.01})
    assert len(instance_targets(_instances((12, 20), *views), (6, 10), stricter).view) == 0


def test_padding_and_what_was_struck_out_have_no_target(spec):
    whole = _instances((12, 20), [(slice(0, 4), slice(0, 6), CAR), (slice(6, 12), slice(8, 18), BUS)], [])
    assert len(instance_targets(whole, (6, 10), spec).view) == 2
    # Its pixels are still numbered in the map of owners.
    struck = replace(whole, label=whole.label.masked_fill(whole.label == CAR, -1))
    targets = instance_targets(struck, (6, 10), spec)
    assert targets.view.tolist() == [0]
    assert targets.mask.sum() == 3 * 5
    assert not targets.heatmap[:, CAR].any()
    assert targets.confidence.tolist() == [0.875]
    nothing = instance_targets(_instances((12, 20), [], []), (6, 10), spec)
    assert nothing.mask.shape == (0, 6, 10)
    assert not nothing.heatmap.any()


def test_order_of_instances_does_not_matter(spec):
    things = [(slice(0, 4), slice(0, 6), CAR), (slice(6, 12), slice(8, 18), BUS), (slice(0, 5), slice(10, 19), CAR)]
    one = instance_targets(_instances((12, 20), things), (6, 10), spec)
    other = instance_targets(_instances((12, 20), things[::-1]), (6, 10), spec)
    assert torch.equal(one.heatmap, other.heatmap)
    assert torch.equal(one.mask, other.mask.flip(0))
    assert torch.equal(one.row, other.row.flip(0))
    assert torch.equal(one.column, other.column.flip(0))
    assert one.heatmap[0, CAR].eq(1).sum() == 2


def test_instances_of_several_views_stay_in_their_own(spec):
    views = [], [(slice(0, 4), slice(0, 6), CAR)], [(slice(6, 12), slice(8, 18), BUS)]
    targets = instance_targets(_instances((12, 20), *views), (6, 10), spec)
    assert targets.view.tolist() == [1, 2]
    peaks = (targets.heatmap == 1).nonzero().tolist()
    # Rows 3 to 5 and columns 4 to 8; rows 0 and 1, whose middle rounds to the even one, and columns 0 to 2.
    assert peaks == [[1, CAR, 0, 1], [2, BUS, 4, 6]]


def test_autocast_does_not_round_where_a_centre_is(spec):
    # Of bfloat16's eight bits none is left for a single column from 256 on, nor for a single row.
    for size, rows, columns in (((4, 600), (0, 3), (500, 552)), ((600, 4), (500, 552), (0, 3))):
        instances = _instances(size, [(slice(*rows), slice(*columns), CAR)])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            targets = instance_targets(instances, size, spec)
        middle = [(first + last - 1) / 2 for first, last in (rows, columns)]
        # The middle of columns 500 to 551 is 525.5, which rounds to the even one.
        assert [targets.row.item(), targets.column.item()] == [round(place) for place in middle]


def test_maps_that_do_not_divide_the_images_are_refused(spec):
    for cells in ((5, 10), (6, 11)):
        with pytest.raises(ValueError, match=r"do not divide \(12, 20\) pixels"):
            instance_targets(_instances((12, 20), []), cells, spec)


def test_dice_by_hand():
    first, second = torch.zeros(3, 2, 4), torch.zeros(3, 2, 4)
    first[0, :, :2] = second[0, :, :2] = 1.0  # equal
    first[1, 0], second[1, 1, :2] = 1.0, 1.0  # four cells and two others
    first[2, 0, :2], second[2, 0] = 0.5, 1.0  # shared 2 * 1; squares 0.5 and 4
    expected = torch.tensor([0.0, 1 - 1 / 7, 1 - 3 / 5.5])
    assert_close(dice_loss(first, second), expected)
    soft = torch.rand(1, 2, 4, generator=torch.Generator().manual_seed(0))
    assert_close(dice_loss(soft, soft), torch.zeros(1))
    assert dice_loss(first[:0], second[:0]).shape == (0,)


def test_mask_iou_by_hand():
    masks = torch.zeros(4, 2, 5, dtype=torch.bool)
    masks[0, 0, :4] = True
    masks[1, :, 3:] = True
    masks[2, 1, :2] = True
    # Of four and four one is shared; the last is empty.
    expected = torch.tensor([[1.0, 1 / 7, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    assert_close(mask_iou(masks[[0, 2]], masks), expected)
    assert mask_iou(masks[3:], masks[3:]).tolist() == [[0.0]]


def test_each_mask_costs_as_much_as_it_is_sure_and_all_their_mean(head, spec, rng):
    maps = _maps(rng, views=2, size=(6, 10))
    views = [(slice(6, 12), slice(8, 18), BUS)], [(slice(0, 4), slice(0, 6), CAR)]
    targets = instance_targets(_instances((12, 20), *views), (6, 10), spec)
    drawn = head.draw(maps, targets.view, targets.row, targets.column).sigmoid()
    one, other = dice_loss(drawn, targets.mask).tolist()
    loss = head.loss(maps, replace(targets, confidence=torch.tensor([1.0, 0.25])))
    assert loss.masks.item() == pytest.approx((one + 0.25 * other) / 2)
    unsure = head.loss(maps, replace(targets, confidence=torch.zeros(2)))
    assert unsure.masks == 0
    assert unsure.heatmap == loss.heatmap


def test_loss_teaches_every_map_where_there_is_something_and_only_the_heatmap_where_there_is_nothing(head, spec, rng):
    for views, taught in (([(slice(6, 12), slice(8, 18), BUS)],), True), (([],), False):
        maps = _maps(rng, views=1, size=(6, 10))
        leaves = [each.requires_grad_() for each in (maps.heatmap, maps.kernel, maps.feature)]
        loss = head.loss(maps, instance_targets(_instances((12, 20), *views), (6, 10), spec))
        (loss.heatmap + loss.masks).backward()
        assert all(each.grad is not None and each.grad.isfinite().all() for each in leaves)
        assert [bool(each.grad.any()) for each in leaves] == [True, taught, taught]
        assert (loss.masks > 0) == taught
        if taught:
            # A mask is drawn by the weights at its centroid alone: row 4, column 6.
            assert (maps.kernel.grad[0].abs().sum(0) > 0).nonzero().tolist() == [[4, 6]]


@pytest.fixture
def drawing():
    """Two views of 6 x 9 cells in which nothing is found, and the masks that kernels of the features 0 to 2 draw."""
    maps = InstanceMaps(torch.full((2, 10, 6, 9), -10.0), torch.zeros(2, WEIGHTS, 6, 9), torch.zeros(2, CHANNELS, 6, 9))
    maps.feature[:, 0, 1:4, 2:7] = 1.0
    maps.feature[:, 1, 2:6, 6:9] = 1.0
    maps.feature[:, 2, 1:4, 2:6] = 1.0
    return maps


def _plant(maps, view, label, row, column, logit, feature):
    """An object that is found with this logit; its mask has logits of 2 inside and of -2 outside."""
    maps.heatmap[view, label, row, column] = logit
    maps.kernel[view, :, row, column] = _kernel(2 + feature, bias=-2.0, scale=4.0)


def test_a_peak_becomes_a_mask_in_pixels_of_the_input(decode, drawing):
    _plant(drawing, 1, BUS, 2, 4, 1.0, feature=0)
    nothing, found = decode(drawing, (24, 36))
    assert nothing.mask.shape == (0, 24, 36)
    assert len(nothing.label) == len(nothing.score) == 0
    # Logits are interpolated, by which a rectangle loses its corners: of these 5/8 times 5/8 is inside, less than half.
    expected = torch.zeros(24, 36, dtype=torch.bool)
    expected[4:16, 8:28] = True
    expected[[4, 4, 15, 15], [8, 27, 8, 27]] = False
    assert torch.equal(found.mask, expected[None])
    assert found.label.tolist() == [BUS]
    # The probability of the centre times the mean one of the mask's own cells.
    assert_close(found.score, torch.tensor([1 / (1 + math.exp(-1)) / (1 + math.exp(-2))]))


def test_slopes_of_a_peak_are_no_objects(decode, drawing):
    _plant(drawing, 0, CAR, 2, 4, 1.0, feature=0)
    _plant(drawing, 0, CAR, 3, 5, 0.9, feature=1)
    assert len(decode(drawing, (24, 36))[0].label) == 1


def test_of_equal_masks_of_a_class_the_better_stays_and_of_two_classes_both(decode, drawing):
    _plant(drawing, 0, CAR, 2, 3, 0.5, feature=2)
    _plant(drawing, 0, CAR, 2, 6, 1.5, feature=0)  # of 15 cells, 12 of them the other's: an overlap of 0.8
    _plant(drawing, 1, CAR, 2, 4, 0.5, feature=0)
    _plant(drawing, 1, BUS, 2, 4, 1.5, feature=0)
    one_class, two_classes = decode(drawing, (6, 9))
    assert one_class.label.tolist() == [CAR]
    assert torch.equal(one_class.mask[0], drawing.feature[0, 0] > 0)
    assert two_classes.label.tolist() == [BUS, CAR]
    assert torch.equal(two_classes.mask[0], two_classes.mask[1])


def test_masks_of_a_class_that_overlap_little_are_two_objects(decode, drawing):
    _plant(drawing, 0, CAR, 2, 3, 0.5, feature=0)
    _plant(drawing, 0, CAR, 4, 7, 1.5, feature=1)
    assert len(decode(drawing, (6, 9))[0].label) == 2
    # They share two of 25 cells.
    assert len(decode(drawing, (6, 9), nms_overlap=0.07)[0].label) == 1


def test_best_first_by_centre_and_mask_together(decode, drawing):
    _plant(drawing, 0, CAR, 2, 3, 2.0, feature=0)
    _plant(drawing, 0, CAR, 4, 7, 1.5, feature=1)
    # A mask that is drawn with little certainty, where it is drawn: logits of 0.4.
    drawing.feature[0, 0] *= 0.6
    (found, _) = decode(drawing, (6, 9))
    assert torch.equal(found.mask[0], drawing.feature[0, 1] > 0)
    sure, unsure = 1 / (1 + math.exp(-1.5)) / (1 + math.exp(-2)), 1 / (1 + math.exp(-2)) / (1 + math.exp(-0.4))
    assert_close(found.score, torch.tensor([sure, unsure]))


def test_scores_below_the_threshold_and_empty_masks_are_not_found(decode, drawing):
    _plant(drawing, 0, CAR, 2, 3, 0.0, feature=0)  # a score of 0.5 / (1 + exp(-2)) = 0.44
    _plant(drawing, 0, BUS, 4, 7, 3.0, feature=1)
    _plant(drawing, 1, BUS, 4, 7, 3.0, feature=1)
    drawing.feature[1] = 0.0
    assert [len(found.label) for found in decode(drawing, (6, 9))] == [2, 0]
    for threshold, left in (0.435, [CAR, BUS]), (0.445, [BUS]):
        assert sorted(decode(drawing, (6, 9), score_threshold=threshold)[0].label.tolist()) == left


def test_only_so_many_of_the_best_centres_are_drawn(decode, drawing):
    _plant(drawing, 0, CAR, 2, 3, 0.5, feature=0)
    _plant(drawing, 0, BUS, 4, 7, 1.5, feature=1)
    assert decode(drawing, (6, 9), max_instances=1)[0].label.tolist() == [BUS]
    assert len(decode(drawing, (6, 9))[0].label) == 2
