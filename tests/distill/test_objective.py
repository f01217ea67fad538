"""Objective: named terms that add up, and a teacher that nothing can change unnoticed."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectors.encoders.bev_neck import BevNeck
from detectors.heads.center import CenterHead
from distill.feature import FeatureSpec
from distill.loss import LossSpec
from distill.objective import Objective, fingerprint, loss_spec
from distill.output import OutputSpec
from distill.relation import RelationSpec

TERMS = ("heatmap", "boxes", "feature", "relation", "response")


@pytest.fixture
def make():
    return Objective


def test_weighted_terms_add_up_to_the_total(objective, batch):
    output = objective(batch)
    weights = dict(zip(TERMS, (2.0, 0.5, 3.0, 0.25, 0.0), strict=True))
    assert tuple(output.raw) == tuple(output.weighted) == TERMS
    for name, weight in weights.items():
        assert_close(output.weighted[name].detach(), weight * output.raw[name])
        assert not output.raw[name].requires_grad
    assert_close(output.total, sum(output.weighted.values()))


def test_without_a_teacher_only_detection_is_learnt(make, spec, batch):
    student = spec.build()
    output = make(student, None, {})(batch)
    detection = student.loss(student(batch), batch)
    assert tuple(output.weighted) == ("heatmap", "boxes")
    assert_close(output.total, 2.0 * detection.heatmap + 0.5 * detection.boxes)


def test_student_and_adapters_are_trained_and_the_teacher_is_not(objective, batch):
    teacher = objective.teacher.detector
    output = objective(batch)
    output.total.backward()
    assert all(p.grad is not None for p in objective.student.parameters())
    assert objective.terms["feature"].adapter.weight.grad.any()
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    trained = {id(p) for p in objective.parameters() if p.requires_grad}
    adapter = objective.terms["feature"].adapter
    assert trained == {id(p) for p in (*objective.student.parameters(), *adapter.parameters())}


def test_training_leaves_the_teacher_bit_for_bit(objective, batch):
    objective.train()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        objective(batch).total.backward()
        optimizer.step()
    objective.teacher.check_unchanged()


def test_train_and_eval_switch_the_student_only(objective):
    teacher = objective.teacher.detector
    objective.train()
    assert objective.student.training
    assert not any(module.training for module in teacher.modules())
    objective.eval()
    assert not objective.student.training


def test_teacher_in_train_mode_stops_the_step(objective, batch):
    objective.teacher.detector.train()
    with pytest.raises(RuntimeError, match="teacher left eval mode"):
        objective(batch)


def test_one_layer_of_the_teacher_in_train_mode_stops_the_step(objective, batch):
    next(m for m in objective.teacher.detector.modules() if isinstance(m, nn.BatchNorm2d)).train()
    with pytest.raises(RuntimeError, match="teacher left eval mode"):
        objective(batch)


@pytest.mark.parametrize("kind", ["parameters", "buffers"])
def test_changed_teacher_is_noticed(objective, kind):
    objective.teacher.check_unchanged()
    before = fingerprint(objective.teacher.detector)
    tensor = next(iter(getattr(objective.teacher.detector, kind)()))
    with torch.no_grad():
        tensor.view(-1)[-1] += 1e-3
    assert fingerprint(objective.teacher.detector) != before
    with pytest.raises(RuntimeError, match="teacher changed"):
        objective.teacher.check_unchanged()


def test_teachers_of_equal_state_have_equal_fingerprints(make, spec, losses):
    one, same, other = spec.build(), spec.build(), spec.build()
    same.load_state_dict(one.state_dict())
    prints = [fingerprint(make(spec.build(), teacher, losses).teacher.detector) for teacher in (one, same, other)]
    assert prints[0] == prints[1] != prints[2]


def test_maps_are_made_in_the_precision_in_which_the_teacher_was_asked(objective, batch):
    teacher = objective.teacher
    with torch.autocast("cpu", dtype=torch.bfloat16):
        asked = teacher.observe(batch)
        inside = teacher.observe(batch)
        maps, heatmap = inside.bev_high, inside.head.heatmap
    assert maps.dtype == asked.bev_high.dtype == torch.bfloat16
    assert torch.equal(asked.bev_high, maps)
    # The head of such maps computes in float32.
    assert heatmap.dtype == torch.float32
    assert torch.equal(asked.head.heatmap, heatmap)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        single = teacher.observe(batch)
    assert teacher.observe(batch).bev_high.dtype == torch.float32
    assert single.bev_high.dtype == torch.bfloat16


def test_what_is_seen_is_what_the_detector_says(objective, batch):
    teacher = objective.teacher
    seen, output = teacher.observe(batch), teacher.detector(batch)
    assert_close(seen.bev_low, output.bev_low)
    assert_close(seen.bev_high, output.bev_high)
    assert_close(seen.head.boxes, output.head.boxes)
    assert not seen.head.heatmap.requires_grad
    assert seen.head is seen.head


def test_the_teachers_maps_are_computed_when_a_loss_reads_them(make, spec, batch, monkeypatch):
    calls = []
    for part in (BevNeck, CenterHead):

        def counted(self, maps, forward=part.forward, name=part.__name__):
            calls.append(name)
            return forward(self, maps)

        monkeypatch.setattr(part, "forward", counted)
    of_the_student = ["BevNeck", "CenterHead"]
    for level, more in (("low", []), ("high", ["BevNeck"])):
        calls.clear()
        make(spec.build(), spec.build(), {"relation": RelationSpec(weight=1.0, level=level)})(batch)
        assert sorted(calls) == sorted(of_the_student + more)


def test_a_moved_teacher_is_looked_at_where_it_is(objective, batch):
    single = objective.teacher.observe(batch).bev_low
    doubled = replace(batch, lidar=replace(batch.lidar, values=batch.lidar.values.double()))
    objective.double()
    assert objective.teacher.observe(doubled).bev_low.dtype == torch.float64
    objective.float()
    assert_close(objective.teacher.observe(batch).bev_low, single)


def test_moving_the_objective_moves_the_teacher(objective):
    objective.to("meta")
    assert {p.device.type for p in objective.teacher.detector.parameters()} == {"meta"}
    assert {p.device.type for p in objective.parameters()} == {"meta"}


def test_state_is_the_student_and_the_adapters_and_resumes(make, spec, losses, objective, batch):
    state = objective.state_dict()
    student = {f"student.{name}" for name in objective.student.state_dict()}
    assert set(state) == student | {"terms.feature.adapter.weight", "terms.feature.adapter.bias"}
    resumed = make(spec.build(), objective.teacher.detector, losses)
    resumed.load_state_dict(state)
    assert_close(resumed.eval()(batch).total, objective.eval()(batch).total, atol=0, rtol=0)


@pytest.mark.parametrize("term", ["heatmap", "relation"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_term_that_is_not_finite_stops_the_step_by_name(objective, batch, monkeypatch, term, value):
    class Broken(nn.Module):
        def forward(self, *inputs):
            return torch.tensor(value)

    if term == "relation":
        objective.terms["relation"] = Broken()
    else:
        loss = objective.student.loss
        monkeypatch.setattr(
            objective.student, "loss", lambda *given: replace(loss(*given), heatmap=torch.tensor(value))
        )
    with pytest.raises(FloatingPointError, match=f"^loss '{term}' is {value}$"):
        objective(batch)


def test_a_loss_that_no_table_names_is_weighed_like_any_other(make, spec, batch):
    class Mine(RelationSpec):
        pass

    relation = {"relation": RelationSpec(weight=0.5)}
    output = make(spec.build(), spec.build(), relation | {"mine": Mine(weight=1.0)})(batch)
    assert output.weighted["mine"].item() == pytest.approx(2 * output.weighted["relation"].item())


def test_what_is_no_loss_of_either_kind_is_refused(make, spec):
    class Mine(LossSpec):
        pass

    with pytest.raises(ValueError, match="'mine': Mine is neither a DetectorLossSpec nor an ImageLossSpec"):
        make(spec.build(), spec.build(), {"mine": Mine(weight=1.0)})


def test_a_loss_cannot_have_the_name_of_a_detection_term(make, spec, losses):
    with pytest.raises(ValueError, match="cannot be named 'boxes'"):
        make(spec.build(), spec.build(), {"boxes": losses["relation"]})


def test_one_loss_may_be_there_twice(make, spec, losses, batch):
    near, far = (loss_spec(name, {"loss": "relation", "weight": 1.0, "level": name}) for name in ("low", "high"))
    output = make(spec.build(), spec.build(), {"near": near, "far": far})(batch)
    assert {"near", "far"} < output.raw.keys()
    assert output.raw["near"] != output.raw["far"]


def test_teachers_boxes_may_replace_the_annotations(make, spec, batch):
    output = make(spec.build(), spec.build(), {"output": OutputSpec(weight=1.0, annotations=False)})(batch)
    assert output.weighted["heatmap"] == output.weighted["boxes"] == 0
    assert output.raw["heatmap"] > 0
    assert output.total == output.weighted["output"]


def test_losses_and_teacher_come_together(make, spec, losses):
    with pytest.raises(ValueError, match="need a teacher"):
        make(spec.build(), None, losses)
    with pytest.raises(ValueError, match="teacher without losses"):
        make(spec.build(), spec.build(), {})


def test_teacher_of_another_grid_is_refused(make, spec, losses):
    grid = spec.grid.model_copy(update={"x_range": (-4.0, 12.0)})
    with pytest.raises(ValueError, match="different grids"):
        make(spec.build(), spec.model_copy(update={"grid": grid}).build(), losses)


def test_student_as_its_own_teacher_is_refused(make, spec, losses):
    student = spec.build()
    with pytest.raises(ValueError, match="share parameters"):
        make(student, student, losses)
    assert all(p.requires_grad for p in student.parameters())


def test_wider_teacher_needs_an_adapter(make, spec, batch):
    teacher = spec.model_copy(update={"lidar": spec.lidar.model_copy(update={"channels": 10})})
    with pytest.raises(ValueError, match=r"6 channels.*10"):
        make(spec.build(), teacher.build(), {"feature": FeatureSpec(weight=1.0)})
    adapted = make(spec.build(), teacher.build(), {"feature": FeatureSpec(weight=1.0, adapter="conv3x3")})
    assert adapted(batch).total.isfinite()
