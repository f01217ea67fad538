"""Weights that set themselves: each loss pulls at the student's map as strongly as it is asked to."""

import pytest
import torch
from torch.testing import assert_close

from distill.balance import Balance
from distill.depth import DepthSpec
from distill.feature import FeatureSpec
from distill.gradients import pulls
from distill.instance import InstanceSpec
from distill.objective import LOSSES, Objective, loss_spec
from distill.relation import RelationSpec
from distill.response import ResponseSpec


@pytest.fixture
def bev():
    """A map of two cells, of which losses are made by hand."""
    return torch.tensor([[[[1.0, 2.0]]]], requires_grad=True)


def _of(bev, first, second):
    """A value whose gradient is (first, second)."""
    return first * bev[0, 0, 0, 0] + second * bev[0, 0, 0, 1]


def test_worked_by_hand(bev):
    balance = Balance({"a": 0.5, "b": 2.0})
    # Gradients of norm 5 of the detection loss, 10 of a and 0 of b, which met no object.
    balance.add(balance.norms(_of(bev, 3, 4), {"b": torch.zeros(()), "a": _of(bev, 6, -8)}, bev))
    assert {name: float(weight) for name, weight in balance.weights().items()} == {"a": 0.25, "b": 0.0}
    # 15, 20 and 4 in the second step: w_a = 0.5 (5 + 15) / (10 + 20), and w_b = 2 (5 + 15) / (0 + 4).
    balance.add(balance.norms(_of(bev, 9, 12), {"b": _of(bev, 0, 4), "a": _of(bev, 12, 16)}, bev))
    assert {name: float(weight) for name, weight in balance.weights().items()} == pytest.approx({"a": 1 / 3, "b": 10.0})
    assert balance.frozen() == pytest.approx({"a": 1 / 3, "b": 10.0})


def test_what_never_pulled_is_refused_by_name(bev):
    balance = Balance({"a": 0.5, "b": 2.0})
    balance.add(balance.norms(_of(bev, 3, 4), {"a": _of(bev, 6, 8), "b": torch.ones((), requires_grad=True) * 2}, bev))
    with pytest.raises(ValueError, match=r"weight \{pull: 2\} of loss 'b': in the first 50 steps it has no gradient"):
        balance.frozen()


@pytest.fixture
def objective(spec):
    """Two losses that are asked to pull, one of them with an adapter, and one with a number."""
    losses = {
        "feature": FeatureSpec(weight={"pull": 0.3}, adapter="conv3x3"),
        "relation": RelationSpec(weight={"pull": 1.5}),
        "response": ResponseSpec(weight=2.0),
    }
    return Objective(spec.build(), spec.build(), losses)


def test_pulls_as_asked_in_the_very_first_step(objective, batch):
    output = objective(batch, measure=True)
    pull = {name: value.item() for name, value in pulls(objective, output).items()}
    for name, share in (("feature", 0.3), ("relation", 1.5)):
        assert pull[f"map_gradient/{name}"] == pytest.approx(share * pull["map_gradient/detection"], rel=1e-5)


def test_the_ramp_does_not_enter_the_measurement(objective, batch):
    objective.eval()  # batch norms would move between the two
    weights = []
    for ramp in (1.0, 0.1):
        objective.balance.detection_norm.zero_()
        objective.balance.term_norms.zero_()
        output = objective(batch, ramp, measure=True)
        weights.append(objective.balance.frozen())
        assert output.weighted["feature"].item() == pytest.approx(
            ramp * weights[-1]["feature"] * output.raw["feature"].item(), rel=1e-5
        )
    assert weights[0] == weights[1]


def test_frozen_weights_do_not_change_and_are_saved(objective, spec, batch):
    objective(batch, measure=True)
    weights = objective.balance.frozen()
    objective(batch)
    assert objective.balance.frozen() == weights
    losses = {"relation": RelationSpec(weight={"pull": 1.5}), "response": ResponseSpec(weight=2.0)}
    another = Objective(
        spec.build(), spec.build(), losses | {"feature": FeatureSpec(weight={"pull": 0.3}, adapter="conv3x3")}
    )
    another.load_state_dict(objective.state_dict(), strict=True)
    assert another.balance.frozen() == weights


def test_measuring_changes_no_gradient(spec, batch):
    def gradients(measure):
        torch.manual_seed(0)
        objective = Objective(spec.build(), spec.build(), {"feature": FeatureSpec(weight={"pull": 0.3})})
        objective(batch, measure=True)
        objective.zero_grad()
        if measure:
            before = objective.state_dict()["balance.term_norms"].clone(), objective.balance.detection_norm.clone()
        output = objective.eval()(batch, measure=measure)
        if measure:  # as if it had not been
            objective.balance.term_norms.copy_(before[0])
            objective.balance.detection_norm.copy_(before[1])
        output.weighted["heatmap"].backward()
        return [p.grad for p in objective.parameters() if p.grad is not None]

    assert_close(gradients(True), gradients(False), atol=0, rtol=0)


def test_an_objective_of_numbers_has_no_further_state(spec):
    objective = Objective(spec.build(), spec.build(), {"feature": FeatureSpec(weight=2.0)})
    assert objective.balance is None
    assert not any("balance" in name for name in objective.state_dict())


def test_annotations_count_for_the_measurement_where_the_student_does_not_learn_from_them(spec, batch):
    losses = {"output": loss_spec("output", {"weight": {"pull": 0.5}, "annotations": False, "score_threshold": 0.0})}
    objective = Objective(spec.build(), spec.build(), losses)
    output = objective(batch, measure=True)
    assert output.weighted["heatmap"] == 0
    assert objective.balance.frozen()["output"] > 0


@pytest.mark.parametrize("loss", [InstanceSpec, DepthSpec])
def test_what_ends_before_the_map_is_refused(loss):
    with pytest.raises(ValueError, match=rf"{loss.__name__} ends before the student's low-level BEV map"):
        loss(weight={"pull": 0.5})
    assert loss(weight=0.5).weight == 0.5


@pytest.mark.parametrize("pull", [0, -0.3, float("nan"), float("inf"), "0.3", True])
def test_a_pull_is_a_finite_number_above_0(pull):
    with pytest.raises(ValueError, match="pull"):
        FeatureSpec(weight={"pull": pull})


def test_the_identity_of_a_number_is_what_it_was():
    for name, spec in LOSSES.items():
        assert spec(weight=2).model_dump(mode="json")["weight"] == 2.0, name
        assert isinstance(spec(weight=2).model_dump(mode="json")["weight"], float)
    assert FeatureSpec(weight={"pull": 0.3}).model_dump(mode="json")["weight"] == {"pull": 0.3}
