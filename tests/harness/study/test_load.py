"""A study says exactly what it may say; anything else is one message with the place and the nearest allowed name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

STUDY = """\
# Does it load?
schedule: {steps: 5}
teachers:
  lidar: {preset: tiny_lidar}
students:
  camera: {preset: tiny_camera}
paths: [lidar -> camera]
losses:
  feature: {weight: 2.0, adapter: conv3x3}
  relation:
    weight: {lidar->camera: 40}
arms:
  both: [feature, relation]
"""


@pytest.fixture
def load(tmp_path):
    from harness.study.load import load_study

    def load(text=STUDY, *overrides):
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return load_study(path, overrides)

    return load


@pytest.fixture
def refusal(load):
    """The message of the InputError that a study or an override must end in."""
    from harness.errors import InputError

    def refusal(text=STUDY, *overrides):
        with pytest.raises(InputError) as caught:
            load(text, *overrides)
        return str(caught.value)

    return refusal


def test_study_loads_with_defaults_and_weights_by_path(load):
    study = load()
    assert study.paths == ("lidar->camera",)
    assert study.seeds == (0,)
    assert study.schedule.batch_size == 8
    assert study.losses["feature"].at("lidar->camera") == {"weight": 2.0, "adapter": "conv3x3"}
    assert study.losses["relation"].at("lidar->camera") == {"weight": 40.0}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("steps: 5", "stpes: 5", ["study.yaml:2", "'stpes'", "did you mean 'steps'"]),
        ("schedule:", "shedule:", ["study.yaml:2", "'shedule'", "did you mean 'schedule'"]),
        ("tiny_lidar", "tiny_lidr", ["study.yaml:4", "'tiny_lidr'", "did you mean 'tiny_lidar'"]),
        ("feature: {", "featur: {", ["study.yaml:8", "'featur'", "did you mean 'feature'"]),
        ("adapter:", "adaptor:", ["study.yaml:9", "'adaptor'", "did you mean 'adapter'"]),
        ("conv3x3", "conv5x5", ["study.yaml:9", "losses.feature.adapter", "conv3x3"]),
        ("lidar -> camera]", "radar -> camera]", ["'radar'", "did you mean 'lidar'"]),
        ("lidar -> camera]", "lidar to camera]", ["study.yaml:7", "paths.0"]),
        ("[feature, relation]", "[feature, reltion]", ["study.yaml:12", "'reltion'", "did you mean 'relation'"]),
        ("[feature, relation]", "[feature, feature]", ["study.yaml:12", "twice"]),
        ("[feature, relation]", "[]", ["study.yaml:12", "baseline"]),
        ("both:", "baseline:", ["study.yaml:12", "'baseline'"]),
        ("{lidar->camera: 40}", "{camera->lidar: 40}", ["losses.relation.weight", "lidar->camera"]),
        ("weight: 2.0", "weight: -2.0", ["study.yaml:9", "losses.feature.weight", "-2.0 is no weight"]),
        ("weight: 2.0", "weight: much", ["study.yaml:9", "'much' is no weight"]),
        ("both:", "'a|b':", ["study.yaml:13", "a|b"]),
        ("lidar -> camera]", "lidar -> camera, lidar->camera]", ["name one twice"]),
        ("paths: [lidar -> camera]", "paths: []", ["belong together"]),
        ("steps: 5", "steps: 0", ["study.yaml:2", "schedule.steps", "greater than 0"]),
        ("steps: 5", "steps: 5, steps: 6", ["study.yaml:2", "'steps' is already given"]),
        ("steps: 5}", "steps: 5", ["not valid YAML"]),
        ("tiny_lidar}", "tiny_lidar, seed: pared}", ["study.yaml:4", "teachers.lidar.seed", "'paired'"]),
        ("tiny_lidar}", "tiny_lidar, seed: paired, checkpoint: x}", ["study.yaml:4", "cannot be 'paired'"]),
        ("schedule:", "data: {detection_config: within_5}\nschedule:", ["study.yaml:2", "data.detection_config"]),
        ("schedule:", "data: {detection_config: within_17m}\nschedule:", ["teachers.lidar", "within_16m, or less"]),
        ("schedule:", "data: {detection_config: nuscenes}\nschedule:", ["ends 16 m", "up to 50 m"]),
    ],
)
def test_mistake_names_place_and_what_is_allowed(refusal, old, new, said):
    assert old in STUDY
    message = refusal(STUDY.replace(old, new, 1))
    for part in said:
        assert part in message


def test_one_mistake_is_told_once(refusal):
    assert len(refusal(STUDY.replace("weight: 2.0", "weight: -2.0")).splitlines()) == 1
    assert len(refusal(STUDY.replace("feature: {", "featur: {")).splitlines()) == 1


def test_override_sets_nested_values_and_later_ones_win(load):
    study = load(STUDY, "schedule.steps=7", "schedule.lr=0.5", "schedule.steps=9", "seeds=[1, 2]")
    assert (study.schedule.steps, study.schedule.lr, study.seeds) == (9, 0.5, (1, 2))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("schedule.stpes=3", ["--set schedule.stpes", "did you mean 'steps'"]),
        ("schedule.steps.x=3", ["--set schedule.steps.x", "schedule.steps is not a mapping"]),
        ("schedule.steps", ["KEY=VALUE"]),
        ("schedule.steps=[", ["not a YAML value"]),
        ("schedule.steps=many", ["--set schedule.steps", "integer"]),
    ],
)
def test_bad_override_names_itself(refusal, override, said):
    message = refusal(STUDY, override)
    for part in said:
        assert part in message


@pytest.mark.parametrize("text", ["", "3", "- a", "\x00"])
def test_file_that_is_no_mapping_is_refused(refusal, text):
    assert "study.yaml" in refusal(text)


def test_missing_file_is_refused(tmp_path):
    from harness.errors import InputError
    from harness.study.load import load_study

    with pytest.raises(InputError, match=r"nothing\.yaml"):
        load_study(tmp_path / "nothing.yaml")


@given(key=st.text(st.characters(categories=("Ll",)), min_size=1, max_size=12), at=st.sampled_from(["", "schedule."]))
def test_any_key_is_either_a_field_or_refused_by_name(tmp_path_factory, key, at):
    from harness.errors import InputError
    from harness.study.load import load_study
    from harness.study.spec import ScheduleSpec, StudySpec

    path = tmp_path_factory.mktemp("study") / "study.yaml"
    path.write_text(STUDY)
    if key in (ScheduleSpec if at else StudySpec).model_fields:
        return
    with pytest.raises(InputError) as caught:
        load_study(path, [f"{at}{key}=1"])
    assert repr(key) in str(caught.value)
