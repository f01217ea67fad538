"""Losses of tasks on their own, the overlap terms and the learned weights, worked out box by box."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detectors.geometry.boxes import CLASSES, pad_boxes
from detectors.geometry.grid import BevGrid
from detectors.heads.center import TASK_GROUPS, TASK_OF_CLASS, CenterHeadSpec
from detectors.heads.center_loss import box_loss, center_targets, detection_loss, focal_loss, focal_terms
from detectors.heads.task_losses import iou_error, learned, overlap_loss
from detectors.outputs import HeadOutput
from tests.boxes import no_boxes

SPEC = CenterHeadSpec(width=8, branches="separate", average="task", iou=True, overlap_weight=5.0, targets="nearest")
CELL = 0.5


def _code(x=0.0, y=0.0, z=0.0, size=(4.0, 2.0, 1.0), yaw=0.0):
    return torch.tensor([x / CELL, y / CELL, z, *map(math.log, size), math.sin(yaw), math.cos(yaw), 0.0, 0.0])


def _codes(*codes):
    return torch.stack(codes)[None]


def test_overlap_loss_by_hand():
    target = _codes(*[_code()] * 4)
    predicted = _codes(
        _code(),
        _code(x=2.0),  # half of the length is shared: 4 of 12 m3
        _code(x=1.0, y=1.0, z=0.5),  # 3 x 1 x 0.5 of 8 + 8 - 1.5
        _code(x=-5.0, y=-5.0),  # apart along two axes, and a product of their gaps would be a volume
    )
    assert_close(overlap_loss(predicted, target, CELL), torch.tensor([[0.0, 2 / 3, 1 - 1.5 / 14.5, 1.0]]))


def test_overlap_loss_pulls_a_box_to_its_object():
    predicted = _codes(_code(x=0.5, y=-0.3, z=0.2, size=(3.0, 2.5, 1.2))).requires_grad_()
    overlap_loss(predicted, _codes(_code()), CELL).sum().backward()
    assert predicted.grad[0, 0, :3].sign().tolist() == [1, -1, 1]
    assert predicted.grad[0, 0, 3] < 0  # it is too short
    assert not predicted.grad[..., 6:].any()


def test_iou_error_by_hand():
    # Along x; then turned to y, where length and width change places; in the last both are.
    target = _codes(_code(), _code(), _code(yaw=1.5))
    predicted = _codes(_code(x=2.0, z=9.0), _code(yaw=math.pi / 2), _code(yaw=-1.6)).requires_grad_()
    iou = torch.tensor([[0.25, -1.0, 0.5]]).requires_grad_()
    error = iou_error(iou, predicted, target, CELL)
    # 4 of 12 m2 from above, whatever the heights; 4 of 12; all.
    assert_close(error, torch.tensor([[0.25 + 1 / 3, 1 - 1 / 3, 0.5]]))
    error.sum().backward()
    assert iou.grad.tolist() == [[1, -1, -1]]
    assert predicted.grad is None


def test_learned_weights_by_hand():
    weight = torch.tensor(2.0, requires_grad=True)
    loss = learned(torch.tensor([3.0, 0.0]), weight)
    assert_close(loss, torch.tensor([3 / 8 + math.log(5), math.log(5)]))
    loss.sum().backward()
    # d/ds of L / (2 s^2) + 2 log(1 + s^2).
    assert_close(weight.grad, torch.tensor(-3 / 8 + 2 * 2 * 2 / 5))


def test_alpha_weighs_centres_and_others():
    logits = torch.tensor([math.log(4), 0.0]).reshape(1, 1, 1, 2)
    target = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    terms = focal_terms(logits, target, 0.25).flatten()
    assert_close(terms, torch.tensor([0.25 * 0.2**2 * -math.log(0.8), 0.75 * 0.5**2 * -math.log(0.5)]))


@pytest.fixture
def scene(make_boxes, grid, rng):
    boxes = replace(make_boxes(6), label=torch.tensor([0, 0, 1, 4, 5, 8]))
    boxes.velocity[0] = torch.nan
    padded, is_box = pad_boxes([boxes, no_boxes(), make_boxes(2)])
    output = HeadOutput(
        heatmap=torch.randn(3, len(CLASSES), grid.rows, grid.columns, generator=rng),
        boxes=0.3 * torch.randn(3, len(TASK_GROUPS), 10, grid.rows, grid.columns, generator=rng),
        iou=torch.randn(3, len(TASK_GROUPS), grid.rows, grid.columns, generator=rng),
    )
    return padded, is_box, output


def _read(maps, targets, sample, place):
    return maps[sample, targets.task[sample, place], ..., targets.row[sample, place], targets.column[sample, place]]


@pytest.mark.parametrize("targets_by", ["gaussian", "nearest"])
def test_losses_are_those_of_each_task_alone_added_up(scene, grid, targets_by):
    boxes, is_box, output = scene
    spec = SPEC.model_copy(update={"targets": targets_by})
    targets = center_targets(boxes, is_box, spec, grid)
    loss = detection_loss(output, targets, spec, grid)
    alpha = None if targets_by == "gaussian" else 0.25
    heatmap = boxes_loss = iou = overlap = 0.0
    for task in range(len(TASK_GROUPS)):
        labels = [label for label, of in enumerate(TASK_OF_CLASS) if of == task]
        heatmap += focal_loss(output.heatmap[:, labels], targets.heatmap[:, labels], alpha)
        places = [(s, p) for s, p in targets.is_target.nonzero().tolist() if targets.task[s, p] == task]
        if not places:
            continue
        predicted = torch.stack([_read(output.boxes, targets, s, p) for s, p in places])[None]
        wanted = torch.stack([targets.code[s, p] for s, p in places])[None]
        here = box_loss(predicted, wanted, torch.ones(1, len(places), dtype=torch.bool))
        boxes_loss += here
        wanted = wanted.nan_to_num(0.0)
        claimed = torch.stack([_read(output.iou, targets, s, p) for s, p in places])[None]
        iou += iou_error(claimed, predicted, wanted, grid.cell).mean()
        if here < 1:
            overlap += overlap_loss(predicted, wanted, grid.cell).mean()
    assert_close(loss.heatmap, heatmap)
    assert_close(loss.boxes, boxes_loss)
    assert_close(loss.iou, iou)
    assert_close(loss.overlap, torch.as_tensor(overlap))


def test_overlap_counts_once_boxes_are_nearly_right(scene, grid):
    boxes, is_box, _ = scene
    targets = center_targets(boxes, is_box, SPEC, grid)
    code = targets.code.nan_to_num(0.0)
    maps = torch.zeros(3, len(TASK_GROUPS), 10, grid.rows, grid.columns)
    for s, p in targets.is_target.nonzero().tolist():
        _read(maps, targets, s, p).copy_(code[s, p] + torch.tensor([0.1] * 3 + [0.0] * 7))
    head = HeadOutput(
        torch.zeros_like(targets.heatmap), maps, torch.zeros(3, len(TASK_GROUPS), grid.rows, grid.columns)
    )
    near = detection_loss(head, targets, SPEC, grid)
    assert near.boxes < len(TASK_GROUPS)
    assert near.overlap > 0
    far = detection_loss(replace(head, boxes=maps + 1), targets, SPEC, grid)
    assert far.overlap == 0


def test_learned_weights_weigh_each_task(scene, grid):
    boxes, is_box, output = scene
    targets = center_targets(boxes, is_box, SPEC, grid)
    weights = torch.full((12,), 2.0, requires_grad=True)
    plain, weighed = (detection_loss(output, targets, SPEC, grid, each) for each in (None, weights))
    for name in ("heatmap", "boxes", "iou"):
        assert_close(getattr(weighed, name), getattr(plain, name) / 8 + len(TASK_GROUPS) * math.log(5))
    assert weighed.overlap == plain.overlap
    sum(weighed.terms.values()).backward()
    assert weights.grad.count_nonzero() == 3
    assert not weights.grad[3:].any()


def test_code_weights_change_the_box_loss_alone(scene, grid):
    boxes, is_box, output = scene
    targets = center_targets(boxes, is_box, SPEC, grid)
    fuller = SPEC.model_copy(update={"code_weights": (2.0,) * 8 + (0.4, 0.4)})
    one, other = (detection_loss(output, targets, spec, grid) for spec in (SPEC, fuller))
    assert_close(other.boxes, 2 * one.boxes)
    assert (other.heatmap, other.iou) == (one.heatmap, one.iou)


def test_no_boxes_cost_nothing_but_false_positives(grid):
    boxes, is_box = pad_boxes([no_boxes()])
    targets = center_targets(boxes, is_box, SPEC, grid)
    maps = torch.zeros(1, len(TASK_GROUPS), 10, grid.rows, grid.columns, requires_grad=True)
    iou = torch.zeros(1, len(TASK_GROUPS), grid.rows, grid.columns, requires_grad=True)
    heatmap = torch.zeros(1, len(CLASSES), grid.rows, grid.columns, requires_grad=True)
    loss = detection_loss(HeadOutput(heatmap, maps, iou), targets, SPEC, grid)
    sum(loss.terms.values()).backward()
    assert (loss.boxes, loss.iou, loss.overlap) == (0, 0, 0)
    assert (heatmap.grad > 0).all()
    assert not maps.grad.any()
    assert not iou.grad.any()


def test_wide_cells_make_the_same_overlap(rng):
    # A grid that knows nothing of the cell would compare offsets in cells with sizes in metres.
    wide = BevGrid(x_range=(0.0, 40.0), y_range=(0.0, 40.0), z_range=(-3.0, 5.0), cell=2.0)
    predicted, target = _codes(_code(x=1.0)), _codes(_code())
    factor = torch.tensor([CELL / wide.cell] * 2 + [1.0] * 8)
    assert_close(overlap_loss(predicted * factor, target * factor, wide.cell), overlap_loss(predicted, target, CELL))
