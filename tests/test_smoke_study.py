"""The whole program: from a YAML to a table, MLflow and back, on a CPU; and how it takes bad input."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.console import Console
from typer.testing import CliRunner

from harness.runs.__main__ import app
from harness.study.load import load_study
from harness.study.plan import plan_study
from harness.tracking.study import Mirror

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder to run in, with a user cache of its own."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="module")
def crossbev(workplace):
    """Run `python -m harness.run`, or another module, there."""

    def run(study, *flags, module="harness.run"):
        # It compares tables to the last bit, which a GPU does not repeat.
        device = ("--device", "cpu") if module == "harness.run" and "--device" not in flags else ()
        return subprocess.run(
            [sys.executable, "-m", module, str(ROOT / "studies" / study), *flags, *device],
            cwd=workplace,
            env=os.environ | {"XDG_CACHE_HOME": str(workplace / "cache"), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )

    return run


def _table(folder):
    with (folder / "table.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def first(crossbev):
    """The first call: it makes the world, trains three detectors and prints the table."""
    return crossbev("smoke.yaml")


def test_first_call_trains_everything_and_prints_the_table(first, workplace):
    assert first.returncode == 0, first.stderr + first.stdout
    assert "3 rows of the table need 3 jobs; 3 are still to run" in first.stdout
    for row in ("lidar teacher", "camera baseline", "lidar->camera unidistill"):
        assert row in first.stdout
    assert "not of nuScenes" in first.stdout
    said = ["writing the report", "Results", "page: ", "--ui"]
    assert sorted(said, key=first.stdout.index) == said
    rows = _table(workplace / "reports" / "smoke")
    assert [row["role"] for row in rows] == ["teacher", "baseline", "student"]
    assert all(0 <= float(row["mAP"]) <= 100 and 0 <= float(row["NDS"]) <= 100 for row in rows)
    assert "lidar->camera unidistill" in (workplace / "reports" / "smoke" / "table.md").read_text()
    assert "1 distilled row" in (workplace / "reports" / "smoke" / "report.html").read_text()


def test_second_call_trains_nothing_and_writes_the_same_table(first, crossbev, workplace):
    assert first.returncode == 0
    table = workplace / "reports" / "smoke" / "table.csv"
    before, results = table.read_bytes(), sorted(workplace.glob("runs/*/result.json"))
    stamps = [path.stat().st_mtime_ns for path in results]
    second = crossbev("smoke.yaml")
    assert second.returncode == 0
    assert "3 jobs; all are done" in second.stdout
    assert table.read_bytes() == before
    assert [path.stat().st_mtime_ns for path in sorted(workplace.glob("runs/*/result.json"))] == stamps


def test_mlflow_has_one_parent_and_a_child_a_job_with_the_run_folders_numbers(first, crossbev, workplace):
    assert first.returncode == 0
    client = MlflowClient(f"sqlite:///{workplace / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("smoke").experiment_id
    children = client.search_runs([experiment], "metrics.NDS >= 0 and tags.kind = 'training'")
    assert len(children) == 3
    assert len({run.data.tags["mlflow.parentRunId"] for run in children}) == 1
    assert len(client.search_runs([experiment])) == 1 + 3 + 3
    for run in children:
        folder = workplace / "runs" / run.data.tags["crossbev.job"]
        result = json.loads((folder / "result.json").read_text())
        assert run.data.metrics["mAP"] == result["metrics"]["mAP"]
        assert run.data.metrics["NDS"] == result["metrics"]["NDS"]
        assert run.info.status == "FINISHED"
        assert run.data.tags["dataset"] == "v1.0-synthetic"
        assert run.data.tags["mlflow.source.git.commit"] == result["machine"]["commit"]
        used = {item.tags[0].value: item.dataset.name for item in run.inputs.dataset_inputs}
        assert used == {"training": "v1.0-synthetic synthetic_train", "evaluation": "v1.0-synthetic synthetic_val"}
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert run.data.metrics["train/loss"] == lines[0]["loss"]
    names = {run.info.run_name for run in children}
    taught = next(run.data.tags for run in children if run.data.tags["role"] == "student")
    assert (taught["teacher"], taught["student"], taught["arm"]) == ("lidar", "camera", "unidistill")
    assert names == {"lidar · teacher", "camera · baseline · seed 0", "lidar->camera · unidistill · seed 0"}


def test_report_rebuilds_tables_and_mirror_from_the_run_folders(first, crossbev, workplace):
    assert first.returncode == 0
    flags = ["--out", "again", "--tracking-uri", f"sqlite:///{workplace}/again.db"]
    report = crossbev("smoke.yaml", *flags, "--sync", module="harness.report")
    assert report.returncode == 0, report.stderr
    for name in ("table.md", "table.csv", "cost.csv"):
        assert (workplace / "again" / "smoke" / name).read_bytes() == (
            workplace / "reports" / "smoke" / name
        ).read_bytes()
    client = MlflowClient(f"sqlite:///{workplace}/again.db")
    experiment = client.get_experiment_by_name("smoke").experiment_id
    assert len(client.search_runs([experiment], "metrics.NDS >= 0 and tags.kind = 'training'")) == 3
    # Of a study that has not run, every row says so.
    other = crossbev("smoke.yaml", "--out", "other", "--seeds", "7", module="harness.report")
    assert other.returncode == 0
    assert "not run" in other.stdout


def test_the_study_wants_its_three_runs_and_a_call_that_trains_nothing_wants_none(first, crossbev, workplace):
    assert first.returncode == 0
    assert crossbev("smoke.yaml", "--seeds", "7", "--dry-run").returncode == 0
    listed = CliRunner().invoke(app, ["list", "--runs-dir", str(workplace / "runs")]).output
    assert listed.startswith("smoke: 3 runs, ")
    assert "(3 done); prune would free 0 runs" in listed
    assert len(list((workplace / "runs" / "studies").glob("*.json"))) == 1


def test_arms_are_runs_with_means_spreads_and_gains_as_fractions(first, crossbev, workplace):
    assert first.returncode == 0
    uri = f"sqlite:///{workplace}/arms.db"
    # With a seed that has not run, an arm has no mean that would pass for the whole.
    for seeds, number in (("0", 3), ("0,1", 1)):
        said = crossbev("smoke.yaml", "--seeds", seeds, "--tracking-uri", uri, "--sync", module="harness.report")
        assert said.returncode == 0, said.stderr
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("smoke").experiment_id
        parent = client.search_runs([experiment], "tags.`mlflow.runName` = 'study smoke'", max_results=1)[0]
        arms = client.search_runs(
            [experiment], f"tags.kind = 'arm' and tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        )
        assert len(arms) == 3
        assert sum("NDS" in run.data.metrics for run in arms) == number
        if seeds == "0":
            table = {row["path"] or row["model"] + row["role"]: row for row in _table(workplace / "reports" / "smoke")}
            student = next(run for run in arms if run.data.tags["role"] == "student")
            assert student.info.run_name == "lidar->camera · unidistill · 1 seed"
            assert student.data.params["losses.feature.weight"] == "1.0"
            assert student.data.metrics["seeds"] == 1
            for metric in ("mAP", "NDS", "gain_mAP", "gain_NDS"):
                assert student.data.metrics[metric] == pytest.approx(
                    float(table["lidar->camera"][metric]) / 100, abs=1e-7
                )
            assert student.data.metrics["mATE"] == pytest.approx(float(table["lidar->camera"]["mATE"]), abs=1e-5)
            assert "NDS_std" not in student.data.metrics
    assert "lidar->camera unidistill" in parent.data.tags["mlflow.note.content"]
    assert {item.path for item in client.list_artifacts(parent.info.run_id, "tables")} >= {"tables/table.md"}


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite:////dev/null/mlflow.db", "cannot be used"),
        ("sqlite://nonsense", "cannot be used"),
        ("postgresql://nobody:secret@nowhere/x", "cannot be used"),
        ("http://127.0.0.1:9", "the MLflow server does not answer"),
        ("http://127.0.0.1:abc", "the MLflow server does not answer"),
    ],
)
def test_a_tracking_store_that_cannot_be_used_is_an_error_before_anything_runs(first, crossbev, workplace, uri, said):
    assert first.returncode == 0
    run = crossbev("smoke.yaml", "--tracking-uri", uri, "--set", "schedule.lr=0.002")
    assert run.returncode == 2
    assert f"--tracking-uri {uri.replace('secret', '***')}" in run.stderr
    assert "secret" not in run.stderr + run.stdout
    assert said in run.stderr
    assert "Traceback" not in run.stderr + run.stdout
    assert len(list(workplace.glob("runs/*/job.json"))) == 3


def test_a_tracking_store_that_breaks_meanwhile_does_not_cost_the_study(tmp_path):
    study = load_study(ROOT / "studies" / "smoke.yaml")
    plan = plan_study(study, "data", int)
    said = io.StringIO()
    mirror = Mirror(f"sqlite:///{tmp_path}/mlflow.db", "smoke", study, plan, tmp_path, Console(file=said))
    # A folder without a result is what the mirror cannot read.
    mirror.follow(plan.jobs.values())
    assert not mirror.store.alive
    mirror.finish(tmp_path, "a table", [], failed=False)
    assert said.getvalue().count("the mirror in MLflow stopped") == 1


def test_dry_run_shows_the_plan_and_runs_nothing(first, crossbev, workplace):
    assert first.returncode == 0
    run = crossbev("smoke.yaml", "--dry-run", "--set", "losses.feature.weight=0.5")
    assert run.returncode == 0
    assert "3 jobs; 1 is still to run" in run.stdout
    # The finished student of another weight tells the time.
    assert "(1 job by finished jobs of the same kind)" in run.stdout
    assert len(list(workplace.glob("runs/*/job.json"))) == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--set", "schedule.stpes=3"], "did you mean 'steps'"),
        (["--set", "losses.feature.wieght=3"], "did you mean 'weight'"),
        (["--data-root", "nowhere", "--version", "v1.0-mini"], "nowhere does not exist"),
        (["--version", "v1.0-trainval"], "unknown version 'v1.0-trainval'"),
        (["--split", "synthetic_vall"], "did you mean 'synthetic_val'"),
        (["--set", "teachers.lidar.checkpoint=nowhere.safetensors"], "nowhere.safetensors cannot be read"),
        (["--device", "abacus"], "unknown device 'abacus'"),
        (["--runs-dir", "mlflow.db"], "mlflow.db cannot be made"),
        (["--out", "mlflow.db"], "cannot be made"),
        (["--seeds", "0,x"], "seeds"),
    ],
)
def test_bad_input_is_one_message_and_exit_status_2(first, crossbev, flags, said):
    run = crossbev("smoke.yaml", *flags)
    assert run.returncode == 2
    assert said in run.stderr
    assert "Traceback" not in run.stderr + run.stdout


def test_checkpoint_of_another_preset_is_refused_before_anything_runs(first, crossbev, workplace):
    assert first.returncode == 0
    camera = next(
        path
        for path in workplace.glob("runs/*/model.safetensors")
        if json.loads((path.parent / "job.json").read_text())["spec"]["detector"]["camera"]
    )
    for flags in ([], ["--dry-run"]):
        run = crossbev("smoke.yaml", "--set", f"teachers.lidar.checkpoint={camera}", *flags)
        assert run.returncode == 2
        assert "of another preset" in run.stderr
    assert len(list(workplace.glob("runs/*/job.json"))) == 3


def test_missing_sensor_file_is_named_before_anything_runs(first, crossbev, workplace):
    assert first.returncode == 0
    image = next(workplace.glob("cache/**/samples/CAM_FRONT/*.jpg"))
    content = image.read_bytes()
    image.unlink()
    run = crossbev("smoke.yaml", "--set", "schedule.lr=0.001")
    image.write_bytes(content)
    assert run.returncode == 2
    assert image.name in run.stderr
    assert len(list(workplace.glob("runs/*/job.json"))) == 3
