"""The whole program with an image teacher: from a YAML to labels, a student of two teachers, a table and an export."""

import csv
import io
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from typer.testing import CliRunner

from detectors.presets import PRESETS
from distill.loss import build_term
from harness.execute import executor
from harness.jobs.worker import _attempt
from harness.runs.folder import RunFolder
from harness.study.load import load_study

pytestmark = pytest.mark.slow

STUDENT = "lidar+images->camera · all · seed 0"
STUDY = """\
# Do an image teacher and a LiDAR teacher teach together? Plumbing only: after two steps no number means anything.
data: {preset: smoke}
schedule: {steps: 2, batch_size: 2}
teachers:
  lidar: {preset: tiny_lidar}
image_teachers:
  images: {preset: tiny_segmenter, data: {preset: smoke}, schedule: {steps: 2, batch_size: 2}}
students:
  camera: {preset: tiny_camera}
paths: [lidar + images -> camera]
losses:
  output: {weight: 1.0}
  activation: {weight: 1.0}
  adversarial: {weight: 0.1}
  feature: {weight: 1.0, adapter: conv3x3}
  instance: {weight: 1.0}
arms:
  all: [output, activation, adversarial, feature, instance]
"""


class Here(subprocess.Popen):
    """A worker in this process: those of their own, which the smoke study has, take seconds to import everything."""

    def __init__(self, command, **_):
        self.stdin = io.BytesIO()
        folder = RunFolder(Path(command[-1]))
        with folder.locked():
            self._status = _attempt(folder, lambda: False)

    def poll(self):
        return self._status

    def wait(self, timeout=None):
        return self._status


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder to run in, with a user cache of its own."""
    path = tmp_path_factory.mktemp("workplace")
    (path / "study.yaml").write_text(STUDY)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("XDG_CACHE_HOME", str(path / "cache"))
        patch.setattr(executor, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": Here}))
        yield path
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def crossbev(workplace):
    """Run `python -m harness.run study.yaml` there, or another command."""
    from harness.run import app

    return lambda *flags, command=app: CliRunner().invoke(
        command, ["study.yaml", "--device", "cpu", *flags] if command is app else flags
    )


@pytest.fixture(scope="module")
def first(crossbev):
    """The first call: it makes the world and the images, trains and labels, and prints the table."""
    done = crossbev()
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def jobs(first, workplace):
    """Name of each job to its run folder and what its worker was told."""
    found = {}
    for path in workplace.glob("runs/*/job.json"):
        order = json.loads(path.read_text())
        found[order["label"]] = path.parent, order
    return found


def test_first_call_trains_each_thing_once(first, jobs):
    assert "4 rows of the table need 5 jobs (4 trainings); 5 are still to run" in first
    assert jobs.keys() == {
        "lidar · teacher",
        "images · image teacher",
        "images · labels",
        "camera · baseline · seed 0",
        STUDENT,
    }
    segmenter, labels, student = (jobs[name] for name in ("images · image teacher", "images · labels", STUDENT))
    assert (segmenter[0] / "model.safetensors").is_file()
    assert labels[1]["spec"]["segmenter"] == segmenter[0].name
    assert list(labels[0].glob("labels/*.json"))
    assert student[1]["spec"]["labels"] == labels[0].name
    lines = [json.loads(line) for line in (student[0] / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert all(line[f"raw/{name}"] > 0 for line in lines for name in ("output", "activation", "instance"))


def test_table_shows_detectors_and_its_caption_the_mask_ap_of_the_image_teacher(first, jobs, workplace):
    with (workplace / "reports" / "study" / "table.csv").open() as file:
        rows = {row["role"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["teacher", "image teacher", "baseline", "student"]
    metrics = json.loads((jobs["images · image teacher"][0] / "result.json").read_text())["metrics"]
    assert float(rows["image teacher"]["mask_AP"]) == pytest.approx(100 * metrics["AP"], abs=1e-5)
    assert rows["image teacher"]["mAP"] == rows["student"]["mask_AP"] == ""
    _, table, caption = (workplace / "reports" / "study" / "table.md").read_text().split("\n\n", 2)
    assert "image teacher" not in table
    assert "lidar+images->camera all" in table
    said = f"mask AP {100 * metrics['AP']:.1f}, AP50 {100 * metrics['AP50']:.1f} (percent, on v1.0-synthetic-images/val"
    assert "Image teacher images: tiny_segmenter, seed 0, for every student" in caption
    assert said in caption


def test_second_call_trains_nothing_and_writes_the_same_table(first, crossbev, workplace):
    table = workplace / "reports" / "study" / "table.csv"
    before, results = table.read_bytes(), sorted(workplace.glob("runs/*/result.json"))
    stamps = [path.stat().st_mtime_ns for path in results]
    second = crossbev()
    assert second.exit_code == 0, second.output
    assert "5 jobs (4 trainings); all are done" in second.output
    assert table.read_bytes() == before
    assert sorted(workplace.glob("runs/*/result.json")) == results
    assert [path.stat().st_mtime_ns for path in results] == stamps


def test_mlflow_has_a_child_a_job_with_its_numbers(first, jobs, workplace):
    client = MlflowClient(f"sqlite:///{workplace / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("study").experiment_id
    runs = {run.data.tags["crossbev.job"]: run for run in client.search_runs([experiment], "tags.kind = 'training'")}
    assert len(runs) == 5
    arms = client.search_runs([experiment], "tags.kind = 'arm'")
    assert {run.info.run_name for run in arms} >= {"images · image teacher · 1 seed", "camera · baseline · 1 seed"}
    for name, (path, _) in jobs.items():
        run = runs[path.name]
        assert (run.info.run_name, run.info.status) == (name, "FINISHED")
        metrics = json.loads((path / "result.json").read_text())["metrics"]
        shown = {"images · image teacher": "AP50", "images · labels": "instances"}.get(name, "NDS")
        assert run.data.metrics[shown] == metrics[shown]
    assert runs[jobs["images · image teacher"][0].name].data.tags["role"] == "image teacher"


def test_an_exported_student_is_its_baseline_with_other_weights(jobs, crossbev, workplace):
    from harness.export import app

    trained, origins = [], []
    for name in (STUDENT, "camera · baseline · seed 0"):
        out = workplace / "exports" / jobs[name][0].name
        done = crossbev(jobs[name][0].name, str(out), command=app)
        assert done.exit_code == 0, done.output
        trained.append(load_file(out / "model.safetensors"))
        origins.append(json.loads((out / "origin.json").read_text()))
    shapes = [{key: tensor.shape for key, tensor in weights.items()} for weights in trained]
    assert shapes[0] == shapes[1]
    assert any(not trained[0][key].equal(trained[1][key]) for key in shapes[0])
    assert (origins[0]["teacher"], origins[1]["teacher"]) == (jobs["lidar · teacher"][0].name, None)
    assert (origins[0]["image_teacher"], origins[1]["image_teacher"]) == (jobs["images · labels"][0].name, None)
    # There was something to leave behind.
    study = load_study(workplace / "study.yaml")
    terms = {
        name: build_term(study.loss(name, study.paths[0]), PRESETS["tiny_camera"], PRESETS["tiny_lidar"])
        for name in origins[0]["losses"]
    }
    assert {name for name, term in terms.items() if list(term.parameters())} >= {"adversarial", "feature", "instance"}


def test_only_detectors_are_exported(jobs, crossbev, workplace):
    from harness.export import app

    for name in ("images · image teacher", "images · labels"):
        done = crossbev(jobs[name][0].name, str(workplace / "no export"), command=app)
        assert done.exit_code == 2
        assert f"({name}) is not a detector" in done.output
    assert not (workplace / "no export").exists()


def test_another_weight_of_the_loss_is_one_more_training(first, crossbev, workplace):
    done = crossbev("--dry-run", "--set", "losses.instance.weight=0.5")
    assert done.exit_code == 0, done.output
    assert "5 jobs (4 trainings); 1 is still to run" in done.output
    assert len(list(workplace.glob("runs/*/job.json"))) == 5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("image_teachers.images={labels: nowhere}", "image_teachers.images.labels: nowhere"),
        ("image_teachers.images={model: ./nowhere}", "model './nowhere' of transformers cannot be read"),
        ("image_teachers.images.data.root=nowhere", "nowhere"),
        ("image_teachers.images.data.train_split=v1.0-synthetic-images/trian", "did you mean 'train'"),
    ],
)
def test_bad_input_is_one_message_and_exit_status_2(first, crossbev, workplace, override, said):
    done = crossbev("--set", override)
    assert done.exit_code == 2
    assert said in done.output
    assert len(list(workplace.glob("runs/*/job.json"))) == 5
