"""The gradients that are told are those that the terms have where they meet."""

import math

import pytest
import torch
from torch.testing import assert_close

from detectors.presets import PRESETS
from distill.gradients import last_layer, pulls

DETECTION = ("heatmap", "boxes")


@pytest.fixture
def pull_and_output(objective, batch):
    """What is told of one step, and the step itself."""
    output = objective(batch)
    return {name: value.item() for name, value in pulls(objective, output).items()}, output


def test_norms_and_cosines_are_those_of_gradients_taken_one_by_one(objective, batch, pull_and_output):
    pull, output = pull_and_output
    weight = objective.student.lidar.fold.conv.weight

    def gradients(*names):
        value = sum(output.weighted[name] for name in names)
        return torch.autograd.grad(value, [output.bev_low, weight], retain_graph=True, materialize_grads=True)

    detection = gradients(*DETECTION)
    for place, mine in zip(("map", "weight"), detection, strict=True):
        assert pull[f"{place}_gradient/detection"] == pytest.approx(mine.norm().item(), rel=1e-5)
    for name in ("feature", "relation"):
        for place, mine, reference in zip(("map", "weight"), gradients(name), detection, strict=True):
            cosine = torch.nn.functional.cosine_similarity(mine.flatten(), reference.flatten(), dim=0)
            assert pull[f"{place}_gradient/{name}"] == pytest.approx(mine.norm().item(), rel=1e-5)
            assert pull[f"{place}_cosine/{name}"] == pytest.approx(cosine.item(), abs=1e-5)
            assert mine.any()


def test_a_term_without_weight_pulls_at_nothing(pull_and_output):
    pull, _ = pull_and_output
    assert (pull["map_gradient/response"], pull["map_cosine/response"]) == (0, 0)
    assert all(math.isfinite(value) for value in pull.values())


def test_looking_changes_no_gradient(objective, batch):
    def trained(look):
        torch.manual_seed(0)
        objective.zero_grad()
        output = objective(batch)
        if look:
            pulls(objective, output)
        output.total.backward()
        return [p.grad.clone() for p in objective.parameters() if p.grad is not None]

    objective.eval()  # batch norms would move between the two
    assert_close(trained(look=True), trained(look=False), atol=0, rtol=0)


@pytest.mark.parametrize("preset", ["tiny_camera", "tiny_lidar", "tiny_radar", "tiny_camera_lidar"])
def test_the_last_layer_is_the_one_that_makes_the_map(preset):
    spec = PRESETS[preset]
    student = spec.build()
    made = {
        "tiny_camera": lambda: student.camera.lift.weight,
        "tiny_lidar": lambda: student.lidar.fold.conv.weight,
        "tiny_radar": lambda: student.radar.spread[-2].weight,
        "tiny_camera_lidar": lambda: student.fusion.mix[0].weight,
    }[preset]()
    assert last_layer(student) is made
