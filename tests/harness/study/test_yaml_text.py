"""What a study's YAML says is what it looks like, wherever it is written; what looks like two things is refused."""

import pytest
import yaml

from harness.errors import InputError
from harness.study.load import load_study
from harness.study.papers import read_paper
from harness.study.search_spec import MOST_SEEDS
from harness.study.yaml_text import Dumper, read_yaml

STUDY = """\
schedule: {steps: 5}
teachers: {lidar: {preset: tiny_lidar}}
students: {camera: {preset: tiny_camera}}
paths: [lidar -> camera]
losses: {feature: {weight: 2.0}}
arms: {one: [feature]}
"""


@pytest.fixture
def study_text():
    return STUDY


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "+.1e-2", "0.001"])
def test_a_number_is_one_however_its_exponent_is_written(load, text):
    study = load(STUDY.replace("2.0", text))
    assert study.loss("feature", "lidar->camera").weight == 1e-3
    assert load(STUDY, f"losses.feature.weight={{lidar->camera: {text}}}").losses["feature"] != study.losses["feature"]
    assert load(STUDY, f"schedule.lr={text}").schedule.lr == 1e-3


@pytest.mark.parametrize("text", ["010", "-017", "1:30", "1:30.5"])
def test_a_number_in_another_base_is_refused_unless_it_is_a_text(load, refusal, text):
    message = refusal(STUDY.replace("2.0", text))
    assert f"YAML reads {text} as a number in base" in message
    assert "line 5" in message
    assert f"--set schedule.lr: '{text}'" in refusal(STUDY, f"schedule.lr={text}")
    assert load(STUDY, f"data.version='{text}'").data.version == text


@pytest.mark.parametrize("value", ["1e-05", "1E3", "010", "1:30", "yes", 1e-05, 1e16, 8])
def test_what_is_written_is_read_as_it_was(value):
    again = read_yaml(yaml.dump([value], Dumper=Dumper))
    assert again == [value]
    assert type(again[0]) is type(value)


@pytest.mark.parametrize("text", ["x: &all [*all]", "x: &all {y: {z: *all}}", "x: " + 3000 * "["])
def test_what_never_ends_is_one_message(tmp_path, refusal, text):
    assert "is not valid YAML" in refusal(STUDY + text)
    assert "is not a YAML value" in refusal(STUDY, f"x={text.removeprefix('x: ')}")
    paper = tmp_path / "paper.yaml"
    paper.write_text(text)
    with pytest.raises(InputError, match="cannot be read"):
        read_paper(paper)


def test_a_part_may_be_used_twice(load):
    twice = "schedule: &short {steps: 5}\nsearch: {space: {schedule.lr: {choices: &rates [1e-3, 1e-2]}}}"
    study = load(STUDY.replace("schedule: {steps: 5}", twice + "\n"), "schedule.milestones=[&a 0.5, 0.6]")
    assert study.search.space["schedule.lr"].choices == (1e-3, 1e-2)
    assert read_yaml("a: &a [1]\nb: [*a, *a]") == {"a": [1], "b": [[1], [1]]}


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-2", (0, 1, 2)), ("[0-2, 7]", (0, 1, 2, 7)), ("[9 - 11]", (9, 10, 11)), ("[3, 1]", (3, 1))]
)
def test_seeds_may_be_a_range_with_both_its_ends(load, text, seeds):
    assert load(STUDY, f"seeds={text}").seeds == seeds
    search = "{space: {schedule.lr: {choices: [1, 2]}}, seeds: %s, confirm: {seeds: %s}}"
    loaded = load(STUDY, f"search={search % (text, text)}").search
    assert loaded.seeds == loaded.confirm.seeds == seeds


@pytest.mark.parametrize(
    "text",
    [
        *("-1", "[-1]", "3-1", "2-2", "0--2", "00-7", "0-2-4", "[1:3]", "[01]", "[0, 0-2]"),
        *("[yes]", "[true, false]", "[0.5]", "['3']", "[.inf]", "[]", "[null]"),
        *(f"0-{MOST_SEEDS}", "0-99999999999999999999", "[9223372036854775808]"),
    ],
)
def test_what_stands_for_no_seeds_is_refused(refusal, text):
    assert "seeds" in refusal(STUDY, f"seeds={text}")


@pytest.mark.parametrize("key", ["data.seed", "teachers.lidar.seed"])
@pytest.mark.parametrize("value", ["-1", "true", "0-2", "'7'", "0.5"])
def test_a_seed_is_a_whole_number_from_zero(refusal, key, value):
    assert refusal(STUDY, f"{key}={value}").startswith(f"--set {key}: ")


def test_the_line_of_a_mistake_is_said(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("steps: 5", "steps: true"))
    with pytest.raises(InputError, match=r"study\.yaml:1: schedule\.steps: "):
        load_study(path)
