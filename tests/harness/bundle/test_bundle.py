"""A bundle is enough to make the tables again anywhere, byte for byte; and one that is not what it was is refused."""

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from rich.console import Console

from harness.bundle import read
from harness.bundle.read import unbundled
from harness.bundle.write import write_bundle
from harness.errors import InputError
from harness.evidence.runs import StudyRuns
from harness.report.write import rebuild

ROOT = Path(__file__).parents[3]
TABLES = ("table.md", "table.tex", "table.csv", "cost.md", "cost.csv")


@pytest.fixture(scope="module")
def bundle(planned, stored, tmp_path_factory):
    """A bundle; to be copied, not to be written to. Its tables are in reports/ beside it."""
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("bundle")
    opened = replace(planned, runs_dir=stored / "runs")
    runs = StudyRuns.open(opened.plan, opened.runs_dir)
    rebuild(opened, runs, folder / "reports" / "smoke", Console(file=io.StringIO()))
    write_bundle(folder / "smoke.zip", opened, runs, folder / "reports" / "smoke", True, False)
    return folder / "smoke.zip"


@pytest.fixture
def rewritten(bundle, tmp_path):
    """``rewritten(edit, sign)``: the bundle with its members edited, its manifest made to agree where it is signed."""

    def rewritten(edit, sign=True):
        with ZipFile(bundle) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        edit(members)
        if sign:
            manifest = json.loads(members.pop("manifest.json"))
            manifest["files"] = {
                name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
                for name, content in members.items()
            }
            members["manifest.json"] = json.dumps(manifest).encode()
        path = tmp_path / "edited.zip"
        with ZipFile(path, "w", ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(ZipInfo(name), content, ZIP_DEFLATED)
        return path

    return rewritten


def _files(path):
    """What an opened bundle has, by name."""
    with unbundled(path) as opened:
        parent = opened.runs_dir.parent
        return {each.relative_to(parent).as_posix(): each.read_bytes() for each in parent.rglob("*") if each.is_file()}


def _refused(path):
    with pytest.raises(InputError) as error, unbundled(path):
        pass
    return str(error.value)


@pytest.mark.slow
def test_tables_are_rebuilt_byte_for_byte_in_an_empty_folder_elsewhere(report, folder, tmp_path):
    status, said = report(ROOT / "studies" / "smoke.yaml", "--seeds", "0,1", "--bundle", "smoke.zip")
    assert status == 0, said
    assert "5 finished runs" in said
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(folder / "smoke.zip", elsewhere / "given.zip")
    kept = {name: (folder / "reports" / "smoke" / name).read_bytes() for name in TABLES}
    shutil.rmtree(folder)
    told = subprocess.run(
        [sys.executable, "-m", "harness.report", "given.zip", "--out", "again"],
        cwd=elsewhere,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert "the tables equal those of the bundle byte for byte" in told.stdout
    assert {name: (elsewhere / "again" / "smoke" / name).read_bytes() for name in TABLES} == kept
    # The mean of 35.2 and 36.2.
    assert b"35.7" in kept["table.md"]
    # Nothing was made for it, no dataset above all.
    assert not (tmp_path / "cache" / "crossbev").exists()
    assert sorted(path.name for path in elsewhere.iterdir()) == ["again", "given.zip"]


@pytest.mark.slow
def test_equal_runs_give_equal_bytes_wherever_they_lie(report, folder, tmp_path):
    made = []
    for name in ("a", "b"):
        if name == "b":
            shutil.move(folder / "runs", tmp_path / "moved")
        flags = ["--runs-dir", tmp_path / "moved"] if name == "b" else []
        status, said = report(ROOT / "studies" / "smoke.yaml", "--seeds", "0,1", "--bundle", f"{name}.zip", *flags)
        assert status == 0, said
        made.append((folder / f"{name}.zip").read_bytes())
    assert made[0] == made[1]


def test_it_has_every_file_of_a_run_but_what_is_large_or_of_a_machine(bundle, stored, jobs):
    with ZipFile(bundle) as archive:
        assert archive.testzip() is None
        members = {name: archive.read(name) for name in archive.namelist()}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    run = f"runs/{jobs['student', 1]}/"
    of_run = {name.removeprefix(run) for name in members if name.startswith(run)}
    expected = {"job.json", "result.json", "metrics.jsonl", "draws.npz", "predictions.json", "analysis.npz"}
    assert of_run == expected
    assert {"README.md", "study.yaml", "plan.json", "environment.json", "tables/table.md"} < set(members)
    for name, content in members.items():
        assert str(stored).encode() not in content, name
    environment = json.loads(members["environment.json"])
    assert (environment["commits"], environment["seeds"]) == (["aaaaaaaaaaaa"], [0, 1])
    assert "torch" in environment["packages"]
    assert "git checkout aaaaaaaaaaaa" in members["README.md"].decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "name", "there"),
    [("--without-predictions", "predictions.json", False), ("--with-weights", "model.safetensors", True)],
)
def test_flags_say_which_large_files_are_in_it(report, folder, flag, name, there):
    status, said = report(ROOT / "studies" / "smoke.yaml", "--seeds", "0,1", "--bundle", "x.zip", flag)
    assert status == 0, said
    with ZipFile(folder / "x.zip") as archive:
        assert any(member.endswith(name) for member in archive.namelist()) == there
    assert report("x.zip", "--out", "again")[0] == 0
    for table in TABLES:
        assert (folder / "again/smoke" / table).read_bytes() == (folder / "reports/smoke" / table).read_bytes()


def test_an_interrupted_bundle_leaves_nothing(planned, stored, bundle, tmp_path, monkeypatch):
    from dataclasses import replace

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    runs = StudyRuns.open(planned.plan, stored / "runs")
    with pytest.raises(KeyboardInterrupt):
        write_bundle(tmp_path / "x.zip", replace(planned, runs_dir=stored / "runs"), runs, bundle.parent, False, False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_the_beginning_of_a_bundle_is_none(bundle, tmp_path, share):
    content = bundle.read_bytes()
    (tmp_path / "torn.zip").write_bytes(content[: int(share * len(content))])
    assert "is not a bundle, or is incomplete" in _refused(tmp_path / "torn.zip")


def test_a_changed_missing_or_added_member_is_named(rewritten, jobs):
    name = f"runs/{jobs['student', 0]}/result.json"

    def change(members):
        members[name] = members[name].replace(b"0.352", b"0.952")

    assert f"{name} was changed" in _refused(rewritten(change, sign=False))
    assert f"{name} is missing" in _refused(rewritten(lambda members: members.pop(name), sign=False))
    added = _refused(rewritten(lambda members: members.update({"runs/x": b""}), sign=False))
    assert "runs/x is not listed" in added
    gone = _refused(rewritten(lambda members: members.pop("manifest.json"), sign=False))
    assert "it has no manifest.json" in gone


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_is_found_or_changes_nothing(bundle, tmp_path, where, bit):
    content = bytearray(bundle.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    (tmp_path / "flipped.zip").write_bytes(content)
    with suppress(InputError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert _files(tmp_path / "flipped.zip") == _files(bundle)


@pytest.mark.parametrize(
    "name",
    ["../outside", "runs/../../outside", "/tmp/outside", "C:/outside", "runs\\..\\outside", "runs//x", "a/", ".x", "é"],
)
def test_a_name_that_leads_elsewhere_is_refused(rewritten, name):
    assert "is not an allowed name for a file of a bundle" in _refused(
        rewritten(lambda members: members.update({name: b"x"}))
    )


def test_a_member_that_is_there_twice_is_refused(bundle, tmp_path):
    shutil.copy(bundle, tmp_path / "twice.zip")
    with ZipFile(tmp_path / "twice.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("plan.json", "{}")
    assert "contains plan.json twice" in _refused(tmp_path / "twice.zip")


def test_what_would_unpack_to_too_much_is_refused_before_it_is_unpacked(bundle, rewritten, monkeypatch):
    zeros = rewritten(lambda members: members.update({"runs/zeros": bytes(2**22)}))
    monkeypatch.setattr(read, "SUSPICIOUS", 2**20)
    monkeypatch.setattr(read, "MOST_TIMES", 20)
    monkeypatch.setattr(read, "_unpack", lambda *_: pytest.fail("it was unpacked"))
    assert "would unpack to 4," in _refused(zeros)
    monkeypatch.setattr(read, "LARGEST", 1000)
    assert "allowed: 1,000 in all" in _refused(bundle)


def test_packed_arrays_that_would_fill_the_memory_are_refused(rewritten, jobs, monkeypatch):
    content = BytesIO()
    np.savez_compressed(content, mAP=np.zeros(2**18))
    name = f"runs/{jobs['student', 0]}/draws.npz"
    monkeypatch.setattr(read, "LARGEST_ARRAYS", 2**20)
    assert f"{name} would unpack to" in _refused(rewritten(lambda members: members.update({name: content.getvalue()})))


def test_a_plan_study_or_environment_that_is_none_is_named(rewritten, jobs):
    job = jobs["student", 0]

    def put(name, content):
        return _refused(rewritten(lambda members: members.update({name: content})))

    def other_seed(members):
        plan = json.loads(members["plan.json"])
        plan["jobs"][job]["spec"]["seed"] = 7
        members["plan.json"] = json.dumps(plan).encode()

    assert f"plan.json: jobs.{job}: its spec is that of job" in _refused(rewritten(other_seed))
    assert "plan.json: " in put("plan.json", b"[]")
    assert "study.yaml: an alias" in put("study.yaml", b"a: &a [x]\nb: *a\n")
    assert "study.yaml: " in put("study.yaml", b"\x00")
    assert "environment.json: " in put("environment.json", b"{}")
    assert "0123456789abcdef belongs to no job" in put("runs/0123456789abcdef/result.json", b"{}")
    assert "plan.json is missing, and manifest.json does not list it" in _refused(
        rewritten(lambda m: m.pop("plan.json"))
    )


def test_code_that_a_study_names_is_run_only_for_who_trusts_it(rewritten, report, tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'was_run')!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path)

    def edit(members):
        study = yaml.safe_load(members["study.yaml"])
        study["losses"]["mine"] = {"loss": "theirs:Spec", "weight": 1.0}
        members["study.yaml"] = yaml.safe_dump(study).encode()

    path = rewritten(edit)
    status, output = report(path)
    assert status == 2
    assert "'theirs:Spec' is not imported: importing it would run code of another package; add --trust" in output
    assert not (tmp_path / "was_run").exists()
    assert "allowed: none (in theirs)" in report(path, "--trust")[1]
    assert (tmp_path / "was_run").exists()


def test_a_bundle_of_another_format_says_so(rewritten):
    def later(members):
        members["manifest.json"] = members["manifest.json"].replace(b'"format": 1', b'"format": 2')

    assert "manifest.json: format: Input should be 1" in _refused(rewritten(later, sign=False))


def test_nothing_in_a_bundle_is_unpickled(rewritten, report, jobs):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, ("sprung",))

    content = BytesIO()
    np.savez(content, scenes=3, mAP=np.array([Trap()], dtype=object))
    for trap in (content.getvalue(), pickle.dumps(Trap())):
        name = f"runs/{jobs['student', 0]}/draws.npz"
        path = rewritten(lambda members: members.update({name: trap}))  # noqa: B023
        status, said = report(path)
        assert status == 2
        assert "corrupt: draws.npz" in said
        assert not Path("sprung").exists()


@pytest.mark.parametrize("flag", ["--data-root", "--version", "--split", "--seeds", "--set", "--runs-dir", "--bundle"])
def test_flags_of_a_study_mean_nothing_to_a_bundle(report, bundle, flag):
    status, said = report(bundle, flag, "other")
    assert status == 2
    assert f"error: {flag}: {bundle} is a bundle, which contains its study" in said


def test_files_of_a_bundle_are_chosen_only_where_one_is_written(report):
    assert "error: --with-weights: this applies to a bundle only; add --bundle" in report("x.yaml", "--with-weights")[1]


@pytest.mark.parametrize(
    ("name", "said"), [("nowhere.zip", "bundle nowhere.zip does not exist"), ("text.zip", "text.zip is not a bundle")]
)
def test_what_is_no_bundle_is_an_error_of_one_line(report, folder, name, said):
    (folder / "text.zip").write_text("no zip")
    status, told = report(name)
    assert status == 2
    assert f"error: {said}" in told


def test_a_study_whose_runs_are_damaged_is_not_bundled(report, folder, jobs):
    path = folder / "runs" / jobs["student", 0] / "result.json"
    path.write_text("{")
    status, said = report(ROOT / "studies" / "smoke.yaml", "--seeds", "0,1", "--bundle", "x.zip")
    assert status == 2
    assert "error: no bundle was written: " in said
    assert str(path.relative_to(folder)) in said
    assert not (folder / "x.zip").exists()


def test_a_bundle_is_not_written_over_a_study(report, folder):
    (folder / "mine.yaml").write_text("mine")
    status, said = report(ROOT / "studies" / "smoke.yaml", "--seeds", "0,1", "--bundle", "mine.yaml")
    assert (status, (folder / "mine.yaml").read_text()) == (2, "mine")
    assert "error: --bundle mine.yaml: a bundle is a .zip file" in said


def test_a_bundle_is_mirrored_to_mlflow_with_the_times_of_its_runs(report, bundle, stored, jobs, folder):
    status, said = report(bundle, "--sync", "--tracking-uri", f"sqlite:///{folder}/mlflow.db")
    assert status == 0, said
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("smoke")
    id_ = jobs["student", 0]
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`crossbev.job` = '{id_}'")
    finished = (stored / "runs" / id_ / "result.json").stat().st_mtime
    assert run.info.end_time == 1000 * int(finished)
