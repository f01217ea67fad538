"""A record says what a call of a study wants; what cannot be read is never taken for one that wants nothing."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.flags import Asked
from harness.runs.claims import Records, Wanted

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path / "runs")


@pytest.fixture
def wanted():
    """``wanted(1, 2)``: a record of these jobs, of a study of this name and file."""

    def make(*jobs, name="paths", study="/studies/paths.yaml"):
        return Wanted(name=name, study=Path(study), called=NOW, jobs=tuple(f"{job:016x}" for job in jobs))

    return make


def test_the_same_call_replaces_its_record_and_another_call_has_its_own(records, wanted):
    records.replace(wanted(1, 2))
    records.replace(wanted(7, name="paths --seeds 7"))
    records.replace(wanted(2, 3))
    assert records.read() == {"paths": wanted(2, 3), "paths --seeds 7": wanted(7, name="paths --seeds 7")}


def test_studies_of_one_name_in_two_folders_keep_apart(records, wanted):
    here, there = wanted(1, study="/here/paths.yaml"), wanted(2, study="/there/paths.yaml")
    records.replace(here)
    records.replace(there)
    assert records.read() == {"paths (/here/paths.yaml)": here, "paths (/there/paths.yaml)": there}


def test_a_search_grows_its_record_from_several_threads(records, wanted):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda job: records.extend(wanted(job, job + 1)), range(40)))
    (record,) = records.read().values()
    assert sorted(record.jobs) == list(wanted(*range(41)).jobs)


def test_a_forgotten_record_wants_nothing(records, wanted):
    records.replace(wanted(1))
    with records.locked():
        records.forget(wanted(1))
    assert records.read() == {}


def test_an_interrupted_write_is_no_record(records, wanted, monkeypatch):
    records.replace(wanted(1))

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        records.replace(wanted(2))
    assert records.read() == {"paths": wanted(1)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("torn.json", '{"name": "pa'),
        ("notes.txt", "do not delete my runs"),
        ("other.json", '{"what": "another program\'s"}'),
        ("id.json", '{"name": "a", "study": "a.yaml", "called": "2026-01-02T00:00:00Z", "jobs": ["../../home"]}'),
        ("copy.json", None),
        ("folder", ...),
    ],
)
def test_what_is_no_record_is_named(records, wanted, tmp_path, name, content):
    records.replace(wanted(1))
    path = tmp_path / "runs" / "studies" / name
    if content is ...:
        path.mkdir()
    else:
        path.write_text(wanted(1).model_dump_json() if content is None else content)
    with pytest.raises(InputError, match=name):
        records.read()


def test_a_search_does_not_overwrite_a_record_that_it_cannot_read(records, wanted, tmp_path):
    records.extend(wanted(1))
    (path,) = (tmp_path / "runs" / "studies").glob("*.json")
    path.write_text("torn")
    with pytest.raises(InputError, match=path.name):
        records.extend(wanted(2))
    assert path.read_text() == "torn"


def test_a_folder_that_cannot_be_made_is_named(records, wanted, tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(InputError, match="runs/studies cannot be made"):
        records.replace(wanted(1))


def test_calls_are_told_apart_by_their_flags():
    path = Path("studies/paths.yaml")
    assert Asked(path).call == "paths"
    assert Asked(path, seeds="0,1,2", set_=["a=1", "b=2"]).call == "paths --seeds 0,1,2 --set a=1 --set b=2"
    assert Asked(path, Path("/data"), "v1.0-mini", "mini_train", set_=[]).call == (
        "paths --data-root /data --version v1.0-mini --split mini_train"
    )
    assert Asked(path, Path("data")).call == f"paths --data-root {Path.cwd()}/data"
