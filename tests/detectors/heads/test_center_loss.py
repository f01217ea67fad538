"""Targets say what decoding reads back, and the losses count what they claim to."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from detectors.geometry.boxes import CLASSES, Boxes, pad_boxes
from detectors.geometry.grid import BevGrid
from detectors.heads.center import TASK_OF_CLASS, CenterHeadSpec
from detectors.heads.center_loss import (
    box_loss,
    center_targets,
    detection_loss,
    focal_loss,
    gaussian_radius,
)
from detectors.heads.decoding import decode
from detectors.outputs import HeadOutput
from tests.boxes import no_boxes
from tests.detectors.heads.perfect import perfect_output

SPEC = CenterHeadSpec(width=8)
WIDE = BevGrid(x_range=(-10.0, 30.0), y_range=(-16.0, 8.0), z_range=(-3.0, 5.0), cell=0.8)


def _boxes(*rows, labels):
    """Rows of x, y, z, length, width, height, yaw, vx, vy."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 9)
    return Boxes(
        center=table[:, :3],
        size=table[:, 3:6],
        yaw=table[:, 6],
        velocity=table[:, 7:],
        label=torch.tensor(labels, dtype=torch.long),
        score=torch.ones(len(table)),
    )


def _targets(*samples, grid, spec=SPEC):
    return center_targets(*pad_boxes(list(samples)), spec, grid)


def _assert_same(decoded, boxes):
    """Equal up to order; labels tell the boxes apart."""
    assert sorted(decoded.label.tolist()) == sorted(boxes.label.tolist())
    decoded, boxes = decoded[decoded.label.argsort()], boxes[boxes.label.argsort()]
    for name in ("center", "size", "velocity"):
        assert_close(getattr(decoded, name), getattr(boxes, name), atol=1e-3, rtol=0)
    turned = decoded.yaw - boxes.yaw
    assert_close(
        torch.stack([turned.sin(), turned.cos()]), torch.stack([torch.zeros(len(boxes)), torch.ones(len(boxes))])
    )


def _between(low, high):
    return st.floats(low, high, width=32)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            _between(-10, 29.96875),
            _between(-16, 7.96875),
            _between(-3, 5),
            _between(0.25, 20),
            _between(0.25, 4),
            _between(0.25, 5),
            _between(-3.140625, 3.140625),
            _between(-20, 20),
            _between(-20, 20),
        ),
        max_size=len(set(TASK_OF_CLASS)),
    )
)
def test_boxes_survive_being_targets(rows):
    # One box a task group: even in one cell no two of them compete.
    labels = [TASK_OF_CLASS.index(task) for task in range(len(rows))]
    boxes = _boxes(*rows, labels=labels)
    targets = _targets(no_boxes(), boxes, grid=WIDE)
    nothing, found = decode(perfect_output(targets), SPEC, WIDE)
    assert len(nothing) == 0
    _assert_same(found, boxes)


def test_boxes_outside_the_grid_are_no_targets():
    still = [1.0, 4.0, 2.0, 1.5, 0.3, 0.0, 0.0]
    outside = [[30.0, 0.0, *still], [-10.1, 0.0, *still], [0.0, 8.0, *still], [0.0, -16.1, *still]]
    targets = _targets(_boxes(*outside, [0.0, 0.0, *still], labels=[0] * 5), grid=WIDE)
    assert targets.is_target.tolist() == [[False] * 4 + [True]]
    assert (targets.heatmap == 1).sum() == 1
    (found,) = decode(perfect_output(targets), SPEC, WIDE)
    assert len(found) == 1


def test_padding_leaves_no_trace(make_boxes, grid):
    boxes = make_boxes(2)
    alone, padded = (_targets(*samples, grid=grid) for samples in ([boxes], [boxes, make_boxes(5)]))
    assert_close(padded.heatmap[:1], alone.heatmap)


def test_heatmap_is_a_gaussian_within_its_window_by_hand(grid):
    # A cone in row 5, column 8: the least radius of 2 cells, so a deviation of 5/6 and a window of 5 x 5.
    cone = _boxes([4.5, -2.5, 0.5, 0.4, 0.4, 1.0, 0.0, 0.0, 0.0], labels=[CLASSES.index("traffic_cone")])
    heatmap = _targets(cone, grid=grid).heatmap[0]
    near = heatmap[CLASSES.index("traffic_cone")]
    spread = 2 * (5 / 6) ** 2
    assert near[5, 8] == 1
    assert_close(near[6, 8], torch.tensor(math.exp(-1 / spread)))
    assert_close(near[7, 10], torch.tensor(math.exp(-8 / spread)))
    assert near.count_nonzero() == heatmap.count_nonzero() == 25


def test_the_larger_of_two_gaussians_counts(grid):
    still = [0.5, 0.4, 0.4, 1.0, 0.0, 0.0, 0.0]
    label = CLASSES.index("pedestrian")
    pair = _boxes([2.5, -2.5, *still], [3.5, -2.5, *still], labels=[label] * 2)
    heatmap = _targets(pair, grid=grid).heatmap[0, label]
    assert (heatmap == 1).nonzero().tolist() == [[5, 6], [5, 7]]
    assert heatmap.max() == 1


@pytest.mark.parametrize("overlap", [0.1, 0.3, 0.7])
def test_a_box_moved_by_the_radius_keeps_the_overlap(rng, overlap):
    length, width = (0.5 + 9 * torch.rand(50, 2, generator=rng)).unbind(1)
    radius = gaussian_radius(torch.stack([length, width], dim=1), overlap)
    area = length * width
    common = (length - radius) * (width - radius)
    shifted = common / (2 * area - common)
    shrunk = (length - 2 * radius) * (width - 2 * radius) / area
    grown = area / ((length + 2 * radius) * (width + 2 * radius))
    worst = torch.stack([shifted, shrunk, grown]).min(dim=0).values
    assert_close(worst, torch.full((50,), overlap), atol=1e-4, rtol=0)


def test_focal_loss_by_hand():
    # Probabilities: 0.8 at the centre, 0.5 where the target is 0.5, 0.2 and 0.5 where it is 0.
    logits = torch.tensor([math.log(4), 0.0, -math.log(4), 0.0]).reshape(1, 1, 2, 2)
    target = torch.tensor([1.0, 0.5, 0.0, 0.0]).reshape(1, 1, 2, 2)
    hit = 0.2**2 * -math.log(0.8)
    misses = 0.5**4 * 0.25 * -math.log(0.5) + 0.04 * -math.log(0.8) + 0.25 * -math.log(0.5)
    assert_close(focal_loss(logits, target), torch.tensor(hit + misses))
    # Twice the map with twice the centres costs the same; without a centre the sum is not divided.
    assert_close(focal_loss(logits.repeat(1, 1, 2, 1), target.repeat(1, 1, 2, 1)), torch.tensor(hit + misses))
    lower = 0.04 * -math.log(0.8) + 0.25 * -math.log(0.5)
    assert_close(focal_loss(logits[..., 1:, :], target[..., 1:, :]), torch.tensor(lower))


def test_focal_loss_of_certain_logits_stays_finite():
    logits = torch.tensor([-200.0, 200.0]).reshape(1, 1, 1, 2).requires_grad_()
    loss = focal_loss(logits, torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2))
    loss.backward()
    assert_close(loss, torch.tensor(400.0))
    assert logits.grad.abs().max() <= 1


def test_box_loss_by_hand():
    predicted = torch.zeros(2, 2, 10)
    target = torch.zeros(2, 2, 10)
    target[0, 0, :4] = torch.tensor([0.5, -0.5, 1.0, 2.0])
    # Velocities count a fifth; one of the second box is unknown.
    target[1, 0, 8:] = torch.tensor([5.0, math.nan])
    target[:, 1] = 100.0
    is_target = torch.tensor([[True, False], [True, False]])
    assert_close(box_loss(predicted, target, is_target), torch.tensor((4.0 + 1.0) / 2))


def test_unknown_velocities_pull_at_nothing(make_boxes, grid):
    boxes = replace(make_boxes(3), velocity=torch.full((3, 2), math.nan))
    targets = _targets(boxes, grid=grid)
    output = HeadOutput(heatmap=torch.zeros(1, 10, 12, 16), boxes=torch.randn(1, 6, 10, 12, 16).requires_grad_())
    detection_loss(output, targets, SPEC, grid).boxes.backward()
    assert output.boxes.grad.isfinite().all()
    assert output.boxes.grad[:, :, :8].any()
    assert not output.boxes.grad[:, :, 8:].any()


def test_perfect_output_costs_next_to_nothing(make_boxes, grid):
    # Classes of different task groups, so that no two boxes claim one place.
    boxes = replace(make_boxes(4), label=torch.tensor([0, 1, 2, 5]))
    targets = _targets(boxes, grid=grid)
    loss = detection_loss(perfect_output(targets), targets, SPEC, grid)
    assert_close(loss.boxes, torch.tensor(0.0))
    # What is left is the Gaussians' slopes, which no logit satisfies.
    nothing = HeadOutput(torch.full_like(targets.heatmap, -9.0), torch.zeros(1, 6, 10, 12, 16))
    silent = detection_loss(nothing, targets, SPEC, grid)
    assert loss.heatmap < silent.heatmap / 5


def test_no_boxes_still_teach_the_heatmap(grid):
    targets = _targets(no_boxes(), no_boxes(), grid=grid)
    heatmap = torch.zeros(2, 10, 12, 16, requires_grad=True)
    output = HeadOutput(heatmap=heatmap, boxes=torch.zeros(2, 6, 10, 12, 16))
    loss = detection_loss(output, targets, SPEC, grid)
    loss.heatmap.backward()
    assert loss.boxes == 0
    assert (heatmap.grad > 0).all()
