"""Boxes fix the conventions of size, yaw and padding."""

import math

import torch
from torch.testing import assert_close

from detectors.geometry.boxes import Boxes, pad_boxes


def test_keypoints_of_a_turned_box_by_hand():
    # 4 m long, 2 m wide, heading +y: the length lies along y, the left side points to -x.
    box = Boxes(
        center=torch.tensor([[10.0, 5.0, 0.0]]),
        size=torch.tensor([[4.0, 2.0, 1.0]]),
        yaw=torch.tensor([math.pi / 2]),
        velocity=torch.zeros(1, 2),
        label=torch.tensor([0]),
        score=torch.ones(1),
    )
    centre, corners = [[10, 5]], [[9, 7], [9, 3], [11, 3], [11, 7]]
    edges = [[10, 7], [9, 5], [10, 3], [11, 5]]
    assert_close(box.keypoints(), torch.tensor([centre + corners + edges], dtype=torch.float32))


def test_padding_keeps_the_boxes_and_marks_the_rest(make_boxes):
    boxes = make_boxes(3)
    padded, is_box = pad_boxes([Boxes.empty(), boxes])
    assert is_box.tolist() == [[False] * 3, [True] * 3]
    assert_close(padded[1].center, boxes.center)
    assert not padded[0].size.any()


def test_a_batch_without_boxes_is_padded_to_one():
    padded, is_box = pad_boxes([Boxes.empty(), Boxes.empty()])
    assert len(padded) == 1
    assert not is_box.any()


def test_a_mask_selects_boxes(make_boxes):
    boxes = make_boxes(3)
    assert_close(boxes[torch.tensor([False, True, False])].yaw, boxes.yaw[1:2])
