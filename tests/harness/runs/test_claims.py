"""A claim says what a call of a study wants; what cannot be read is never taken for one that wants nothing."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.flags import Asked
from harness.runs.claims import Claim, Claims

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def claims(tmp_path):
    return Claims(tmp_path / "runs")


@pytest.fixture
def claim_of():
    """``claim_of(1, 2)``: a claim of these jobs, of a study of this name and file."""

    def make(*jobs, name="paths", study="/studies/paths.yaml"):
        return Claim(name=name, study=Path(study), called=NOW, jobs=tuple(f"{job:016x}" for job in jobs))

    return make


def test_the_same_call_replaces_its_claim_and_another_call_has_its_own(claims, claim_of):
    claims.replace(claim_of(1, 2))
    claims.replace(claim_of(7, name="paths --seeds 7"))
    claims.replace(claim_of(2, 3))
    assert claims.read() == {"paths": claim_of(2, 3), "paths --seeds 7": claim_of(7, name="paths --seeds 7")}


def test_studies_of_one_name_in_two_folders_keep_apart(claims, claim_of):
    here, there = claim_of(1, study="/here/paths.yaml"), claim_of(2, study="/there/paths.yaml")
    claims.replace(here)
    claims.replace(there)
    assert claims.read() == {"paths (/here/paths.yaml)": here, "paths (/there/paths.yaml)": there}


def test_a_search_grows_its_claim_from_several_threads(claims, claim_of):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda job: claims.extend(claim_of(job, job + 1)), range(40)))
    (claim,) = claims.read().values()
    assert sorted(claim.jobs) == list(claim_of(*range(41)).jobs)


def test_a_forgotten_claim_wants_nothing(claims, claim_of):
    claims.replace(claim_of(1))
    with claims.locked():
        claims.forget(claim_of(1))
    assert claims.read() == {}


def test_an_interrupted_write_is_no_claim(claims, claim_of, monkeypatch):
    claims.replace(claim_of(1))

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        claims.replace(claim_of(2))
    assert claims.read() == {"paths": claim_of(1)}


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
def test_what_is_no_claim_is_named(claims, claim_of, tmp_path, name, content):
    claims.replace(claim_of(1))
    path = tmp_path / "runs" / "studies" / name
    if content is ...:
        path.mkdir()
    else:
        path.write_text(claim_of(1).model_dump_json() if content is None else content)
    with pytest.raises(InputError, match=name):
        claims.read()


def test_a_search_does_not_overwrite_a_claim_that_it_cannot_read(claims, claim_of, tmp_path):
    claims.extend(claim_of(1))
    (path,) = (tmp_path / "runs" / "studies").glob("*.json")
    path.write_text("torn")
    with pytest.raises(InputError, match=path.name):
        claims.extend(claim_of(2))
    assert path.read_text() == "torn"


def test_a_folder_that_cannot_be_made_is_named(claims, claim_of, tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(InputError, match="runs/studies cannot be made"):
        claims.replace(claim_of(1))


def test_calls_are_told_apart_by_their_flags():
    path = Path("studies/paths.yaml")
    assert Asked(path).call == "paths"
    assert Asked(path, seeds="0,1,2", set_=["a=1", "b=2"]).call == "paths --seeds 0,1,2 --set a=1 --set b=2"
    assert Asked(path, Path("/data"), "v1.0-mini", "mini_train", set_=[]).call == (
        "paths --data-root /data --version v1.0-mini --split mini_train"
    )
    assert Asked(path, Path("data")).call == f"paths --data-root {Path.cwd()}/data"
