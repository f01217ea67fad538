"""Examining keeps what evaluation says of the same boxes, changes no result, and makes anew whatever is broken."""

import hashlib
import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from harness.diagnose import examine
from harness.diagnose.alignment import Alignment
from harness.diagnose.latency import Latency
from harness.evaluate.analysis import analyse
from harness.evaluate.bootstrap import DRAWS
from harness.evaluate.detection import detection_config, held_against
from harness.evaluate.intervals import kept_analysis
from harness.evidence.runs import StudyRuns
from harness.jobs.worker import run
from harness.report.__main__ import app
from harness.runs.folder import RunFolder
from harness.runs.small_files import kept_model
from harness.study.load import load_study
from harness.study.plan import plan_study

STUDY = """\
# Is it examined?
data: {{root: {root}, version: v1.0-synthetic, train_split: synthetic_train, eval_split: synthetic_val}}
schedule: {{steps: 3, batch_size: 2}}
teachers:
  lidar: {{preset: tiny_lidar, seed: 0}}
students:
  camera: {{preset: tiny_camera}}
paths: [lidar->camera]
losses:
  feature: {{weight: 1}}
arms:
  feature: [feature]
seeds: [0]
"""


@pytest.fixture(scope="module")
def study_path(smoke_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "study.yaml"
    path.write_text(STUDY.format(root=smoke_path))
    return path


@pytest.fixture(scope="module")
def plan(smoke_root, study_path):
    return plan_study(load_study(study_path), smoke_root.fingerprint(), int)


@pytest.fixture(scope="module")
def trained(plan, train_here, tmp_path_factory):
    """The run folders of the plan: a teacher, a baseline and a student."""
    return train_here(plan, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of them."""
    return shutil.copytree(trained, tmp_path / "runs")


@pytest.fixture
def ids(plan):
    return {row.role: row.job for row in plan.rows}


@pytest.fixture
def complete(plan, smoke_root):
    from harness.report.complete import complete

    return lambda runs: complete(StudyRuns.open(plan, runs), smoke_root, "cpu", 1, Console(file=io.StringIO()))


def _content(runs, *names):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for name in names for path in runs.rglob(name)}


def test_a_training_ends_examined(trained, plan, smoke_root, ids):
    folder = RunFolder(trained / ids["student"])
    latency = kept_model(folder.latency, Latency)
    assert latency.milliseconds > 0
    assert latency.device == folder.result().machine["device"]
    assert latency.samples == len(smoke_root.tokens("synthetic_val"))
    assert kept_analysis(folder.analysis) is not None
    assert folder.analysis.stat().st_size < 200_000


def test_the_analysis_is_that_of_the_stored_boxes(trained, smoke_root, ids):
    folder = RunFolder(trained / ids["student"])
    config = detection_config("within_16m")
    results = json.loads(folder.predictions.read_text())["results"]
    expected = analyse([held_against(smoke_root, "synthetic_val", results, config)], config, DRAWS)[0]
    found = kept_analysis(folder.analysis)
    assert found.scenes == expected.scenes
    assert found.counts == expected.counts
    assert found.groups.keys() == expected.groups.keys() - {"metrics"}
    for group, numbers in found.groups.items():
        assert list(numbers) == list(expected.groups[group])
        for name, values in numbers.items():
            np.testing.assert_allclose(values, expected.groups[group][name], rtol=1e-6)


def test_examining_is_no_part_of_a_result(order, tmp_path, monkeypatch):
    found = []
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setattr(examine, "examine", lambda *given: None)
        folder = RunFolder(tmp_path / name)
        folder.write("job.json", order().model_dump(mode="json"))
        result = run(order(), folder, lambda: False)
        found.append((result.metrics, folder.model.read_bytes(), folder.draws.read_bytes()))
        assert folder.analysis.is_file() == (name == "with")
    np.testing.assert_equal(*found)


def test_what_is_missing_is_found_out_and_nothing_else_is_touched(complete, runs, ids):
    stored = ("result.json", "model.safetensors", "predictions.json", "metrics.jsonl", "draws.npz")
    before = _content(runs, *stored)
    first = complete(runs)
    # Teacher with baseline and with student; the jobs were examined when they ended.
    assert (first.done, first.there, first.failed) == (2, 3, {})
    for role in ("baseline", "student"):
        found = kept_model(RunFolder(runs / ids[role]).alignment(ids["teacher"]), Alignment)
        assert all(0 < value < 1 for regions in found.cka.values() for value in regions.values())
    kept = _content(runs, "*.npz", "alignment-*.json", "latency.json")
    second = complete(runs)
    assert (second.done, second.there) == (0, 5)
    assert _content(runs, "*.npz", "alignment-*.json", "latency.json") == kept
    assert _content(runs, *stored) == before
    assert not list(runs.rglob("*.tmp"))


def test_what_is_broken_or_of_other_weights_is_made_anew(complete, runs, ids):
    complete(runs)
    student, baseline, teacher = (RunFolder(runs / ids[role]) for role in ("student", "baseline", "teacher"))
    whole = student.analysis.read_bytes()
    student.analysis.write_bytes(whole[: len(whole) // 2])  # a full disk
    baseline.latency.write_text('{"form": 1, "milliseconds": "fast"}')
    teacher.analysis.write_bytes(b"")
    alignment = student.alignment(ids["teacher"])
    alignment.write_text(alignment.read_text().replace('"weights": [\n  "', '"weights": [\n  "0'))
    assert complete(runs).done == 4
    assert student.analysis.read_bytes() == whole
    assert complete(runs).done == 0


def test_an_interrupted_call_keeps_what_it_had_found(complete, runs, ids, monkeypatch):
    from harness.diagnose import examine

    for path in (*runs.rglob("analysis.npz"), *runs.rglob("latency.json")):
        path.unlink()
    measured, stopped = examine.measure_latency, []

    def once(*given):
        if stopped:
            raise KeyboardInterrupt
        stopped.append(1)
        return measured(*given)

    monkeypatch.setattr(examine, "measure_latency", once)
    with pytest.raises(KeyboardInterrupt):
        complete(runs)
    monkeypatch.undo()
    again = complete(runs)
    assert (again.done, again.there) == (4, 1)


def test_a_run_that_is_in_use_or_lacks_its_boxes_is_named_and_the_others_go_on(complete, runs, ids):
    student, baseline, teacher = (RunFolder(runs / ids[role]) for role in ("student", "baseline", "teacher"))
    baseline.analysis.unlink()
    baseline.predictions.unlink()
    with student.locked():
        found = complete(runs)
    assert found.there == 2  # teacher and student alone
    assert found.done == 1  # baseline with teacher
    assert "camera · baseline · seed 0" in str(found.failed)
    assert "predictions.json" in found.text
    assert f"[{ids['student']}] with" in found.text
    assert "in use by another process" in found.text
    teacher.model.unlink()
    assert "model.safetensors" in complete(runs).text


@pytest.mark.slow
def test_the_report_examines_if_it_is_asked_to(runs, study_path, ids, tmp_path):
    flags = [str(study_path), "--runs-dir", str(runs), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, [*flags, "--examine", "--device", "tpu"]).exit_code == 2
    assert CliRunner().invoke(app, flags).exit_code == 0
    assert not list(runs.rglob("alignment-*"))
    assert CliRunner().invoke(app, [*flags, "--examine", "--device", "cpu"]).exit_code == 0
    assert len(list(runs.rglob("alignment-*"))) == 2
    (runs / ids["student"] / "latency.json").unlink()
    (runs / ids["student"] / "model.safetensors").unlink()
    assert CliRunner().invoke(app, [*flags, "--examine", "--device", "cpu"]).exit_code == 1
    assert (tmp_path / "out" / "study" / "table.md").is_file()
