"""The doctor tells what would stop a study or slow it, and which command mends it; it changes nothing."""

import json
import sqlite3
from contextlib import closing
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from detectors.encoders.sparse_library import SparsePackages
from harness import doctor
from harness.doctor import Finding, app, disk_finding, migrations, sparse_finding, torch_finding
from harness.driver import Gpu
from harness.errors import InputError
from harness.execute import device

A_GPU = [Gpu("NVIDIA H100", "81559 MiB", "570.86")]
H100, B200 = (9, 0), (10, 0)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words):
    return CliRunner().invoke(app, words)


def torch_of(cuda, devices=0):
    seen = SimpleNamespace(is_available=lambda: devices > 0, device_count=lambda: devices)
    return SimpleNamespace(__version__="2.9.0", version=SimpleNamespace(cuda=cuda), cuda=seen)


def test_all_of_this_machine_is_looked_at(folder, monkeypatch):
    monkeypatch.setattr(doctor, "gpus_of_driver", list)
    done = call("--json")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    findings = {each["what"]: each for each in json.loads(done.output)}
    assert {"Python", "crossbev", "torch", "GPU driver", "sparse convolution", "precision"} <= set(findings)
    assert "device of a study" in findings
    assert {"processor", "cache folder", "this folder", "MLflow"} <= set(findings)
    assert done.exit_code == int(any(each["wrong"] for each in findings.values()))
    assert list(folder.iterdir()) == []


def test_what_is_wrong_is_said_with_its_command_and_ends_in_status_1(monkeypatch):
    broken = Finding("torch", "2.9.0", "it sees no GPU", "pip install torch")
    monkeypatch.setattr(doctor, "examine", lambda uri: iter([Finding("Python", "3.11"), broken]))
    done = call()
    assert done.exit_code == 1
    assert "problem: torch: it sees no GPU\n  pip install torch\n" in done.output
    monkeypatch.setattr(doctor, "examine", lambda uri: iter([Finding("Python", "3.11")]))
    done = call()
    assert done.exit_code == 0
    assert "no problems found" in done.output


@pytest.mark.parametrize(
    ("torch", "gpus", "words"),
    [
        (torch_of("12.6", 1), A_GPU, ""),
        (torch_of(None), [], ""),
        (torch_of(None), A_GPU, "this build of torch is for CPUs"),
        (torch_of("13.0"), A_GPU, "the driver 570.86 reports 1 GPU (NVIDIA H100), but torch sees none"),
    ],
)
def test_a_gpu_that_torch_does_not_see_is_wrong(monkeypatch, torch, gpus, words):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    finding = torch_finding(torch, gpus)
    assert words in finding.wrong
    assert bool(finding.wrong) == bool(words) == bool(finding.mend)


def test_gpus_that_are_hidden_on_purpose_are_not_wrong(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not torch_finding(torch_of("12.6"), A_GPU).wrong


def test_device_of_a_study_is_told_and_a_problem_once(monkeypatch):
    monkeypatch.setattr(device, "resolve_device", lambda asked: "cuda")
    assert doctor.device_finding(False) == Finding("device of a study", "cuda")

    def refuse(asked):
        raise InputError("CUDA ignores what follows -1")

    monkeypatch.setattr(device, "resolve_device", refuse)
    finding = doctor.device_finding(False)
    assert (finding.wrong, finding.mend) == ("CUDA ignores what follows -1", "unset CUDA_VISIBLE_DEVICES")
    assert not doctor.device_finding(True).wrong


CPU_OVER_CUDA = SparsePackages(("spconv", "spconv-cu126"), cpu_only=True)


@pytest.mark.parametrize(
    ("capability", "packages", "state", "wrong", "mend"),
    [
        (None, CPU_OVER_CUDA, "plain torch, as there is no CUDA", "", ""),
        (H100, SparsePackages(("spconv-cu126",)), "spconv-cu126", "", ""),
        (
            H100,
            SparsePackages(("spconv", "spconv-cu126")),
            "spconv-cu126, installed over spconv's build for CPUs",
            "",
            "",
        ),
        (H100, SparsePackages(triton=True), "spconv-triton", "", ""),
        (H100, SparsePackages(), "plain torch", "no library for CUDA", "pip install spconv-cu126"),
        (
            H100,
            SparsePackages(("spconv",), cpu_only=True),
            "plain torch",
            "no library for CUDA",
            "pip install spconv-cu126",
        ),
        (
            H100,
            CPU_OVER_CUDA,
            "plain torch",
            "was installed over spconv-cu126",
            "pip uninstall -y spconv spconv-cu126",
        ),
        (B200, SparsePackages(("spconv-cu126",)), "plain torch", "kernels end at sm_90", "pip install spconv-triton"),
        (B200, SparsePackages(("spconv-cu126",), triton=True), "spconv-triton", "", ""),
        (B200, SparsePackages(("spconv", "spconv-cu126"), cpu_only=True, triton=True), "spconv-triton", "", ""),
    ],
)
def test_what_convolves_sparse_maps_and_what_would_be_faster(capability, packages, state, wrong, mend):
    finding = sparse_finding(capability, packages)
    assert finding.state == state
    assert wrong in finding.wrong
    assert mend in finding.mend
    assert bool(finding.wrong) == bool(wrong)


def test_a_disk_without_room_is_wrong(monkeypatch, folder):
    assert not disk_finding("cache folder", folder / "not" / "there yet", "cd").wrong
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "an embedded dataset takes 200 MB" in disk_finding("cache folder", folder, "cd FOLDER").wrong


def database(file, revision):
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("create table alembic_version (version_num text)")
        connection.execute("insert into alembic_version values (?)", (revision,))
        connection.commit()


def mlflow(folder):
    (finding,) = [each for each in json.loads(call("--json").output) if each["what"] == "MLflow"]
    return finding


def test_a_database_of_this_mlflow_is_fine_and_of_others_is_not(folder):
    (newest,) = set(migrations()) - set(migrations().values())
    (oldest,) = [revision for revision, before in migrations().items() if before is None]
    file = folder / "mlflow.db"
    database(file, newest)
    assert mlflow(folder)["wrong"] == ""
    file.unlink()
    database(file, oldest)
    assert mlflow(folder)["mend"] == "mlflow db upgrade sqlite:///mlflow.db"
    file.unlink()
    database(file, "from the future")
    assert "a newer MLflow" in mlflow(folder)["wrong"]
    file.write_text("no database at all, but a text that is long enough" * 10)
    assert "not an MLflow database" in mlflow(folder)["wrong"]


def test_a_database_in_use_is_not_wrong_and_none_is_made(folder):
    (folder / "a#b").mkdir()
    file = folder / "a#b" / "mlflow.db"
    (newest,) = set(migrations()) - set(migrations().values())
    database(file, newest)
    with closing(sqlite3.connect(file)) as other:
        other.execute("begin exclusive")
        (finding,) = [
            each
            for each in json.loads(call("--json", "--tracking-uri", f"sqlite:///{file}").output)
            if each["what"] == "MLflow"
        ]
    assert finding["wrong"] == ""
    assert "in use by another process" in finding["state"]
    assert [each.name for each in folder.iterdir()] == ["a#b"]


def test_versions_are_held_against_the_constraints():
    text = "torch==2.9.0\n# a remark\nnumpy==2.0 ; python_version > '3'\nspconv>=2\n"
    assert doctor.constraints(text) == {"torch": "2.9.0", "numpy": "2.0"}
