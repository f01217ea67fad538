"""Every command runs wherever it is started, whatever is said there of output, figures and home folders."""

import importlib
import io
import os
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer
from pydantic import TypeAdapter
from typer.testing import CliRunner

import harness
from harness.flags import uri_at_home
from harness.home import HomePath
from harness.program import Program
from harness.study.roles import ImageDataSpec, ImageTeacherSpec, TeacherSpec
from harness.study.spec import DataSpec, ReportSpec

FOLDER = Path(harness.__file__).parent
COMMANDS = [
    "harness.run",
    "harness.export",
    *(f"harness.{main.parent.name}.__main__" for main in FOLDER.glob("*/__main__.py")),
]


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def seen():
    """What the command `program` was given, newest last."""
    return []


@pytest.fixture
def program(seen):
    app = Program()

    @app.command()
    def main(path: Path, other: Path = Path("runs"), none: Annotated[Path | None, typer.Option()] = None) -> None:
        seen.append((path, other, none))
        print("lidar · teacher → ok")

    return app


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_program(name):
    assert type(importlib.import_module(name).app) is Program


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "iso8859-2", "koi8-r", "utf-8"])
def test_what_output_cannot_hold_is_replaced(monkeypatch, program, encoding):
    written = io.BytesIO()
    monkeypatch.setenv("MPLBACKEND", "module://of.a.notebook")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    program(["x"], standalone_mode=False)
    sys.stdout.flush()
    assert written.getvalue().decode(encoding) == "lidar · teacher → ok\n".encode(encoding, "replace").decode(encoding)
    assert os.environ["MPLBACKEND"] == "agg"


def test_output_that_is_no_stream_of_ours_stays_as_it_is(monkeypatch, program):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    program(["x"], standalone_mode=False)
    assert sys.stdout.getvalue() == "lidar · teacher → ok\n"


def test_paths_of_a_command_may_begin_with_the_home_folder(program, seen, home):
    assert CliRunner().invoke(program, ["~/a", "--other=~/b", "--none", "~"]).exit_code == 0
    assert CliRunner().invoke(program, ["a~/~"]).exit_code == 0
    assert seen == [(home / "a", home / "b", home), (Path("a~/~"), Path("runs"), None)]


def test_the_home_of_nobody_is_refused(program, seen):
    result = CliRunner().invoke(program, ["~no-such-user/a"])
    assert (result.exit_code, seen) == (2, [])
    assert "~no-such-user/a: the home folder that ~ stands for is unknown" in result.stderr


def test_paths_of_a_study_may_begin_with_the_home_folder(home):
    assert DataSpec(root="~/world").root == home / "world"
    assert ImageDataSpec(root="~/world").root == home / "world"
    assert TeacherSpec(preset="tiny_lidar", checkpoint="~/a").checkpoint == home / "a"
    assert ImageTeacherSpec(labels="~/labels").labels == home / "labels"
    assert ImageTeacherSpec(model="~/model").model == str(home / "model")
    assert ImageTeacherSpec(model="some/model").model == "some/model"
    assert ReportSpec(papers=["~/a.yaml", "b.yaml"]).papers == (home / "a.yaml", Path("b.yaml"))
    with pytest.raises(ValueError, match="~no-such-user/a: the home folder that ~ stands for is unknown"):
        TypeAdapter(HomePath).validate_python("~no-such-user/a")


def test_stores_may_lie_in_the_home_folder(home):
    assert uri_at_home("sqlite:///~/a.db") == f"sqlite:///{home}/a.db"
    for other in ("sqlite:///a.db", "http://host:80/~x", "sqlite:////a/~/b.db", None):
        assert uri_at_home(other) == other
