"""An exported student is its baseline with other weights: nothing that only training needed travels with it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from detectors.detector import DetectorSpec
from detectors.presets import PRESETS
from harness.data.loader import SampleSet, evaluation_batches
from harness.export import app
from harness.study.load import load_study
from harness.study.plan import plan_study
from harness.train.checkpoint import open_detector

LOSSES = {"feature": {"weight": 1.0, "adapter": "conv3x3"}, "relation": {"weight": 1.0}}


@pytest.fixture(scope="module")
def runs(smoke_root, train_here, tmp_path_factory):
    """A runs folder with a LiDAR teacher, a camera baseline and a distilled camera with an adapter; and their ids."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "study.yaml").write_text(
        "# Does an adapter stay behind?\n"
        "schedule: {steps: 2, batch_size: 2}\n"
        "teachers: {lidar: {preset: tiny_lidar}}\n"
        "students: {camera: {preset: tiny_camera}}\n"
        "paths: [lidar->camera]\n"
        f"losses: {json.dumps(LOSSES)}\n"
        "arms: {both: [feature, relation]}\n"
    )
    study = load_study(folder / "study.yaml", ["data.eval_split=synthetic_val"])
    train_here(plan_study(study, smoke_root.fingerprint(), int), folder / "runs")
    jobs = {path.parent.name: json.loads(path.read_text()) for path in (folder / "runs").glob("*/job.json")}
    named = {
        "distilled" if job["spec"]["losses"] else "lidar" if job["spec"]["detector"]["lidar"] else "baseline": id_
        for id_, job in jobs.items()
    }
    assert len(named) == 3
    return folder / "runs", named


def _export(runs, id_, out):
    return CliRunner().invoke(app, [id_, str(out), "--runs-dir", str(runs)])


def test_student_and_baseline_have_the_same_parameters_and_maps(runs, smoke_root, tmp_path):
    folder, ids = runs
    detectors = []
    for name in ("distilled", "baseline"):
        done = _export(folder, ids[name], tmp_path / name)
        assert done.exit_code == 0, done.output
        detectors.append(open_detector(tmp_path / name / "model.safetensors").eval())
    student, baseline = detectors
    shapes = [{key: value.shape for key, value in detector.state_dict().items()} for detector in detectors]
    assert shapes[0] == shapes[1]
    assert not torch.equal(student.head.heatmap.weight, baseline.head.heatmap.weight)
    samples = SampleSet(smoke_root, smoke_root.tokens("synthetic_val"), student.spec.inputs)
    batch = next(iter(evaluation_batches(samples, 2)))
    with torch.no_grad():
        maps = [detector(batch) for detector in detectors]
    assert maps[0].bev_high.shape == maps[1].bev_high.shape
    assert maps[0].head.boxes.shape == maps[1].head.boxes.shape


def test_an_export_says_what_it_is_and_where_it_comes_from(runs, tmp_path):
    folder, ids = runs
    done = _export(folder, ids["distilled"][:6], tmp_path / "deep" / "out")
    assert done.exit_code == 0
    files = {path.name for path in (tmp_path / "deep" / "out").iterdir()}
    assert files == {"detector.json", "model.safetensors", "origin.json"}
    assert done.output == f"exported to {tmp_path / 'deep' / 'out'}: {', '.join(sorted(files))}\n"
    spec = DetectorSpec.model_validate_json((tmp_path / "deep" / "out" / "detector.json").read_text())
    origin = json.loads((tmp_path / "deep" / "out" / "origin.json").read_text())
    assert spec == PRESETS["tiny_camera"]
    assert (origin["job"], origin["teacher"]) == (ids["distilled"], ids["lidar"])
    assert origin["losses"].keys() == LOSSES.keys()
    assert 0 <= origin["metrics"]["mAP"] <= 1


@pytest.mark.parametrize(
    ("given", "said"),
    [("zzz", "no run whose id begins with 'zzz'"), ("", "3 runs in"), (None, "already exists")],
)
def test_wrong_input_is_named_and_nothing_is_written(runs, tmp_path, given, said):
    folder, ids = runs
    out = tmp_path / "out"
    if given is None:
        out.mkdir()
    done = _export(folder, ids["lidar"] if given is None else given, out)
    assert done.exit_code == 2
    assert said in done.output
    assert not out.exists() or not list(out.iterdir())


def test_an_unfinished_run_is_not_exported(runs, tmp_path):
    folder, ids = runs
    (tmp_path / "runs" / ids["lidar"]).mkdir(parents=True)
    (tmp_path / "runs" / ids["lidar"] / "job.json").write_text((folder / ids["lidar"] / "job.json").read_text())
    done = _export(tmp_path / "runs", ids["lidar"], tmp_path / "out")
    assert done.exit_code == 2
    assert "is not finished" in done.output
