"""X-OD: the teacher's sure boxes, and they alone, are what the student is trained on."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detectors.geometry.boxes import CLASSES
from detectors.heads.center import CenterHeadSpec
from detectors.outputs import HeadOutput
from distill.output import OutputSpec

ROW, COLUMN, TASK, LABEL = 6, 9, 5, 5  # a pedestrian


def _with_peak(output, score, code=None):
    """A head that is sure of nothing but one pedestrian."""
    heatmap = torch.full_like(output.head.heatmap, -12.0)
    heatmap[0, LABEL, ROW, COLUMN] = math.log(score / (1 - score))
    boxes = torch.zeros_like(output.head.boxes)
    if code is not None:
        boxes[0, TASK, :, ROW, COLUMN] = torch.tensor(code, dtype=boxes.dtype)
    return replace(output, head=HeadOutput(heatmap, boxes))


@pytest.fixture
def build(detector_spec):
    assert CLASSES[LABEL] == "pedestrian"
    # CenterPoint's targets: the cell of a box's centre alone learns it.
    head = CenterHeadSpec(width=8, heatmap_weight=2.0, box_weight=0.5)
    spec = detector_spec.model_copy(update={"head": head})
    return lambda **fields: OutputSpec(weight=1.0, **fields).build(spec, spec)


# Within its cell, height, logarithms of the size, heading, velocity.
CODE = [0.5, 0.25, -0.5, 0.1, -0.2, 0.3, 0.6, 0.8, 1.0, -2.0]


def test_value_by_hand(build, scene, rng, detector_spec):
    widths = detector_spec.low_channels, detector_spec.high_channels
    teacher = _with_peak(scene.output(rng, *widths), 0.8, CODE)
    student = _with_peak(scene.output(rng, *widths), 0.5, [value + 0.2 for value in CODE])
    loss = build()(student, teacher, scene.batch)
    # The focal loss of one centre at probability 1/2 is (1/2)^2 ln 2; all else is nearly 0 and right.
    focal = 0.25 * math.log(2)
    # Ten gaps of 0.2, squared and halved; the two of the velocity count a fifth.
    boxes = (8 + 2 * 0.2) * 0.2**2 / 2
    assert loss.item() == pytest.approx(2.0 * focal + 0.5 * 0.8 * boxes, rel=1e-4)
    unweighted = build(confidence="none")(student, teacher, scene.batch)
    assert unweighted.item() == pytest.approx(2.0 * focal + 0.5 * boxes, rel=1e-4)


def test_large_gaps_count_as_they_are(build, scene, rng, detector_spec):
    widths = detector_spec.low_channels, detector_spec.high_channels
    teacher = _with_peak(scene.output(rng, *widths), 0.8, CODE)
    student = _with_peak(scene.output(rng, *widths), 0.8, [*CODE[:2], CODE[2] + 3.0, *CODE[3:]])
    same = build()(teacher, teacher, scene.batch)
    gap = build()(student, teacher, scene.batch) - same
    assert gap.item() == pytest.approx(0.5 * 0.8 * (3.0 - 0.5), rel=1e-5)


@pytest.mark.parametrize(("threshold", "counts"), [(0.79, True), (0.81, False)])
def test_a_box_below_the_threshold_is_none(build, scene, rng, detector_spec, threshold, counts):
    widths = detector_spec.low_channels, detector_spec.high_channels
    teacher = _with_peak(scene.output(rng, *widths), 0.8, CODE)
    student = scene.output(rng, *widths)
    student.head.boxes.requires_grad_()
    build(score_threshold=threshold)(student, teacher, scene.batch).backward()
    gradient = student.head.boxes.grad
    assert bool(gradient.any()) == counts
    # Nowhere else than at the box's cell, in its task's map.
    gradient[0, TASK, :, ROW, COLUMN] = 0
    assert not gradient.any()


def test_a_student_that_says_what_the_teacher_says_is_better_off(build, scene, rng, detector_spec):
    widths = detector_spec.low_channels, detector_spec.high_channels
    teacher, other = scene.output(rng, *widths), scene.output(rng, *widths)
    term = build(score_threshold=0.9)
    assert term(teacher, teacher, scene.batch) < term(other, teacher, scene.batch)


def test_the_boxes_are_those_that_the_teacher_would_report(build, scene, rng, detector_spec):
    """Two near peaks of one class: the worse one falls to non-maximum suppression and is no annotation."""
    widths = detector_spec.low_channels, detector_spec.high_channels
    teacher = _with_peak(scene.output(rng, *widths), 0.9, CODE)
    # Their centres are the two corners of two cells nearest to each other, a quarter of a metre apart.
    teacher.head.boxes[0, TASK, :2, ROW, COLUMN] = torch.tensor([0.99, 0.5], dtype=torch.float64)
    teacher.head.heatmap[0, LABEL, ROW, COLUMN + 2] = math.log(0.8 / 0.2)
    teacher.head.boxes[0, TASK, :2, ROW, COLUMN + 2] = torch.tensor([-0.8, 0.5], dtype=torch.float64)
    student = scene.output(rng, *widths)
    student.head.boxes.requires_grad_()
    build()(student, teacher, scene.batch).backward()
    assert student.head.boxes.grad[0, TASK, :, ROW, COLUMN].any()
    assert not student.head.boxes.grad[0, TASK, :, ROW, COLUMN + 2].any()


def test_without_a_sure_box_the_student_learns_that_there_is_nothing(build, scene, rng, detector_spec):
    widths = detector_spec.low_channels, detector_spec.high_channels
    student, teacher = scene.output(rng, *widths), _with_peak(scene.output(rng, *widths), 0.1)
    student.head.heatmap.requires_grad_()
    loss = build()(student, teacher, scene.batch)
    loss.backward()
    assert (student.head.heatmap.grad > 0).all()  # downhill is down, everywhere
    probability = student.head.heatmap.detach().sigmoid()
    assert_close(loss.detach(), -2.0 * (probability**2 * torch.log1p(-probability)).sum())
