"""One command has all others under it, starts at once, and lists what there is."""

import inspect
import io
import json
import re
import subprocess
import sys
from importlib import import_module

import pytest
from rich.console import Console
from typer.testing import CliRunner

from detectors.cost import Cost
from detectors.presets import PRESETS, SEGMENTERS, TINY_PRESETS
from distill.objective import LOSSES
from harness import catalogue
from harness.__main__ import COMMANDS, app
from harness.program import Program
from harness.study.first_look import SCHEMA, STUDIES

HEAVY = {"torch", "mlflow", "pandas", "optuna", "transformers", "nuscenes", "lightning"}
NAMES = [name for commands in COMMANDS.values() for name in commands]
MODULES = sorted({module for commands in COMMANDS.values() for module in commands.values()})


def crossbev(*words):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.output


def imported_by(arguments):
    """What of HEAVY a command imports, in a process of its own."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = {['crossbev', *arguments]!r}\n"
        f"try: runpy.run_module('harness', run_name='__main__')\n"
        f"finally: print('heavy:', *({HEAVY!r} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].removeprefix("heavy:").split())


@pytest.mark.parametrize(
    "words", [[], *([name] for name in NAMES), ["data", "inspect"], ["runs", "list"]], ids=" ".join
)
def test_help_and_version_import_nothing_that_takes_seconds(words):
    assert imported_by([*words, "--help"]) == set()


def test_the_version_is_told_at_once():
    assert imported_by(["--version"]) == set()
    assert crossbev("--version").startswith("crossbev ")


def test_the_help_shows_every_command_under_its_panel():
    text = crossbev("--help")
    places = [text.index(f" {word} ") for panel, commands in COMMANDS.items() for word in (panel, *commands)]
    assert places == sorted(places)


@pytest.mark.parametrize("name", MODULES)
def test_every_command_is_a_program_that_python_runs_by_its_module_too(name):
    module = import_module(name)
    assert type(module.app) is Program
    assert 'if __name__ == "__main__":' in inspect.getsource(module)


def test_a_command_that_there_is_not_is_named():
    done = CliRunner().invoke(app, ["rum"])
    assert done.exit_code == 2
    assert "No such command 'rum'. Did you mean 'run'" in " ".join(done.output.split())


def test_a_shell_is_told_how_to_complete_it():
    # Typer asks which shell called it. The shell would be replaced by its last command, so another one follows.
    code = "from harness.__main__ import app; app(['--show-completion'], prog_name='crossbev')"
    command = f'{sys.executable} -c "{code}" && echo done'
    done = subprocess.run(["bash", "-c", command], cwd=STUDIES.parent, capture_output=True, text=True)
    assert "_CROSSBEV_COMPLETE=complete_bash" in done.stdout, done.stderr


def test_losses_are_listed_with_what_they_do_and_whose_they_are():
    rows = {row["loss"]: row for row in json.loads(crossbev("losses", "--json"))}
    assert list(rows) == list(LOSSES)
    assert all(row["what"] and row["source"] for row in rows.values())
    assert rows["relation"]["what"] == "copy the relations between the parts of an object, not their features"
    assert rows["relation"]["source"] == "UniDistill's relation loss"
    assert rows["depth"]["source"].startswith("Explicit depth supervision as in BEVDepth (Li et al., AAAI 2023)")
    assert [name for name, row in rows.items() if row["asks"] == "an image teacher"] == ["instance"]
    assert "relation" in crossbev("losses")


def test_presets_are_listed_with_the_parameters_that_they_have():
    rows = {row["preset"]: row for row in json.loads(crossbev("presets", "--json"))}
    assert list(rows) == [*PRESETS, *SEGMENTERS]
    assert rows["tiny_camera_radar"]["sensors"] == "camera + radar"
    parameters = sum(each.numel() for each in PRESETS["tiny_radar"].build().parameters())
    assert rows["tiny_radar"]["parameters"] == parameters
    assert f"{parameters:,}" in crossbev("presets")


def test_what_presets_cost_is_measured_only_where_that_is_asked(monkeypatch):
    asked = []

    def measure(spec, batch_size, device):
        asked.append((batch_size, device))
        return Cost(5, 1_230_000_000, (64, 40, 30), 0.256)

    monkeypatch.setattr("detectors.cost.measure", measure)
    monkeypatch.setattr("detectors.cost.segmenter_step_seconds", lambda spec, batch_size, device: 0.5)
    assert "GFLOPs" not in crossbev("presets")
    assert not asked
    text = crossbev("presets", "--measure", "--batch-size", "3")
    assert text.startswith("timing training steps of 3 samples of each tiny preset (cpu, one thread)")
    (line,) = (line for line in text.splitlines() if line.split()[:1] == ["tiny_radar"])
    assert line.split()[-3:] == ["1.23", "64x40x30", "0.26"]
    assert asked == [(3, "cpu")] * len(TINY_PRESETS)
    rows = {row["preset"]: row for row in json.loads(crossbev("presets", "--measure", "--json"))}
    assert (rows["tiny_segmenter"]["GFLOPs"], rows["tiny_segmenter"]["step (s)"]) == (None, 0.5)
    # A step of a network at full size would take minutes.
    assert rows["bevdepth_r50"]["step (s)"] is None


def test_a_device_that_there_is_not_is_refused():
    done = CliRunner().invoke(app, ["presets", "--measure", "--device", "tpu"])
    assert done.exit_code == 2
    assert "--device tpu: allowed: cpu, and cuda" in done.output


def test_paths_are_listed_with_the_studies_that_ask_about_them():
    rows = {row["path"]: row["studies"] for row in json.loads(crossbev("paths", "--json"))}
    assert {"smoke", "paths"} <= set(rows["lidar->camera"])
    assert "x3kd_stages" in rows["images+lidar->camera"]
    assert rows["radar->lidar"] == []  # possible, and nobody asked
    assert "images->lidar" not in rows  # no image teacher teaches what sees none


def test_studies_are_listed_with_question_size_and_whether_they_are_answered():
    rows = {row["study"]: row for row in json.loads(crossbev("studies", "--json"))}
    assert set(rows) == {path.stem for path in STUDIES.glob("*.yaml")}
    smoke = {"study": "smoke", "jobs": 3, "trainings": 3, "rows": 3, "seeds": 1, "reported": False}
    question = "Does everything from a study file to a table work? The numbers are meaningless after three steps."
    assert rows["smoke"] == smoke | {"question": question}
    assert rows["paths"]["reported"]
    # A pipe gets one line a study.
    (line,) = (line for line in crossbev("studies").splitlines() if line.split()[:1] == ["smoke"])
    assert line.split() == ["smoke", *question.split(), "3", "3", "1", "none", "yet"]


def test_the_table_of_studies_fits_a_terminal():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, no_color=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "console", console)
        crossbev("studies")
    lines = re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    starts = {line.index("Does") for line in lines if "Does" in line[:30]}
    assert len(starts) == 1, "the questions are aligned"


def test_a_folder_without_studies_is_named(tmp_path):
    done = CliRunner().invoke(app, ["studies", "--studies-dir", str(tmp_path)])
    assert done.exit_code == 2
    assert f"--studies-dir {tmp_path}: the folder contains no study" in done.output


def test_the_schema_is_printed_or_written(tmp_path):
    assert crossbev("schema") == SCHEMA.read_text()
    crossbev("schema", str(tmp_path / "mine.json"))
    assert (tmp_path / "mine.json").read_text() == SCHEMA.read_text()
    done = CliRunner().invoke(app, ["schema", str(tmp_path / "nowhere" / "mine.json")])
    assert done.exit_code == 2
    assert "cannot be written" in done.output


def test_a_wrong_study_is_told_by_the_one_command_as_by_its_module():
    done = CliRunner().invoke(app, ["run", str(STUDIES / "smoke.yaml"), "--seeds", "x"])
    assert done.exit_code == 2
    assert "error: --seeds (or --set seeds): 'x' is neither a seed nor a range" in done.output
