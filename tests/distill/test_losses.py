"""What every distillation loss promises, whatever it compares."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

LOSS_NAMES = ("feature", "relation", "response")


@pytest.fixture(params=LOSS_NAMES)
def term(request, detector_spec):
    from distill.objective import LOSSES

    return LOSSES[request.param](weight=1.0).build(detector_spec, detector_spec)


@pytest.fixture
def outputs(scene, rng, detector_spec):
    """Of a student and of a teacher, all maps being leaves that would take a gradient."""
    return tuple(
        _differentiable(scene.output(rng, detector_spec.low_channels, detector_spec.high_channels)) for _ in "st"
    )


def _maps(output):
    return output.bev_low, output.bev_high, output.head.heatmap, output.head.boxes


def _differentiable(output):
    for maps in _maps(output):
        maps.requires_grad_()
    return output


def test_these_are_all_losses():
    from distill.objective import LOSSES

    assert tuple(LOSSES) == LOSS_NAMES


def test_is_a_positive_scalar_with_a_finite_gradient_to_the_student_and_none_to_the_teacher(term, scene, outputs):
    student, teacher = outputs
    loss = term(student, teacher, scene.batch)
    loss.backward()
    assert loss.shape == ()
    assert 0 < loss < math.inf
    gradients = [maps.grad for maps in _maps(student) if maps.grad is not None]
    assert any(gradient.any() for gradient in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(maps.grad is None for maps in _maps(teacher))


@pytest.mark.parametrize("why", ["no boxes", "all outside"])
def test_without_objects_costs_exactly_nothing_and_has_a_gradient(term, scene, outputs, why):
    is_box = scene.batch.is_box & (why == "all outside")
    loss = term(*outputs, scene.with_boxes(is_box, center=scene.batch.boxes.center + 50.0))
    loss.backward()
    assert loss == 0
    gradients = [maps.grad for maps in _maps(outputs[0]) if maps.grad is not None]
    assert gradients
    assert not any(gradient.any() for gradient in gradients)


def test_is_zero_where_the_student_equals_the_teacher(term, scene, outputs):
    assert term(outputs[1], outputs[1], scene.batch) == 0


def test_stays_finite_on_empty_maps(term, scene, outputs):
    student, teacher = outputs
    nothing = replace(student, bev_low=student.bev_low * 0, bev_high=student.bev_high * 0)
    loss = term(nothing, teacher, scene.batch)
    loss.backward()
    assert loss.isfinite()
    assert all(maps.grad is None or maps.grad.isfinite().all() for maps in _maps(student))


def test_order_of_boxes_does_not_matter(term, scene, outputs):
    order = torch.tensor([2, 0, 3, 1])
    fields = {
        name: getattr(scene.batch.boxes, name)[:, order]
        for name in ("center", "size", "yaw", "velocity", "label", "score")
    }
    shuffled = scene.with_boxes(scene.batch.is_box[:, order], **fields)
    assert_close(term(*outputs, shuffled), term(*outputs, scene.batch))


def test_content_and_amount_of_padding_do_not_matter(term, scene, outputs):
    boxes = scene.batch.boxes
    fields = {
        name: torch.cat([getattr(boxes, name), getattr(boxes, name).flip(0)], dim=1)
        for name in ("center", "size", "yaw", "velocity", "label", "score")
    }
    padded = scene.with_boxes(torch.cat([scene.batch.is_box, torch.zeros(2, 4, dtype=torch.bool)], dim=1), **fields)
    assert_close(term(*outputs, padded), term(*outputs, scene.batch))


def test_box_outside_the_grid_does_not_matter(term, scene, outputs):
    # The last box of the first sample has its centre just outside.
    without = scene.batch.is_box & torch.tensor([[True, True, True, False]])
    assert_close(term(*outputs, scene.with_boxes(without)), term(*outputs, scene.batch))


def test_swapping_x_and_y_of_the_boxes_matters(term, scene, outputs):
    center = scene.batch.boxes.center
    mirrored = scene.with_boxes(scene.batch.is_box, center=center[..., [1, 0, 2]])
    assert (term(*outputs, mirrored) - term(*outputs, scene.batch)).abs() > 1e-3


@pytest.mark.parametrize("name", LOSS_NAMES)
@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weight_is_a_finite_number_from_zero_up(name, weight):
    from distill.objective import LOSSES

    with pytest.raises(ValueError, match="weight"):
        LOSSES[name](weight=weight)
