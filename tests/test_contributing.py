"""The worked example of CONTRIBUTING.md is a loss that keeps the contract."""

import re
import types
from pathlib import Path

import pytest
import torch


@pytest.fixture
def example():
    text = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    module = types.ModuleType("center_score")
    exec(code, vars(module))
    return module


def test_the_example_is_a_loss_that_studies_can_name(example, monkeypatch, tmp_path):
    from detectors.cost import example_batch
    from detectors.presets import PRESETS
    from distill.objective import LOSSES, Objective
    from harness.study.load import load_study

    monkeypatch.setitem(LOSSES, "center_score", example.CenterScoreSpec)
    path = tmp_path / "study.yaml"
    path.write_text(
        "schedule: {steps: 5}\n"
        "teachers: {lidar: {preset: tiny_lidar}}\n"
        "students: {radar: {preset: tiny_radar}}\n"
        "paths: [lidar->radar]\n"
        "losses: {center_score: {weight: 0.5, min_overlap: 0.3}}\n"
        "arms: {mine: [center_score]}\n"
    )
    spec = load_study(path).loss("center_score", "lidar->radar")
    assert spec == example.CenterScoreSpec(weight=0.5, min_overlap=0.3)
    student, teacher = PRESETS["tiny_lidar"].build(), PRESETS["tiny_lidar"].build()
    objective = Objective(student, teacher, {"center_score": spec})
    output = objective(example_batch(PRESETS["tiny_lidar"], 1))
    assert output.raw["center_score"] > 0
    assert output.weighted["center_score"].item() == pytest.approx(0.5 * output.raw["center_score"].item())
    output.total.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_its_value_by_hand(example, grid, make_boxes):
    from detectors.batch import Batch
    from detectors.geometry.boxes import pad_boxes
    from detectors.outputs import DetectorOutput, HeadOutput

    boxes, is_box = pad_boxes([make_boxes(3)])
    batch = Batch(tokens=("a",), views=None, lidar=None, radar=None, boxes=boxes, is_box=is_box)

    def output(logit):
        size = (grid.rows, grid.columns)
        heatmap = torch.full((1, 10, *size), -9.0)
        heatmap[:, 4] = logit
        maps = dict.fromkeys(("image_features", "depth", "camera_bev", "lidar_bev", "radar_bev"))
        low = torch.zeros(1, 1, *size)
        return DetectorOutput(**maps, bev_low=low, bev_high=low, head=HeadOutput(heatmap, torch.zeros(1, 6, 10, *size)))

    term = example.CenterScoreTerm(example.CenterScoreSpec(weight=1.0), grid)
    found = term(output(0.0), output(2.0), batch)
    assert found.item() == pytest.approx(1 / (1 + torch.tensor(-2.0).exp().item()) - 0.5, rel=1e-5)
