"""What every distillation loss promises, whatever it compares."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detectors.batch import Batch
from detectors.outputs import DetectorOutput, HeadOutput
from distill.objective import LOSSES, loss_spec

CASES = {
    "feature": {},
    "feature, map": {"loss": "feature", "region": "map", "norm": "l2"},
    "feature, gaussian": {"loss": "feature", "region": "gaussian", "level": "high"},
    "feature, foreground": {"loss": "feature", "region": "foreground", "norm": "l2", "adapter": "conv3x3"},
    "feature, normalised": {"loss": "feature", "normalise": "teacher", "norm": "l2"},
    "feature, standardised": {"loss": "feature", "normalise": "channels", "adapter": "mlp3"},
    "feature, cosine": {"loss": "feature", "norm": "cosine", "adapter": "conv1x1"},
    "feature, gaussian and normalised": {"loss": "feature", "region": "gaussian", "normalise": "teacher"},
    "feature, foreground and standardised": {
        "loss": "feature",
        "region": "foreground",
        "normalise": "channels",
        "norm": "cosine",
    },
    "feature, active map": {"loss": "feature", "region": "active", "norm": "cosine"},
    "feature, normalised map": {"loss": "feature", "region": "map", "norm": "l2", "normalise": "teacher"},
    "feature, standardised map": {"loss": "feature", "region": "map", "norm": "l2", "normalise": "channels"},
    "relation": {},
    "response": {},
    "response, map": {"loss": "response", "region": "map", "scores": "all"},
    "output": {"score_threshold": 0.5},
    "output, unweighted": {"loss": "output", "score_threshold": 0.5, "confidence": "none"},
    "activation": {},
    "activation, channels": {"loss": "activation", "target": "channels", "norm": "l1", "level": "high"},
    "adversarial": {},
    "adversarial, map": {"loss": "adversarial", "judges": "map", "adapter": "conv3x3"},
    "channelwise": {},
    "contrastive": {},
}
"""Every loss in the variants that take other paths through its code."""
EVERYWHERE = [
    name
    for name in CASES
    if name.endswith("map") or name.split(",")[0] in ("output", "activation", "adversarial", "channelwise")
]
"""Those that do not ask where the annotated objects are."""
AT_OBJECTS = [name for name in CASES if name not in EVERYWHERE]
IMITATING = [name for name in CASES if name.split(",")[0] in ("feature", "relation", "response", "channelwise")]
"""Those that cost nothing where student and teacher agree."""


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def term(case, detector_spec):
    torch.manual_seed(0)
    return loss_spec(case, {"weight": 1.0, **CASES[case]}).build(detector_spec, detector_spec).double()


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
    # These two compare no maps of the two detectors; they have tests of their own.
    assert set(LOSSES) == {name.split(",")[0] for name in CASES} | {"depth", "instance"}


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


@pytest.mark.parametrize("case", AT_OBJECTS, indirect=True)
@pytest.mark.parametrize("why", ["no boxes", "all outside"])
def test_without_objects_costs_exactly_nothing_and_has_a_gradient(term, scene, outputs, why):
    is_box = scene.batch.is_box & (why == "all outside")
    loss = term(*outputs, scene.with_boxes(is_box, center=scene.batch.boxes.center + 50.0))
    loss.backward()
    assert loss == 0
    gradients = [maps.grad for maps in _maps(outputs[0]) if maps.grad is not None]
    assert gradients
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("case", [name for name in IMITATING if "adapter" not in CASES[name]], indirect=True)
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


@pytest.mark.parametrize("case", AT_OBJECTS, indirect=True)
def test_box_outside_the_grid_does_not_matter(term, scene, outputs):
    # The last box of the first sample has its centre just outside.
    without = scene.batch.is_box & torch.tensor([[True, True, True, False]])
    assert_close(term(*outputs, scene.with_boxes(without)), term(*outputs, scene.batch))


@pytest.mark.parametrize("case", AT_OBJECTS, indirect=True)
def test_swapping_x_and_y_of_the_boxes_matters(term, scene, outputs):
    center = scene.batch.boxes.center
    mirrored = scene.with_boxes(scene.batch.is_box, center=center[..., [1, 0, 2]])
    assert (term(*outputs, mirrored) - term(*outputs, scene.batch)).abs() > 1e-3


@pytest.mark.parametrize("case", EVERYWHERE, indirect=True)
def test_what_looks_everywhere_does_not_ask_for_annotations(term, scene, outputs):
    nothing = scene.with_boxes(torch.zeros_like(scene.batch.is_box))
    assert_close(term(*outputs, nothing), term(*outputs, scene.batch))
    assert term(*outputs, nothing) > 0


def test_batch_of_one(term, scene, outputs):
    def first(output):
        head = HeadOutput(output.head.heatmap[:1], output.head.boxes[:1])
        maps = {"bev_low": output.bev_low[:1], "bev_high": output.bev_high[:1], "head": head}
        return DetectorOutput(**{**vars(output), **maps})

    boxes = replace(scene.batch.boxes, **{name: value[:1] for name, value in vars(scene.batch.boxes).items()})
    batch = Batch(tokens=("a",), views=None, lidar=None, radar=None, boxes=boxes, is_box=scene.batch.is_box[:1])
    loss = term(first(outputs[0]), first(outputs[1]), batch)
    assert loss.shape == ()
    assert 0 < loss < math.inf


def test_in_half_precision_it_is_about_the_same_and_its_gradient_is_finite(case, detector_spec, scene, rng):
    widths = detector_spec.low_channels, detector_spec.high_channels
    torch.manual_seed(0)
    term = loss_spec(case, {"weight": 1.0, **CASES[case]}).build(detector_spec, detector_spec)
    student, teacher = (_single(scene.output(rng, *widths)) for _ in "st")
    boxes = scene.batch.boxes
    floats = {name: value.float() for name, value in vars(boxes).items() if value.is_floating_point()}
    batch = replace(scene.batch, boxes=replace(boxes, **floats))
    whole = term(student, teacher, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = term(_differentiable(student), teacher, batch)
    half.backward()
    assert half.item() == pytest.approx(whole.item(), rel=0.05)
    assert all(maps.grad is None or maps.grad.isfinite().all() for maps in _maps(student))


def _single(output):
    head = HeadOutput(output.head.heatmap.float(), output.head.boxes.float())
    return replace(output, bev_low=output.bev_low.float(), bev_high=output.bev_high.float(), head=head)


def test_samples_may_come_in_any_order(term, scene, outputs):
    def turned(output):
        head = HeadOutput(output.head.heatmap.flip(0), output.head.boxes.flip(0))
        return replace(output, bev_low=output.bev_low.flip(0), bev_high=output.bev_high.flip(0), head=head)

    boxes = {name: value.flip(0) for name, value in vars(scene.batch.boxes).items()}
    batch = scene.with_boxes(scene.batch.is_box.flip(0), **boxes)
    assert_close(term(turned(outputs[0]), turned(outputs[1]), batch), term(*outputs, scene.batch))


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weight_is_a_finite_number_from_zero_up(case, weight):
    with pytest.raises(ValueError, match="weight"):
        loss_spec(case, {**CASES[case], "weight": weight})
