"""The schema of study files is what the specs say; a first look by it is quick, sure, and never more than they say."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import harness
from harness.errors import InputError
from harness.study import first_look as module
from harness.study.first_look import SCHEMA, first_look, mistakes
from harness.study.load import load_study
from harness.study.schema import study_schema
from harness.study.written import read_written

PROJECT = Path(harness.__file__).parents[1]
STUDIES = sorted(path for path in (PROJECT / "studies").glob("**/*.yaml") if path.parent.name != "papers")
SMOKE = PROJECT / "studies" / "smoke.yaml"
KNOWN = {"$ref", "anyOf", "oneOf", "type", "enum", "const", "pattern", "properties", "patternProperties", "required"}
KNOWN |= {"additionalProperties", "discriminator", "items", "prefixItems"}
SAY_NOTHING = {"$schema", "$comment", "$defs", "default", "description", "format"}
LEFT_TO_THE_SPECS = {"minLength", "maxLength", "minProperties", "minItems", "maxItems"}
LEFT_TO_THE_SPECS |= {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}


@pytest.fixture(scope="module")
def schema():
    return json.loads(SCHEMA.read_bytes())


def test_the_shipped_schema_is_current(schema):
    assert schema == study_schema(), "write it again: crossbev schema studies/study.schema.json"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_shipped_study_is_valid_and_names_the_schema_for_editors(path, schema):
    assert mistakes(read_written(path).content, schema) == []
    first_look(path, ())
    (line,) = [line for line in path.read_text().splitlines() if line.startswith("# yaml-language-server: $schema=")]
    assert (path.parent / line.partition("=")[2]).resolve() == SCHEMA.resolve()


def _keywords(part, inside="schema"):
    if isinstance(part, list):
        return set().union(*map(_keywords, part))
    if not isinstance(part, dict):
        return set()
    by_name = ("properties", "patternProperties", "$defs")
    deeper = [
        _keywords(list(each.values()) if key in by_name else each)
        for key, each in part.items()
        if key not in ("default", "enum", "const", "discriminator", "required")
    ]
    return set(part).union(*deeper)


def test_the_first_look_knows_every_word_of_the_schema(schema):
    assert _keywords(schema) <= KNOWN | SAY_NOTHING | LEFT_TO_THE_SPECS


def test_fields_are_described_by_their_docstrings(schema):
    parts = schema["$defs"]
    assert parts["ScheduleSpec"]["properties"]["lr"]["description"] == "The highest learning rate."
    assert parts["RelationSpec"]["description"].startswith("UniDistill's relation loss")
    assert parts["RelationSpec"]["properties"]["adapter"]["description"].startswith("Never needed for the widths")
    assert "keyframes" in parts["StudentSpec"]["properties"]["keyframes"]["description"]  # of the class it derives from


TYPOS = {
    "schedul.steps=3": "unknown key 'schedul'; did you mean 'schedule'?",
    "schedule.stpes=3": "--set schedule.stpes: unknown key 'stpes'; did you mean 'steps'?",
    "losses.feature.wieght=3": "unknown key 'wieght'; did you mean 'weight'?",
    "losses.feature={loss: relation, weight: 1, levle: low}": "unknown key 'levle'; did you mean 'level'?",
    "losses.featrue.weight=3": "losses: unknown loss 'featrue'; did you mean 'feature'?",
    "losses.mine={loss: reltion, weight: 1}": "losses: unknown loss 'reltion'; did you mean 'relation'?",
    "teachers.lidar.preset=tiny_lidr": "teachers.lidar.preset: unknown preset 'tiny_lidr'; did you mean 'tiny_lidar'?",
    "students.camera.longer_baselin=2": "did you mean 'longer_baseline'?",
    "arms.unidistill=[feature, reltion]": "arm 'unidistill': unknown loss 'reltion'; did you mean 'relation'?",
    "search={trails: 3, space: {schedule.lr: {low: 1.0e-3, high: 2.0}}}": "did you mean 'trials'?",
}


@pytest.mark.parametrize("change", TYPOS)
def test_a_typo_is_told_at_first_sight_and_the_specs_say_the_same(change):
    for look in (first_look, load_study):
        with pytest.raises(InputError) as refused:
            look(SMOKE, [change])
        assert TYPOS[change] in str(refused.value)


def test_a_misspelt_loss_is_not_told_again_as_a_loss_that_its_arm_lacks(tmp_path):
    study = tmp_path / "mine.yaml"
    study.write_text(SMOKE.read_text().replace("  feature: {", "  featrue: {"))
    with pytest.raises(InputError) as refused:
        first_look(study, ())
    assert "unknown loss 'featrue'; did you mean 'feature'?" in str(refused.value)
    assert "arm" not in str(refused.value).replace("arms", "")


@pytest.mark.parametrize(
    "change",
    [
        "schedule.steps=many",  # the specs say it better
        "search={space: {schedule.lr: {low: small, high: 2.0}}}",  # a range or choices?
        "losses.feature={loss: relation, weight: 1, level: low}",
        "losses.feature.weight={lidar->camera: 1.0, others: 2}",
        "losses.mine={loss: their_package:Spec, weight: 1, anything: 2}",
        "teachers.lidar.preset=their_package:SPEC",
        "seeds=[0-2, 7]",
        "arms.warm=[warm_start, feature]",
        "schedule.lr=1e-3",
    ],
)
def test_what_it_cannot_be_sure_of_it_lets_pass(change):
    first_look(SMOKE, [change])


@pytest.mark.parametrize("content", ["", "<<<<<<< HEAD", "[]", "{}", "3"])
def test_a_schema_in_the_middle_of_an_edit_has_no_say(tmp_path, monkeypatch, content):
    monkeypatch.setattr("harness.study.first_look.SCHEMA", tmp_path / "schema.json")
    (tmp_path / "schema.json").write_text(content)
    first_look(SMOKE, ["schedul.steps=3"])


def test_a_loss_that_no_arm_has_is_not_looked_at(tmp_path):
    change = "losses.extra={loss: relation, weight: 1, nonsense: 2}"
    first_look(SMOKE, [change])
    load_study(SMOKE, [change])
    with pytest.raises(InputError, match="nonsense"):
        first_look(SMOKE, [change, "arms.more=[extra]"])


def test_names_that_another_package_offers_are_let_pass(monkeypatch):
    monkeypatch.setattr(module, "offered", lambda group: frozenset({"theirs"}))
    first_look(SMOKE, ["losses.mine={loss: theirs, weight: 1}"])


def test_where_a_spec_has_changed_since_the_schema_was_written_its_word_does_not_count(checkout, monkeypatch):
    monkeypatch.setattr(module, "PROJECT", checkout)
    before = module.names_hash()
    assert before == json.loads(SCHEMA.read_bytes())["$comment"]
    specs = checkout / "harness" / "study" / "schedule.py"
    text = specs.read_text()
    specs.write_text(text.replace("The highest learning rate", "The peak"))
    assert module.names_hash() == before  # only names count
    specs.write_text(text.replace("    lr: float", "    schedul: int = 0\n    lr: float"))
    assert module.names_hash() != before
    first_look(SMOKE, ["schedul.steps=3"])
    specs.write_text(text)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The project's sources, to be edited."""
    folder = tmp_path_factory.mktemp("checkout")
    for part in ("detectors", "distill", "harness", "studies"):
        shutil.copytree(PROJECT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.parametrize("module_", ["harness.run", "harness.search", "harness.report"])
def test_a_typo_is_told_without_what_takes_seconds_to_import(checkout, module_):
    heavy = "torch mlflow pandas optuna transformers nuscenes lightning numpy"
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['crossbev', 'studies/smoke.yaml', '--set', 'schedul.steps=3']\n"
        f"try: runpy.run_module({module_!r}, run_name='__main__')\n"
        f"finally: print(*(set({heavy!r}.split()) & sys.modules.keys()), 'were imported')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: studies/smoke.yaml: unknown key 'schedul'; did you mean 'schedule'?" in done.stderr
    assert done.stdout == "were imported\n"
