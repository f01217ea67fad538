"""harness.import writes a teacher that a study can name, or says in a table what does not fit, with status 2."""

import json

import pytest
import torch
from typer.testing import CliRunner

from detectors.presets import PRESETS
from harness.__main__ import app
from harness.train.checkpoint import load_model, open_detector
from tests.harness.imports.conftest import Case

CASE = Case("det3d", "centerpoint_voxel0075", spconv=1)


@pytest.fixture(autouse=True)
def small_preset(monkeypatch):
    """A preset that is small enough for a test."""
    monkeypatch.setitem(PRESETS, "centerpoint_voxel0075", CASE.spec)


@pytest.fixture
def weights(tmp_path):
    """``weights(change)``: a checkpoint, perhaps with changed tensors."""

    def make(change=lambda state: None):
        state = CASE.state(CASE.detector())
        change(state)
        torch.save({"meta": {}, "state_dict": state}, tmp_path / "latest.pth")
        return tmp_path / "latest.pth"

    return make


def _call(*words):
    return CliRunner().invoke(app, ["import", *map(str, words)])


def _imported(path, out, *more):
    return _call(path, out, "--from", "det3d", "--preset", "centerpoint_voxel0075", *more)


def test_it_writes_a_teacher_with_its_origin(weights, tmp_path):
    out = tmp_path / "teacher"
    done = _imported(weights(), out)
    assert done.exit_code == 0, done.output
    detector = open_detector(out / "model.safetensors")
    assert detector.spec == CASE.spec == load_model(out / "model.safetensors", CASE.spec).spec
    assert all(torch.equal(a, b) for a, b in zip(detector.parameters(), CASE.detector().parameters(), strict=True))
    origin = json.loads((out / "origin.json").read_text())
    assert origin["sha256"] in done.output.replace("\n", "")
    assert origin["from"] == "det3d"
    assert json.loads((out / "detector.json").read_text())["bev_frame"] == "lidar"


def test_what_does_not_fit_is_a_table_and_status_2(weights, tmp_path):
    def change(state):
        del state["backbone.conv2.3.conv1.weight"]
        state["head.extra"] = torch.zeros(2)
        state["neck.deblocks.0.1.weight"] = torch.zeros(5)

    done = _imported(weights(change), tmp_path / "teacher")
    assert done.exit_code == 2
    for words in ("missing", "backbone.conv2.3.conv1.weight", "extra", "head.extra", "misshapen", "[5] there"):
        assert words in done.output
    assert "1 missing, 1 extra, 1 misshapen" in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "teacher").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "mmdet", "--preset", "centerpoint_voxel0075"], "--from: unknown program 'mmdet'; did you mean"),
        (["--from", "det3d", "--preset", "centerpoint"], "unknown preset 'centerpoint'"),
        (
            ["--from", "det3d", "--preset", "centerpoint_voxel0075", "--boxes", "hwl"],
            "--boxes hwl: allowed: lwh and wlh",
        ),
        (["--from", "det3d", "--preset", "centerpoint_voxel0075", "--set", "bev_frame"], "is not KEY=VALUE"),
        (["--from", "det3d", "--preset", "centerpoint_voxel0075", "--set", "lidar.width=3"], "unknown key"),
        (["--from", "det3d", "--preset", "centerpoint_voxel0075", "--set", "bev_frame=ego"], "in the lidar frame"),
        (["--from", "det3d", "--preset", "centerpoint_voxel0075", "--ema"], "has no moving average"),
        (["--from", "bevdepth", "--preset", "bevdepth_r50"], "most tensors do not fit"),
    ],
)
def test_wrong_words_are_refused(weights, tmp_path, words, message):
    done = _call(weights(), tmp_path / "teacher", *words)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert not (tmp_path / "teacher").exists()


def test_a_folder_that_is_there_is_not_written_into(weights, tmp_path):
    (tmp_path / "teacher").mkdir()
    done = _imported(weights(), tmp_path / "teacher")
    assert done.exit_code == 2
    assert "already exists" in done.output


def test_it_scores_what_it_imported(tmp_path, smoke_path):
    torch.manual_seed(0)
    weights = tmp_path / "fresh.pth"
    torch.save({"state_dict": CASE.state(CASE.spec.build())}, weights)
    more = ("--check", smoke_path, "--version", "v1.0-synthetic", "--split", "synthetic_val", "--device", "cpu")
    done = _imported(weights, tmp_path / "teacher", *more)
    assert done.exit_code == 0, done.output
    assert "synthetic_val of" in " ".join(done.output.split())
    assert "mAP" in done.output
    assert "(within_6m)" in done.output
