"""The worked example of CONTRIBUTING.md is a loss that keeps the contract."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml

from detectors.batch import Batch
from detectors.cost import example_batch
from detectors.geometry.boxes import pad_boxes
from detectors.outputs import DetectorOutput, HeadOutput
from detectors.presets import PRESETS
from distill.objective import LOSSES, Objective
from harness.study.load import load_study

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()


@pytest.fixture
def example():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    module = types.ModuleType("my_package.center_score")
    exec(code, vars(module))
    return module


def test_the_example_is_a_loss_that_studies_can_name(example, monkeypatch, tmp_path):
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


def test_what_it_says_of_a_package_of_ones_own_is_a_study(example, monkeypatch, tmp_path):
    losses, teachers = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL))
    package, detectors = types.ModuleType("my_package"), types.ModuleType("my_package.detectors")
    detectors.MY_LIDAR = PRESETS["tiny_lidar"]
    for module in (package, example, detectors):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    path = tmp_path / "study.yaml"
    path.write_text(
        "schedule: {steps: 5}\n"
        "students: {radar: {preset: tiny_radar}}\n"
        "paths: [wide->radar, theirs->radar, written_out->radar]\n"
        "arms: {one: [mine]}\n" + yaml.safe_dump(losses | teachers)
    )
    study = load_study(path)
    assert study.loss("mine", "wide->radar") == example.CenterScoreSpec(weight=0.5, min_overlap=0.3)
    specs = {name: teacher.detector_spec for name, teacher in study.teachers.items()}
    assert specs["wide"].lidar.widths == (32, 64, 96)
    assert specs["theirs"].lidar == PRESETS["tiny_lidar"].lidar
    assert specs["written_out"].grid == PRESETS["tiny_lidar"].grid


def test_its_value_by_hand(example, grid, make_boxes):
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
