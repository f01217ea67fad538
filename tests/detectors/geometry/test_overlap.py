"""The overlap of turned rectangles equals that of polygons clipped by shapely, whatever their place and turn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import Polygon
from torch.testing import assert_close

from detectors.geometry.boxes import Boxes
from detectors.geometry.overlap import bev_iou


def _boxes(*rows):
    """Boxes of (x, y, length, width, yaw)."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)
    k = len(table)
    return Boxes(
        center=torch.cat([table[:, :2], torch.zeros(k, 1)], dim=1).float(),
        size=torch.cat([table[:, 2:4], torch.ones(k, 1)], dim=1).float(),
        yaw=table[:, 4].float(),
        velocity=torch.zeros(k, 2),
        label=torch.zeros(k, dtype=torch.long),
        score=torch.ones(k),
    )


def _polygon(boxes, row):
    corners = boxes.keypoints()[row, 1:5].double().numpy()
    return Polygon(corners)


def test_values_by_hand():
    # Two unit squares shifted by half a side share 1/2 of 3/2; a square and itself turned by 45 degrees share the
    # octagon of area 2 (sqrt 2 - 1); a small one inside a large one shares itself; two that touch share nothing.
    square = _boxes((0, 0, 1, 1, 0))
    others = _boxes((0.5, 0, 1, 1, 0), (0, 0, 1, 1, math.pi / 4), (0, 0, 4, 2, 1.0), (1, 0, 1, 1, 0), (9, 9, 1, 1, 0))
    octagon = 2 * (math.sqrt(2) - 1)
    assert_close(bev_iou(square, others), torch.tensor([[1 / 3, octagon / (2 - octagon), 1 / 8, 0, 0]]))


@pytest.mark.parametrize(("x", "y"), [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, 0.5), (-0.25, -1)])
@pytest.mark.parametrize("turn", [0.0, math.pi / 2, math.pi])
def test_boxes_that_touch_share_nothing(x, y, turn):
    square, other = _boxes((0, 0, 1, 1, 0)), _boxes((x, y, 1, 1, turn))
    for iou in (bev_iou(square, other), bev_iou(other, square)):
        assert_close(iou, torch.zeros(1, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shift", [0.0, 1e-10, 1e-9, 2e-9, 1e-6])
@pytest.mark.parametrize("axis", [0, 1])
def test_boxes_that_nearly_coincide_overlap_entirely(shift, axis):
    box, other = _boxes((0, 0, 1, 1, 0)), _boxes((shift * (1 - axis), shift * axis, 1, 1, 0))
    for iou in (bev_iou(box, other), bev_iou(other, box)):
        assert_close(iou, torch.ones(1, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("turn", [0.0, math.pi / 2, math.pi, -math.pi, 2 * math.pi])
def test_a_box_overlaps_itself_entirely_however_its_corners_are_counted(turn):
    box = _boxes((12.3, -45.6, 4.5, 4.5, 0.7))
    assert_close(bev_iou(box, _boxes((12.3, -45.6, 4.5, 4.5, 0.7 + turn))), torch.ones(1, 1), atol=1e-4, rtol=0)


_box = st.tuples(
    st.floats(-3, 3),
    st.floats(-3, 3),
    st.floats(0.1, 6),
    st.floats(0.1, 6),
    st.sampled_from([0, 0.3, math.pi / 2]) | st.floats(-7, 7),
)


@given(
    here=st.lists(_box, min_size=1, max_size=4),
    there=st.lists(_box, min_size=1, max_size=4),
    far=st.sampled_from([0, 1000]),
)
def test_every_pair_equals_shapely(here, there, far):
    one, two = (_boxes(*[(x + far, y - far, *rest) for x, y, *rest in rows]) for rows in (here, there))
    wanted = np.empty((len(here), len(there)))
    for i in range(len(here)):
        for j in range(len(there)):
            a, b = _polygon(one, i), _polygon(two, j)
            shared = a.intersection(b).area
            wanted[i, j] = shared / (a.area + b.area - shared)
    # shapely sees corners that were rounded to float32 far from the origin.
    assert_close(bev_iou(one, two).numpy(), wanted.astype(np.float32), atol=1e-4 if far == 0 else 1e-2, rtol=0)
    assert_close(bev_iou(one, two), bev_iou(two, one).T, atol=1e-6, rtol=0)


def test_batches_and_no_boxes_are_pairs_too():
    none, some = _boxes(), _boxes((0, 0, 1, 1, 0), (0.5, 0, 1, 1, 0))
    assert bev_iou(none, some).shape == (0, 2)
    pair = Boxes(**{name: torch.stack([getattr(some, name)] * 3) for name in vars(some)})
    assert_close(bev_iou(pair, pair), bev_iou(some, some).expand(3, 2, 2))


def test_an_empty_box_shares_nothing():
    point, square = _boxes((0, 0, 0, 0, 0)), _boxes((0, 0, 1, 1, 0))
    assert bev_iou(point, square).item() == 0
    assert bev_iou(point, point).item() == 0
