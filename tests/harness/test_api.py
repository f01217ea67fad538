"""A notebook has a study with its plan, its lines and its report in a few lines of Python."""

import doctest
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import harness
from harness import api
from harness.errors import InputError

ROOT = Path(harness.__file__).parents[1]
SMOKE = ROOT / "studies" / "smoke.yaml"


@pytest.fixture
def study(planned, stored):
    """The smoke study, its runs stored."""
    return harness.open_study(SMOKE, seeds="0-1", runs_dir=stored / "runs", console=Console(file=io.StringIO()))


def test_it_is_the_study_that_a_command_opens(study, planned):
    assert study.plan == planned.plan
    assert harness.open_study(SMOKE, seeds=[0, 1]).plan == planned.plan
    assert harness.open_study(SMOKE, set={"seeds": [0, 1]}).plan == planned.plan


def test_lines_are_a_data_frame_of_the_table(study, tmp_path):
    lines = study.lines()
    assert list(lines.role) == ["teacher", "baseline", "student"]
    assert lines.set_index("role").NDS["student"] == pytest.approx(35.7, abs=1)
    assert study.report(tmp_path / "out") == tmp_path / "out"
    written = pd.read_csv(tmp_path / "out" / "table.csv", keep_default_na=False, na_values={"gain_NDS": ""})
    assert list(written.columns) == list(lines.columns)
    assert written.NDS.tolist() == lines.NDS.tolist()
    assert (tmp_path / "out" / "report.html").is_file()


def test_lines_of_what_is_not_run_say_so(tmp_path, planned):
    lines = harness.open_study(SMOKE, runs_dir=tmp_path).lines()
    assert lines.missing.tolist() == ["not run"] * 3
    assert lines.NDS.isna().all()


def test_wrong_input_is_an_input_error(tmp_path, planned):
    with pytest.raises(InputError, match="did you mean 'steps'"):
        harness.open_study(SMOKE, set={"schedule.stpes": 3})
    with pytest.raises(InputError, match="unknown device 'abacus'"):
        harness.open_study(SMOKE, runs_dir=tmp_path).run(device="abacus")


@pytest.mark.slow
def test_a_failed_training_is_an_error_that_names_it(tmp_path, planned):
    huge = harness.open_study(SMOKE, runs_dir=tmp_path, set={"schedule.lr": 1e30, "schedule.clip_norm": 1e30})
    with pytest.raises(api.TrainingFailed, match=r"(?s)lidar · teacher \[\w+\]: .*nan.*a job that it needs failed"):
        huge.run(workers=1, device="cpu")


def test_numbers_of_numpy_paths_and_homes_are_taken(tmp_path, planned, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(SMOKE.read_text())
    study = harness.open_study("~/mine.yaml", set={"schedule.steps": np.int64(7)}, runs_dir="~/runs")
    assert study.opened.study.schedule.steps == 7
    assert study.opened.runs_dir == tmp_path / "runs"


def test_the_package_itself_imports_nothing_of_it():
    code = "import sys, harness; assert 'harness.api' not in sys.modules; harness.open_study; print(len(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + "; assert 'torch' not in sys.modules"], capture_output=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        harness.nothing  # noqa: B018


@pytest.mark.slow
def test_the_ten_lines_of_the_docstring_run(tmp_path):
    (examples,) = [each for each in doctest.DocTestFinder().find(api, "harness.api") if each.examples]
    assert 8 <= len(examples.examples) <= 10
    (tmp_path / "studies").symlink_to(ROOT / "studies")
    code = "".join(example.source for example in examples.examples)
    code += "assert gains.notna().all() and len(lines) == 3\n"
    env = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    # In a file, as users have it: a process that is spawned would run it again.
    (tmp_path / "mine.py").write_text(code)
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "reports" / "smoke" / "report.html").is_file()
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 5
