"""What a detector costs is told without running it, and is what running it costs."""

import json
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from detectors.budget import budget, outline
from detectors.cost import example_batch
from detectors.presets import PRESETS, PUBLISHED, TINY_PRESETS

FULL = sorted(PRESETS.keys() - TINY_PRESETS.keys())


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameters_are_the_published_ones_and_operations_within_a_percent(name):
    parameters, gmacs, source = PUBLISHED[name]
    cost = budget(PRESETS[name])
    assert cost.parameters == parameters
    if gmacs is not None:
        assert cost.gmacs == pytest.approx(gmacs, rel=0.01)
    assert source


@pytest.mark.parametrize("name", TINY_PRESETS)
def test_parts_are_all_parameters_and_the_outline_is_the_detector(name):
    spec = PRESETS[name]
    detector = spec.build()
    shapes = {key: tensor.shape for key, tensor in detector.state_dict().items()}
    assert {key: tensor.shape for key, tensor in outline(spec).state_dict().items()} == shapes
    assert budget(spec).parameters == sum(each.numel() for each in detector.parameters())


def test_operations_are_those_of_a_forward_pass():
    spec = PRESETS["tiny_camera"]
    detector = spec.build().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector(example_batch(spec, 1))
    assert 2e9 * budget(spec).gmacs == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_activations_are_about_what_a_training_step_holds():
    spec = PRESETS["tiny_camera"]
    detector, batch = spec.build().train(), example_batch(spec, 1)
    weights = {each.untyped_storage().data_ptr() for each in (*detector.parameters(), *detector.buffers())}
    held = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        detector(batch)
    assert budget(spec).activations == pytest.approx(sum(each.nbytes() for each in held.values()), rel=0.1)


def test_earlier_keyframes_without_gradient_hold_nothing():
    one, four = (budget(PRESETS[name]) for name in ("bevdepth_r50", "bevdepth_r50_4key"))
    assert four.gmacs > 3 * one.gmacs
    assert four.activations < 1.1 * one.activations


def _presets(*words):
    return subprocess.run(
        [sys.executable, "-m", "detectors.presets", *words], capture_output=True, text=True, check=False
    )


def test_the_command_lists_every_preset():
    done = _presets("--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == list(PRESETS)
    for row in rows:
        assert sum(row["parts"].values()) == row["parameters"]
    (bevdepth,) = (row for row in rows if row["name"] == "bevdepth_r50")
    assert bevdepth["parts"]["image_backbone"] == 23_508_032
    assert bevdepth["gmacs"] == pytest.approx(241.8, rel=0.01)


@pytest.mark.slow
def test_the_table_is_text():
    done = _presets()
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("centerpoint_pillar02"))
    assert line.split()[1:3] == ["5,982,854", "5,982,854"]


def test_an_unknown_flag_is_refused():
    done = _presets("--nonsense")
    assert done.returncode == 2
    assert "unrecognized arguments: --nonsense" in done.stderr
    assert "Traceback" not in done.stderr
