"""Relation distillation compares affinities, so only the angles between keypoints matter."""

import pytest
import torch
from torch.testing import assert_close

from distill.adapters import build_adapter
from distill.keypoints import KeypointTerm
from distill.relation import RelationSpec

PARALLEL = torch.tensor([[[[1.0, 0.0], [2.0, 0.0]]]])  # one object, two keypoints, affinity 1
SLANTED = torch.tensor([[[[1.0, 0.0], [0.6, 0.8]]]])  # affinity 0.6 between the two
ONE = torch.tensor([[True]])


@pytest.fixture
def relation_loss():
    from distill.relation import relation_loss

    return relation_loss


def test_value_by_hand(relation_loss):
    # Two of the four affinities differ, each by 0.4: (0 + 0.4 + 0.4 + 0) / 4.
    assert_close(relation_loss(SLANTED, PARALLEL, ONE), torch.tensor(0.2))


def test_is_a_mean_over_objects(relation_loss):
    student = torch.cat([SLANTED, PARALLEL, SLANTED], dim=1)
    teacher = PARALLEL.expand(1, 3, 2, 2)
    assert_close(relation_loss(student, teacher, torch.tensor([[True, True, False]])), torch.tensor(0.1))


def test_ignores_rotation_scale_and_channel_count(relation_loss, rng):
    teacher = torch.randn(2, 3, 9, 8, generator=rng)
    rotation, _ = torch.linalg.qr(torch.randn(16, 16, generator=rng))
    student = 5.0 * teacher @ rotation[:8]
    loss = relation_loss(student, teacher, torch.ones(2, 3, dtype=torch.bool))
    assert_close(loss, torch.tensor(0.0), atol=1e-5, rtol=0)


def test_sees_one_keypoint_turn_against_the_others(relation_loss, rng):
    teacher = torch.randn(1, 1, 9, 4, generator=rng)
    student = teacher.clone()
    student[..., 3, :] *= -1
    assert relation_loss(student, teacher, ONE) > 0.05


def test_empty_bev_cell_keeps_the_gradient_bounded(relation_loss):
    student = torch.tensor([[[[0.0, 0.0], [1.0, 0.0]]]], requires_grad=True)
    relation_loss(student, PARALLEL, ONE).backward()
    assert 0 < student.grad.abs().max() <= 1e3


def test_half_precision_step_keeps_small_gaps(relation_loss):
    angle = torch.tensor(0.03)
    student = torch.stack([torch.tensor([1.0, 0.0]), torch.stack([angle.cos(), angle.sin()])])[None, None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = relation_loss(student, PARALLEL, ONE)
    assert_close(loss, (1 - angle.cos()) / 2, atol=1e-6, rtol=0)


def test_value_and_gradient_equal_a_loop_over_boxes(scene, rng, read_keypoints):
    from distill.relation import relation_loss

    student, teacher = scene.output(rng, low=3, high=4), scene.output(rng, low=3, high=6)
    maps = student.bev_high.requires_grad_()
    loss = KeypointTerm(relation_loss, scene.grid, "high", torch.nn.Identity())(student, teacher, scene.batch)

    gaps = []
    for sample, box in scene.valid:
        s = read_keypoints(maps[sample], scene.batch.boxes, sample, box)
        t = read_keypoints(teacher.bev_high[sample], scene.batch.boxes, sample, box)
        cosine = [
            [(f[i] @ f[j]) / (f[i].norm().clamp(min=1e-3) * f[j].norm().clamp(min=1e-3)) for f in (s, t)]
            for i in range(9)
            for j in range(9)
        ]
        gaps.append(sum((a - b).abs() for a, b in cosine) / 81)
    expected = sum(gaps) / len(gaps)

    assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    assert_close(*(torch.autograd.grad(value, maps)[0] for value in (loss, expected)), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("adapter", ["none", "conv3x3"])
def test_teacher_may_be_wider_than_the_student(scene, rng, adapter):
    from distill.relation import relation_loss

    adapt = torch.nn.Identity() if adapter == "none" else build_adapter(adapter, 4, 6).double()
    student, teacher = scene.output(rng, low=3, high=4), scene.output(rng, low=3, high=6)
    assert KeypointTerm(relation_loss, scene.grid, "high", adapt)(student, teacher, scene.batch) > 0


def test_compares_the_level_it_was_told(scene, rng, detector_spec):
    widths = detector_spec.low_channels, detector_spec.high_channels
    student = scene.output(rng, *widths)
    teacher = scene.output(rng, *widths, bev_high=student.bev_high)
    assert RelationSpec(weight=1.0).build(detector_spec, detector_spec)(student, teacher, scene.batch) == 0
    low = RelationSpec(weight=1.0, level="low").build(detector_spec, detector_spec)
    assert low(student, teacher, scene.batch) > 0
