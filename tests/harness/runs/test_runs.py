"""What is stored is shown whatever state it is in, and only what nobody needs is ever deleted."""

import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock, Timeout
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness.execute.state import JobState
from harness.runs import __main__ as command
from harness.runs.claims import Claim, Claims
from harness.runs.folder import Result, RunFolder
from harness.runs.listing import look, stored_runs
from harness.study.load import load_study
from harness.study.plan import plan_study

DAY = 86400.0


def _id(number):
    return f"{number:016x}"


class Place:
    """A runs folder to put runs and claims into; run 10 is called ``run 10``."""

    def __init__(self, path):
        self.path, self.claims = path, Claims(path)
        path.mkdir(exist_ok=True)

    def run(self, number, needs=(), state="done", days=1.0):
        """A run folder in a state, which builds on others, and was written so many days ago."""
        folder = RunFolder(self.path / _id(number))
        keys = ("teacher", "model_of", "labels", "segmenter")
        spec = {"seed": 0, "weights": "f" * 64} | dict(zip(keys, map(_id, needs), strict=False))
        folder.write("job.json", {"label": f"run {number}", "spec": spec})
        folder.log.write_text("begun\n")
        if state == "done":
            folder.model.write_bytes(bytes(2000))
            metrics = {"mAP": 0.25, "NDS": 0.5, "mAOE": float("nan")}
            folder.complete(Result(metrics, 1234, 61.0, {"device": "cpu"}, 60.0, {"feature": "is tiny"}))
        elif state == "failed":
            folder.fail("CUDA out of memory\nby far", wrong_input=False)
        elif state == "stopped":
            folder.log_step(0, {"loss": 1.0})
        elif state == "damaged":
            (folder.path / "job.json").write_text('{"label": "ru')
        else:
            assert state == "empty"
        for file in folder.path.iterdir():
            os.utime(file, (time.time() - days * DAY,) * 2)
        return folder

    def want(self, *jobs, name="paths"):
        """A claim of these runs."""
        claim = Claim(
            name=name, study=Path(f"/studies/{name}.yaml"), called=datetime.now(UTC), jobs=tuple(map(_id, jobs))
        )
        self.claims.replace(claim)

    def call(self, *words, **flags):
        """The command's result."""
        from harness.runs.__main__ import app

        return CliRunner().invoke(app, [*words, "--runs-dir", str(self.path)], **flags)

    @property
    def stored(self):
        """Numbers of the runs that are there."""
        return {int(path.name, 16) for path in self.path.iterdir() if len(path.name) == 16}


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "runs")


@pytest.fixture
def terminal(monkeypatch):
    """A person is there to be asked; what a test types is the answer."""
    monkeypatch.setattr(command, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))


@pytest.fixture
def meanwhile(monkeypatch):
    """Have something happen while a person, who agrees, thinks it over."""
    return lambda happen: monkeypatch.setattr(command, "_ask", lambda question, yes: happen())


# What is listed.


def test_list_groups_runs_by_the_studies_that_want_them(place):
    place.run(1)
    place.run(2, needs=[1])
    place.run(3, needs=[1])
    place.run(4, state="failed")
    place.want(2, name="paths")
    place.want(3, name="radar")
    result = place.call("list")
    assert result.exit_code == 0, result.output
    lines = [
        line for line in map(str.split, result.output.splitlines()) if line and line[0] != "id" and "─" not in line[0]
    ]
    # What both studies build on stands once, below both names; what nobody wants is last.
    assert [line[0] for line in lines][:-1] == [
        *("paths:", _id(2)),
        *("paths,", _id(1)),
        *("radar:", _id(3)),
        *("claimed", _id(4)),
    ]
    assert lines[1][1:6] == ["run", "2", "done", "1", "d"]
    assert lines[1][-2:] == ["25.0", "50.0"]
    assert "paths, radar: 1 run, " in result.output
    assert "claimed by no study: 1 run, " in result.output
    assert "4 runs, " in result.output.splitlines()[-1]
    assert "(3 done, 1 failed); prune would free 1 run, " in result.output


@pytest.mark.parametrize("state", ["done", "failed", "stopped", "empty", "damaged"])
def test_every_state_is_told(place, state):
    place.run(1, state=state)
    assert stored_runs(place.path)[_id(1)].state == state
    assert f"(1 {state})" in place.call("list", "--state", state).output
    assert _id(1) not in place.call("list", "--state", "running").output


def test_a_run_is_running_for_as_long_as_its_lock_is_held_and_looking_leaves_no_trace(place):
    folder = place.run(1, state="stopped")
    before = sorted(path.name for path in folder.path.iterdir())
    assert look(folder).state == "stopped"
    assert sorted(path.name for path in folder.path.iterdir()) == before
    with folder.locked():
        assert look(folder).state == "running"
    assert look(folder).state == "stopped"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("job.json", None),
        ("job.json", b""),
        ("job.json", b"[1, 2]"),
        ("job.json", b'{"label": 3, "spec": {}}'),
        ("job.json", b'{"label": "x", "spec": "y"}'),
        ("job.json", b"\xff\xfe\x00"),
        ("result.json", b""),
        ("result.json", b"null"),
        ("result.json", b'{"metrics": {"mAP": 0.1'),
        ("result.json", b'{"metrics": 3, "parameters": 1, "seconds": 1, "machine": {}}'),
        ("result.json", b'{"metrics": {"mAP": "high"}, "parameters": 1, "seconds": 1, "machine": {}}'),
        ("failure.json", b"{}"),
        ("failure.json", b'{"reason": '),
    ],
)
def test_broken_run_folders_are_damaged_and_no_command_fails_on_them(place, name, content):
    folder = place.run(1)
    place.run(2, needs=[1])
    path = folder.path / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    for words in (["list"], ["show", _id(1)], ["prune", "--dry-run"]):
        result = place.call(*words)
        assert result.exit_code == 0, result.output
        assert "damaged" in result.output
    assert place.call("prune", "--yes").exit_code == 0
    assert place.stored == set()


def test_show_tells_everything_of_a_run_by_the_beginning_of_its_id(place):
    place.run(0xABC1 << 48)
    run = 0xABC2 << 48
    place.run(run, needs=[0xABC1 << 48, 7])
    place.run(9, needs=[run], state="failed")
    place.want(9)
    result = place.call("show", "abc2")
    assert result.exit_code == 0, result.output
    for part in (
        f"run {run}",
        "done, 1 d old",
        "paths (/studies/paths.yaml, called 0 s ago)",
        f"needs      {_id(0xABC1 << 48)}  run {0xABC1 << 48}",
        f"{_id(7)}  is not stored",
        f"needed by  {_id(9)}  run 9",
        "mAP 0.25",
        "mAOE nan",
        "parameters 1,234",
        "took       0:01:01, 0:01:00 of processor time",
        "device cpu",
        "loss 'feature': is tiny",
        "seed: 0",
        " 2.0 kB  model.safetensors",
    ):
        assert part in result.output
    failed = place.call("show", _id(9)).output
    assert "failure    CUDA out of memory\n           by far\n" in failed


def test_specs_of_all_kinds_of_jobs_say_what_they_need(tmp_path):
    """What a stored run builds on is read from its JSON; that must be what `spec.needs` says."""
    (tmp_path / "study.yaml").write_text(
        "schedule: {steps: 10, batch_size: 2}\n"
        "data: {preset: smoke, also_score: [synthetic_train]}\n"
        "teachers: {lidar: {preset: tiny_lidar}}\n"
        "image_teachers: {images: {preset: tiny_segmenter}}\n"
        "students: {camera: {preset: tiny_camera}}\n"
        "paths: [lidar + images -> camera]\n"
        "losses: {feature: {weight: 1.0}, instance: {weight: 1.0}}\n"
        "arms: {both: [feature, instance]}\n"
    )
    plan = plan_study(load_study(tmp_path / "study.yaml"), "data", lambda: 4, lambda data: (tmp_path, "images"))
    assert {type(job.spec).__name__ for job in plan.jobs.values()} == {
        "DetectorJobSpec",
        "SegmenterJobSpec",
        "LabelsJobSpec",
    }
    for job in plan.jobs.values():
        folder = RunFolder(tmp_path / job.id)
        folder.write("job.json", {"label": job.label, "spec": job.spec.model_dump(mode="json")})
        assert sorted(look(folder).needs) == sorted(job.spec.needs)


# What is deleted.


@st.composite
def stores(draw):
    """Runs that build on earlier ones, claims, an age, and which claim is to be forgotten."""
    count = draw(st.integers(0, 6))
    runs = [
        (
            draw(st.lists(st.integers(0, number - 1), max_size=2, unique=True)) if number else [],
            draw(st.sampled_from(["done", "done", "failed", "stopped", "empty", "damaged"])),
            draw(st.sampled_from([1.0, 20.0])),
        )
        for number in range(count)
    ]
    wanted = draw(st.lists(st.sets(st.integers(0, 7)), max_size=3))
    forget = draw(st.sets(st.sampled_from(range(len(wanted))))) if wanted else set()
    return runs, wanted, draw(st.sampled_from([None, 10.0])), forget


@settings(max_examples=50)
@given(stores())
def test_prune_keeps_what_is_needed_and_deletes_all_else(tmp_path_factory, store):
    runs, wanted, older_than, forget = store
    folder = tmp_path_factory.mktemp("store")
    place = Place(folder / "runs")
    for number, (needs, state, days) in enumerate(runs):
        place.run(number, needs, state, days)
    for number, jobs in enumerate(wanted):
        place.want(*jobs, name=f"study{number}")
    words = ["prune", "--yes", *(f"--study=study{number}" for number in forget)]
    words += [] if older_than is None else [f"--older-than={older_than}"]
    result = place.call(*words)
    assert result.exit_code == 0, result.output

    staying = {job for number, jobs in enumerate(wanted) if number not in forget for job in jobs}
    staying |= {number for number, (_, _, days) in enumerate(runs) if older_than is not None and days < older_than}
    # The needs of the kept, from the last to the first, for a run builds on earlier ones; a torn job.json tells none.
    for number in reversed(range(len(runs))):
        needs, state, _ = runs[number]
        staying |= set(needs) if number in staying and state != "damaged" else set()
    assert place.stored == staying & set(range(len(runs)))
    assert set(place.claims.read()) == {f"study{number}" for number in range(len(wanted)) if number not in forget}
    # Whatever stays is as it was, and there is nothing more to be had.
    again = place.call("prune", "--yes", *([] if older_than is None else [f"--older-than={older_than}"]))
    assert again.output.splitlines()[-1] == "deleted 0 runs, 0 B"
    shutil.rmtree(folder)


def test_an_edited_study_frees_what_it_wants_no_more(place):
    for number in (1, 2, 3):
        place.run(number)
    place.want(1, 2)
    place.want(3, name="radar")
    place.want(2)
    assert place.call("prune", "--yes").exit_code == 0
    assert place.stored == {2, 3}


def test_a_running_run_stays_with_all_that_it_builds_on(place):
    place.run(1)
    place.run(2, needs=[1], state="empty")
    place.run(3)
    with place.run(4, needs=[2], state="stopped").locked():
        result = place.call("prune", "--yes")
    assert "deleted 1 run, " in result.output
    assert place.stored == {1, 2, 4}


def test_only_folders_named_by_a_job_id_are_touched(place, tmp_path):
    others = ["mine", "0123456789abcde", "0123456789ABCDEF", "0123456789abcdef0", ".cache"]
    for name in others:
        (place.path / name).mkdir()
    (place.path / "fedcba9876543210").write_text("a file")
    (tmp_path / "elsewhere").mkdir()
    (place.path / "1123456789abcdef").symlink_to(tmp_path / "elsewhere")
    place.run(1)
    assert place.call("prune", "--yes").exit_code == 0
    left = {path.name for path in place.path.iterdir()}
    assert left == {*others, "fedcba9876543210", "1123456789abcdef", "studies"}
    assert (tmp_path / "elsewhere").is_dir()


def test_a_study_that_begins_after_the_listing_keeps_its_runs(place, meanwhile):
    place.run(1)
    place.run(2, needs=[1])
    place.run(3)
    meanwhile(lambda: place.want(2, name="radar"))
    result = place.call("prune")
    assert result.exit_code == 0, result.output
    assert place.stored == {1, 2}
    assert "deleted 1 run, " in result.output
    assert "2 stay: they are running or claimed now" in result.output


def test_a_run_that_becomes_free_after_the_listing_is_not_deleted_unasked(place, meanwhile):
    place.run(1)
    place.run(2)
    place.want(2)
    meanwhile(lambda: place.want(name="paths"))
    assert place.call("prune").exit_code == 0
    assert place.stored == {2}


def test_a_study_that_is_called_again_after_the_listing_is_not_forgotten(place, meanwhile):
    place.run(1)
    place.want(1)
    meanwhile(lambda: place.want(1))
    assert place.call("prune", "--study", "paths").exit_code == 0
    assert place.stored == {1}
    assert set(place.claims.read()) == {"paths"}


def test_no_leaves_everything_and_yes_deletes_it(place, terminal):
    place.run(1)
    place.want(1)
    result = place.call("prune", "--study", "paths", input="n\n")
    assert result.exit_code == 0
    assert "Drop the claim of paths, delete 1 run, 2.4 kB? [y/N]: n\nnothing was deleted" in result.output
    assert (place.stored, set(place.claims.read())) == ({1}, {"paths"})
    result = place.call("prune", "--study", "paths", input="y\n")
    assert result.exit_code == 0
    assert (place.stored, place.claims.read()) == (set(), {})


def test_nobody_at_the_terminal_and_no_yes_is_an_error_that_names_the_flag(place):
    place.run(1)
    result = place.call("prune")
    assert result.exit_code == 2
    assert "pass --yes" in result.output
    assert place.stored == {1}
    # Where there is nothing to ask, nobody need be there.
    place.want(1)
    assert place.call("prune").exit_code == 0


def test_dry_run_lists_and_changes_nothing(place):
    place.run(1)
    place.want(1)
    result = place.call("prune", "--study", "paths", "--dry-run")
    assert result.exit_code == 0
    assert _id(1) in result.output
    assert "would drop the claim of paths, delete 1 run, " in result.output
    assert (place.stored, set(place.claims.read())) == ({1}, {"paths"})


def test_an_interrupted_delete_leaves_no_run_and_the_next_prune_ends_it(place, monkeypatch):
    place.run(1)
    with monkeypatch.context() as patch:

        def interrupted(path):
            (path / "job.json").unlink()
            raise KeyboardInterrupt

        patch.setattr(shutil, "rmtree", interrupted)
        assert place.call("prune", "--yes").exit_code != 0
    assert any(place.path.rglob("result.json"))
    assert stored_runs(place.path) == {}
    # The same job may have been trained again before the next prune, and freed again.
    place.run(1)
    assert place.call("prune", "--yes").exit_code == 0
    assert not any(place.path.rglob("result.json"))


def test_a_study_that_begins_while_runs_are_deleted_waits_for_the_end(place, monkeypatch):
    place.run(1)
    place.want(2)

    def delete(path, rmtree=shutil.rmtree):
        with pytest.raises(Timeout):
            FileLock(place.path / "studies" / ".lock").acquire(timeout=0)
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", delete)
    result = place.call("prune", "--yes")
    assert result.exit_code == 0, result.exception
    assert place.stored == set()


def test_a_file_that_cannot_be_deleted_is_named(place, monkeypatch):
    place.run(1)

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refused)
    result = place.call("prune", "--yes")
    assert result.exit_code == 2
    assert f".{_id(1)}.deleted cannot be deleted: Permission denied" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "--state", "runing"], "unknown state 'runing'; did you mean 'running'? allowed: damaged, done"),
        (["list", "--study", "path"], "unknown study 'path'; did you mean 'paths'? allowed: paths"),
        (["prune", "--study", "path", "--yes"], "unknown study 'path'; did you mean 'paths'? allowed: paths"),
        (["prune", "--older-than", "-1", "--yes"], "--older-than -1 is not a number of days"),
        (["prune", "--older-than", "nan", "--yes"], "--older-than nan is not a number of days"),
        (["show", "abc"], "id 'abc' is too short; give at least 4 digits"),
        (["show", "0000"], f"2 runs in RUNS begin with '0000': {_id(1)}, {_id(2)}; give more digits"),
        (["show", "abcd"], f"contains no run whose id begins with 'abcd'; the first of its 2: {_id(1)}, {_id(2)}"),
    ],
)
def test_bad_input_is_one_message_and_exit_status_2(place, words, message):
    place.run(1)
    place.run(2)
    place.want(1)
    result = place.call(*words)
    assert result.exit_code == 2
    assert message.replace("RUNS", str(place.path)) in result.output
    assert result.output.count("\n") == 1
    assert place.stored == {1, 2}


@pytest.mark.parametrize("words", [["list"], ["show", "abcd"], ["prune", "--yes"]])
def test_a_runs_folder_that_does_not_exist_is_named_and_not_made(place, words):
    place.path.rmdir()
    result = place.call(*words)
    assert result.exit_code == 2
    assert f"{place.path} does not exist" in result.output
    assert not place.path.exists()


@pytest.mark.parametrize("words", [["list"], ["prune", "--yes"], ["prune", "--dry-run"]])
def test_a_claim_that_cannot_be_read_stops_every_delete(place, words):
    place.run(1)
    place.want(1)
    (claim,) = (place.path / "studies").glob("*.json")
    claim.write_text(claim.read_text()[:40])
    result = place.call(*words)
    assert result.exit_code == 2
    assert claim.name in result.output
    assert place.stored == {1}


# Who writes claims.

STUDY = """\
data: {root: ROOT, version: v1.0-synthetic, train_split: synthetic_train, eval_split: synthetic_val}
schedule: {steps: 4, batch_size: 2}
teachers: {lidar: {preset: tiny_lidar}}
students: {camera: {preset: tiny_camera}}
paths: [lidar->camera]
losses: {feature: {weight: 1.0}}
arms: {feature: [feature]}
search: {space: {losses.feature.weight: {low: 0.1, high: 10.0}}, seeds: [100], eval_split: synthetic_tune, trials: 3}
"""


@pytest.fixture
def study(smoke_path, tmp_path, monkeypatch):
    """A study whose jobs are done at once, and the flags to call it with."""

    def execute(plan, site, watch, stopping=lambda: None, expected=None, unwanted=tuple):
        wanted = {id_ for claim in Claims(site.runs).read().values() for id_ in claim.jobs}
        assert plan.jobs.keys() <= wanted, "a run is recorded before it is begun"
        for id_, job in plan.jobs.items():
            site.folder(id_).write("job.json", {"label": job.label, "spec": job.spec.model_dump(mode="json")})
            metrics = dict.fromkeys(("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE"), 0.5)
            site.folder(id_).complete(Result(metrics, 1, 1.0, {}))
        return {id_: JobState(job, "done") for id_, job in plan.jobs.items()}

    for module in ("harness.execute.executor", "harness.search.objective", "harness.search.report"):
        monkeypatch.setattr(f"{module}.execute", execute)
    path = tmp_path / "mine.yaml"
    path.write_text(STUDY.replace("ROOT", str(smoke_path)))
    return path, ["--runs-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "reports"), "--workers", "2"]


@pytest.mark.slow
def test_a_study_claims_its_runs_before_they_begin_and_frees_them_when_it_is_edited(study, place, tmp_path):
    from harness.run import app

    path, given = study
    given = [*given, "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db", "--device", "cpu"]
    assert CliRunner().invoke(app, [str(path), *given, "--dry-run"]).exit_code == 0
    assert place.claims.read() == {}
    done = CliRunner().invoke(app, [str(path), *given])
    assert done.exit_code == 0, done.output
    first = place.stored
    assert set(map(_id, first)) == set(place.claims.read()["mine"].jobs)
    path.write_text(path.read_text().replace("weight: 1.0", "weight: 2.0"))
    assert CliRunner().invoke(app, [str(path), *given, "--seeds", "0"]).exit_code == 0
    assert set(place.claims.read()) == {"mine", "mine --seeds 0"}
    assert place.call("prune", "--yes").output.endswith("deleted 0 runs, 0 B\n")
    assert CliRunner().invoke(app, [str(path), *given]).exit_code == 0
    assert place.call("prune", "--yes").exit_code == 0
    # Of three runs one has another weight now.
    assert len(place.stored) == 3
    assert len(place.stored & first) == 2


@pytest.mark.slow
def test_a_search_claims_its_trials_baseline_and_confirmation(study, place, tmp_path):
    from harness.search.__main__ import app

    path, given = study
    words = [str(path), *given, "--searches-dir", str(tmp_path / "searches"), "--device", "cpu"]
    # Absolute: MLflow keeps a store for each URI, whatever folder the process is in later.
    words += ["--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert set(map(_id, place.stored)) == set(place.claims.read()["search mine"].jobs)
    before = place.stored
    again = CliRunner().invoke(app, [*words, "--trials", "5"], catch_exceptions=False)
    assert again.exit_code == 0, again.output
    # It goes on, and what it wanted before it still wants.
    assert place.stored > before
    assert set(map(_id, place.stored)) == set(place.claims.read()["search mine"].jobs)
    assert "claimed by no study" not in place.call("list").output
