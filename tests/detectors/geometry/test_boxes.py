"""Boxes fix the conventions of size, yaw and padding."""

import math

import torch
from nuscenes.utils.data_classes import Box
from pyquaternion import Quaternion
from torch.testing import assert_close

from detectors.geometry.boxes import FOOTPRINT, Boxes, pad_boxes, points_of_boxes
from tests.boxes import no_boxes

# 4 m long, 2 m wide, 1 m high, heading +y: the length lies along y, the left side points to -x.
TURNED = Boxes(
    center=torch.tensor([[10.0, 5.0, 1.0]]),
    size=torch.tensor([[4.0, 2.0, 1.0]]),
    yaw=torch.tensor([math.pi / 2]),
    velocity=torch.zeros(1, 2),
    label=torch.tensor([0]),
    score=torch.ones(1),
)


def test_keypoints_of_a_turned_box_by_hand():
    centre, corners = [[10, 5]], [[9, 7], [9, 3], [11, 3], [11, 7]]
    edges = [[10, 7], [9, 5], [10, 3], [11, 5]]
    assert_close(TURNED.keypoints(), torch.tensor([centre + corners + edges], dtype=torch.float32))


def test_corners_of_a_turned_box_by_hand():
    front = [[9, 7, 1.5], [11, 7, 1.5], [11, 7, 0.5], [9, 7, 0.5]]
    back = [[9, 3, 1.5], [11, 3, 1.5], [11, 3, 0.5], [9, 3, 0.5]]
    assert_close(TURNED.corners(), torch.tensor([front + back], dtype=torch.float32))


def test_corners_are_in_the_devkits_order(make_boxes):
    boxes = make_boxes(5)
    for i, corners in enumerate(boxes.corners()):
        length, width, height = boxes.size[i].tolist()
        turn = Quaternion(axis=[0, 0, 1], angle=float(boxes.yaw[i]))
        expected = Box(boxes.center[i].tolist(), [width, length, height], turn).corners().T
        assert_close(corners.double(), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_the_footprint_is_counter_clockwise_from_the_front_left():
    # 2 m long, 1 m wide, turned by the angle of a 3-4-5 triangle: ahead is (0.8, 0.6), left is (-0.6, 0.8).
    center, size = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0]])
    yaw = torch.tensor([math.atan2(3, 4)])
    expected = torch.tensor([[[1.5, 3.0], [-0.1, 1.8], [0.5, 1.0], [2.1, 2.2]]])
    assert_close(points_of_boxes(center, size, yaw, FOOTPRINT), expected)


def test_corners_of_no_boxes_are_none():
    assert no_boxes().corners().shape == (0, 8, 3)


def test_padding_keeps_the_boxes_and_marks_the_rest(make_boxes):
    boxes = make_boxes(3)
    padded, is_box = pad_boxes([no_boxes(), boxes])
    assert is_box.tolist() == [[False] * 3, [True] * 3]
    assert_close(padded[1].center, boxes.center)
    assert not padded[0].size.any()


def test_a_batch_without_boxes_is_padded_to_one():
    padded, is_box = pad_boxes([no_boxes(), no_boxes()])
    assert len(padded) == 1
    assert not is_box.any()


def test_a_mask_selects_boxes(make_boxes):
    boxes = make_boxes(3)
    assert_close(boxes[torch.tensor([False, True, False])].yaw, boxes.yaw[1:2])
