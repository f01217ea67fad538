"""Response distillation compares the best score and every box map, cell by cell, near the objects."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detectors.outputs import HeadOutput
from distill.regions import center_gaussians
from distill.response import ResponseSpec, ResponseTerm


@pytest.fixture
def head():
    """Head maps on a 1 x 2 grid: logits of two classes; boxes of one task with a code of two."""

    def make(logits, boxes=((0.0, 0.0), (0.0, 0.0))):
        return HeadOutput(
            heatmap=torch.tensor(logits, requires_grad=True).reshape(1, 2, 1, 2),
            boxes=torch.tensor(boxes).reshape(1, 1, 2, 1, 2),
        )

    return make


@pytest.fixture
def response_loss():
    from distill.response import response_loss

    return response_loss


LOG3 = 1.0986123  # sigmoid 0.75
BOTH = torch.tensor([[[1.0, 0.5]]])


def test_class_part_by_hand(response_loss, head):
    # Best scores 0.75 and 0.5 against 0.5 and 0.5; the cell that differs has weight 1 of 1.5; 1 of 3 channels.
    given = head(((-9.0, 0.0), (LOG3, -9.0))), head(((0.0, 0.0), (-9.0, -9.0))), BOTH
    assert_close(response_loss(*given, parts="split"), torch.tensor(0.25 / 1.5))
    assert_close(response_loss(*given, parts="joint"), torch.tensor(0.25 / 1.5 / 3))


def test_class_part_compares_the_best_class_whichever_it_is(response_loss, head):
    one, other = head(((LOG3, 0.0), (-9.0, -9.0))), head(((-9.0, -9.0), (LOG3, 0.0)))
    assert response_loss(one, other, BOTH) == 0


def test_box_part_by_hand(response_loss, head):
    zeros = ((0.0, 0.0), (0.0, 0.0))
    # Means over the code: 3 in the first cell, 4 in the second, whose weight is one half.
    given = head(zeros, ((2.0, 0.0), (-4.0, 8.0))), head(zeros), BOTH
    assert_close(response_loss(*given, parts="split"), torch.tensor((3.0 + 0.5 * 4.0) / 1.5))
    # Sums over the code, by the three channels that there are with the score.
    assert_close(response_loss(*given, parts="joint"), torch.tensor((6.0 + 0.5 * 8.0) / 3 / 1.5))


def test_temperature_softens_the_teacher_only(response_loss, head):
    flat, peaked = head(((LOG3, LOG3), (-9.0, -9.0))), head(((2 * LOG3, 2 * LOG3), (-9.0, -9.0)))
    assert response_loss(flat, peaked, BOTH, teacher_temperature=2.0) < 1e-6
    assert response_loss(peaked, flat, BOTH, teacher_temperature=2.0) > 0.05


def test_far_from_objects_anything_goes(response_loss, head):
    zeros = ((0.0, 0.0), (0.0, 0.0))
    near = torch.tensor([[[1.0, 0.0]]])
    assert response_loss(head(((0.0, 5.0), (0.0, 5.0)), ((0.0, 7.0), (0.0, 7.0))), head(zeros), near) == 0


@pytest.mark.parametrize("parts", ["joint", "split"])
def test_value_and_gradient_equal_a_loop_over_boxes_and_cells(scene, rng, parts):
    student, teacher = (scene.output(rng, low=3, high=4) for _ in range(2))
    maps = student.head.heatmap.requires_grad_(), student.head.boxes.requires_grad_()
    loss = ResponseTerm(ResponseSpec(weight=1.0, teacher_temperature=2.0, parts=parts), scene.grid)(
        student, teacher, scene.batch
    )

    region = center_gaussians(scene.batch.boxes, scene.batch.is_box, scene.grid, min_overlap=0.1)
    total = 0.0
    for sample, row, column in region.nonzero().tolist():
        score = maps[0][sample, :, row, column].sigmoid().max()
        target = (teacher.head.heatmap[sample, :, row, column] / 2).sigmoid().max()
        codes = (maps[1] - teacher.head.boxes)[sample, :, :, row, column].abs().flatten()
        gaps = torch.cat([(score - target).abs().reshape(1), codes])
        gap = gaps.mean() if parts == "joint" else gaps[0] + codes.mean()
        total += region[sample, row, column] * gap
    expected = total / region.sum()

    assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    for ours, theirs in zip(torch.autograd.grad(loss, maps), torch.autograd.grad(expected, maps), strict=True):
        assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_predicted_overlaps_belong_to_the_box_maps(response_loss, head):
    # A code of two and the overlap: three channels, which differ by 1, 0 and 0.3 in the first cell alone.
    student = head(((0.0, 0.0), (0.0, 0.0)), ((1.0, 0.0), (0.0, 0.0)))
    teacher = head(((0.0, 0.0), (0.0, 0.0)))
    student, teacher = (
        replace(each, iou=torch.tensor([first, 0.5]).reshape(1, 1, 1, 2))
        for each, first in ((student, 0.7), (teacher, 0.4))
    )
    assert_close(response_loss(student, teacher, BOTH, parts="split"), torch.tensor(1.3 / 3 / 1.5))
    # What only one of them predicts is not compared.
    without = replace(teacher, iou=None)
    assert_close(response_loss(student, without, BOTH, parts="split"), torch.tensor(1.0 / 2 / 1.5))
