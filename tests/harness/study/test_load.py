"""A study says exactly what it may say; anything else is one message with the place and the nearest allowed name."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.presets import PRESETS
from distill.feature import FeatureSpec
from distill.loss import PullSpec
from distill.relation import RelationSpec
from harness.errors import InputError
from harness.study.load import load_study
from harness.study.schedule import ScheduleSpec
from harness.study.spec import StudySpec

STUDIES = Path(__file__).parents[3] / "studies"
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
def study_text():
    return STUDY


def test_study_loads_with_defaults_and_weights_by_path(load):
    study = load()
    assert study.paths == ("lidar->camera",)
    assert study.seeds == (0,)
    assert study.schedule.batch_size == 8
    assert study.losses["feature"].at("lidar->camera") == {"weight": 2.0, "adapter": "conv3x3"}
    assert study.losses["relation"].at("lidar->camera") == {"weight": 40.0}


def test_a_weight_may_be_a_pull_of_all_paths_or_of_one(load):
    assert load(STUDY, "losses.feature.weight={pull: 0.3}").loss("feature", "lidar->camera").weight == PullSpec(
        pull=0.3
    )
    study = load(STUDY, "losses.feature.weight={lidar->camera: {pull: 0.3}, others: 2.0}")
    assert study.loss("feature", "lidar->camera").weight == PullSpec(pull=0.3)
    assert study.losses["feature"].at("radar->camera")["weight"] == 2.0
    study = load(STUDY, "losses.feature.weight={pull: 0.3}", "losses.feature.weight.pull=0.5")
    assert study.loss("feature", "lidar->camera").weight == PullSpec(pull=0.5)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        ("{pull: 0}", "{'pull': 0} is not a weight; allowed: a number of 0 or more"),
        ("{pull: -1.0}", "{'pull': -1.0} is not a weight"),
        ("{pull: much}", "{'pull': 'much'} is not a weight"),
        ("{pull: 1.0, push: 1.0}", "is not a weight"),
        ("{lidar->camera: {pull: 0}, others: 1.0}", "{'pull': 0} is not a weight"),
        ("{pulls: 1.0}", "{pull: SHARE} with a share above 0"),
    ],
)
def test_a_pull_that_is_none_is_refused(refusal, weight, words):
    message = refusal(STUDY.replace("weight: 2.0", f"weight: {weight}"))
    assert message.count("\n") == 0
    assert "study.yaml:9: losses.feature.weight" in message
    assert words in message


def test_a_pull_of_a_loss_that_ends_before_the_map_is_refused(refusal):
    text = STUDY.replace("both: [feature, relation]", "both: [feature, relation, depth]")
    message = refusal(text.replace("losses:", "losses:\n  depth: {weight: {pull: 0.5}}"))
    assert "study.yaml:9: losses.depth: DepthSpec ends before the student's low-level BEV map" in message


ORACLE = STUDY.replace("lidar: {preset: tiny_lidar}", "lidar: {oracle: true}").replace(
    "losses:", "losses:\n  response: {weight: 1}"
)


def test_an_oracle_needs_no_preset(load):
    study = load(ORACLE.replace("both: [feature, relation]", "both: [response]"))
    assert study.sensors(study.ends("lidar->camera")) == "annotations->camera"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ORACLE, "path lidar->camera, feature: teacher 'lidar' is an oracle, which has no BEV features to compare"),
        (ORACLE.replace("both: [feature, relation]", "both: [warm_start]"), "has no weights to start with"),
        (ORACLE.replace("{oracle: true}", "{oracle: true, preset: tiny_lidar}"), "preset has no effect"),
        (STUDY.replace("tiny_lidar}", "tiny_lidar, mirrored: true, trained: false}"), "are two controls"),
        (STUDY.replace("{preset: tiny_lidar}", "{}"), "needs either a preset or a detector"),
    ],
)
def test_a_control_that_cannot_be_is_refused(refusal, text, words):
    message = refusal(text)
    assert message.count("\n") == 0
    assert "study.yaml:" in message
    assert words in message


CONTROLS = STUDY.replace("preset: tiny_camera}", "preset: tiny_camera, longer_baseline: 1.5}")
CONTROLS += """\
controls:
  known: {row: lidar -> camera both, expect: gains, at_least: 2.0}
  longer: {row: "camera baseline, 1.5 x steps", expect: does not gain}
"""


def test_controls_are_of_rows_of_the_table(load):
    study = load(CONTROLS)
    assert study.rows_with_gains == ["lidar->camera both", "camera baseline, 1.5 x steps"]
    assert study.controls["known"].row == "lidar->camera both"
    assert (study.controls["known"].bound, study.controls["longer"].bound) == (2.0, 0.0)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("camera both", "camera bot", "controls.known.row: unknown row 'lidar->camera bot'; did you mean"),
        ("1.5 x", "1.4 x", "controls.longer.row: unknown row 'camera baseline, 1.4 x steps'"),
        ("expect: gains", "expect: gain", "did you mean 'gains'"),
        ("expect: gains", "expect: level", "at_least has no effect on expect: level"),
        ("at_least: 2.0", "within: 2.0", "within has no effect on expect: gains"),
        ("at_least: 2.0", "at_least: 0", "greater than 0"),
        (", expect: does not gain", "", "controls.longer.expect"),
    ],
)
def test_a_control_without_its_row_or_sense_is_refused(refusal, old, new, words):
    message = refusal(CONTROLS.replace(old, new))
    assert message.count("\n") == 0
    assert "study.yaml:1" in message
    assert words in message


def test_any_field_of_a_loss_may_differ_by_path(load):
    several = STUDY.replace("[lidar -> camera]", "[lidar->camera, lidar->radar]")
    several = several.replace("students:", "students:\n  radar: {preset: tiny_radar}")
    by_path = "{lidar->camera: 40, others: 3}\n    level: {lidar->radar: low}"
    several = several.replace("{lidar->camera: 40}", by_path)
    study = load(several)
    assert study.loss("relation", "lidar->camera") == RelationSpec(weight=40)
    assert study.loss("relation", "lidar->radar") == RelationSpec(weight=3, level="low")
    # What it says of other paths does not matter where they are not asked for.
    assert load(several, "paths=[lidar->camera]").loss("relation", "lidar->camera") == RelationSpec(weight=40)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("steps: 5", "stpes: 5", ["study.yaml:2", "'stpes'", "did you mean 'steps'"]),
        ("schedule:", "shedule:", ["study.yaml:2", "'shedule'", "did you mean 'schedule'"]),
        ("tiny_lidar", "tiny_lidr", ["study.yaml:4", "'tiny_lidr'", "did you mean 'tiny_lidar'"]),
        ("feature: {", "featur: {", ["study.yaml:9", "'featur'", "did you mean 'feature'"]),
        ("adapter:", "adaptor:", ["study.yaml:9", "'adaptor'", "did you mean 'adapter'"]),
        ("conv3x3", "conv5x5", ["study.yaml:9", "losses.feature.adapter", "conv3x3"]),
        ("lidar -> camera]", "radar -> camera]", ["study.yaml:7", "'radar'", "did you mean 'lidar'"]),
        ("lidar -> camera]", "lidar to camera]", ["study.yaml:7", "paths.0"]),
        ("[feature, relation]", "[feature, reltion]", ["study.yaml:13", "'reltion'", "did you mean 'relation'"]),
        (
            "both:",
            "all_combination:",
            ["study.yaml:13", "'all_combination'", "did you mean the design 'all_combinations'"],
        ),
        ("both:", "cumulativ:", ["study.yaml:13", "did you mean the design 'cumulative'"]),
        ("lidar -> camera]", "lidar -> camra]", ["study.yaml:7: path 'lidar->camra'", "did you mean 'camera'"]),
        (
            "steps: 5",
            "steps: 5.5",
            ["study.yaml:2: schedule.steps: Input should be a valid integer, not 5.5, a number with a fractional"],
        ),
        ("steps: 5", "steps: 5, precision: bf16-mixd", ["study.yaml:2", "not 'bf16-mixd'; did you mean 'bf16-mixed'?"]),
        ("[feature, relation]", "[feature, feature]", ["study.yaml:13", "arms.both", "twice"]),
        ("{lidar->camera: 40}", "{lidar->camera: 40, lidra->camera: 1}", ["did you mean 'lidar->camera'"]),
        ("adapter: conv3x3", "adapter: {radar->camera: none}", ["losses.feature.adapter", "unknown path"]),
        ("[feature, relation]", "[]", ["study.yaml:13", "baseline"]),
        ("both:", "baseline:", ["study.yaml:13", "'baseline'"]),
        ("{lidar->camera: 40}", "{camera->lidar: 40}", ["losses.relation.weight", "lidar->camera"]),
        ("weight: 2.0", "weight: -2.0", ["study.yaml:9", "losses.feature.weight", "-2.0 is not a weight"]),
        ("weight: 2.0", "weight: much", ["study.yaml:9", "'much' is not a weight"]),
        ("both:", "'a|b':", ["study.yaml:13", "a|b"]),
        ("lidar -> camera]", "lidar -> camera, lidar->camera]", ["contain a value twice"]),
        ("paths: [lidar -> camera]", "paths: []", ["belong together"]),
        ("steps: 5", "steps: 0", ["study.yaml:2", "schedule.steps", "greater than 0"]),
        ("steps: 5", "steps: 5, steps: 6", ["study.yaml:2", "'steps' is already given"]),
        ("steps: 5}", "steps: 5", ["not valid YAML"]),
        ("tiny_lidar}", "tiny_lidar, seed: pared}", ["study.yaml:4", "teachers.lidar.seed", "'paired'"]),
        ("tiny_lidar}", "tiny_lidar, seed: paired, checkpoint: x}", ["study.yaml:4", "cannot be 'paired'"]),
        ("schedule:", "data: {detection_config: within_5}\nschedule:", ["study.yaml:2", "data.detection_config"]),
        ("schedule:", "data: {detection_config: within_17m}\nschedule:", ["teachers.lidar", "within_16m, or less"]),
        ("steps: 5", "steps: 5, epochs: 2", ["study.yaml:2", "exactly one of steps and epochs"]),
        ("{steps: 5}", "{lr: 0.1}", ["study.yaml:2", "exactly one of steps and epochs"]),
        ("tiny_lidar}", "tiny_lidar, trained: false, checkpoint: x}", ["study.yaml:4", "exclude each other"]),
        ("tiny_camera}", "tiny_camera, longer_baseline: 0.5}", ["study.yaml:6", "greater than 1"]),
        ("[feature, relation]", "[warm_strat, relation]", ["study.yaml:13", "did you mean 'warm_start'"]),
        (
            "  both:",
            "  both: [warm_start]\nreport: {papers: [nowhere.yaml]}\nseeds: [1]\n#",
            ["nowhere.yaml cannot be"],
        ),
        ("schedule:", "data: {detection_config: nuscenes}\nschedule:", ["ends 16 m", "up to 50 m"]),
    ],
)
def test_mistake_names_place_and_what_is_allowed(refusal, old, new, words):
    assert old in STUDY
    message = refusal(STUDY.replace(old, new, 1))
    for part in words:
        assert part in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lidar": {"channels": 32}}, "feature: adapter 'none' cannot compare a student map of 64 channels"),
        ({"neck": {"coarse_width": 64}}, "warm_start: the student's neck cannot start as the teacher's"),
        ({"grid": {"cell": 1.6}}, "have different grids"),
    ],
)
def test_path_between_detectors_that_do_not_fit_is_refused_by_name(refusal, monkeypatch, change, words):
    teacher = PRESETS["tiny_lidar"]
    parts = {name: getattr(teacher, name).model_copy(update=fields) for name, fields in change.items()}
    monkeypatch.setitem(PRESETS, "tiny_lidar", teacher.model_copy(update=parts))
    text = STUDY.replace("adapter: conv3x3", "adapter: none").replace("[feature, relation]", "[warm_start, feature]")
    text = text if "neck" in change else text.replace("[warm_start, feature]", "[feature]")
    message = refusal(text)
    assert "path lidar->camera" in message
    assert words in message


def test_published_numbers_are_found_beside_the_study_and_checked(load, refusal, tmp_path):
    paper = tmp_path / "paper.yaml"
    text = STUDY + "report: {papers: [paper.yaml]}\n"
    paper.write_text("{name: A, title: B, venue: C, arxiv: D}")
    assert load(text).report.papers == (paper,)
    gain = "{path: lidar->camera, losses: [feature], mAP: 1, NDS: 1, mark: seen}"
    paper.write_text("{name: A, title: B, venue: C, arxiv: D, gains: [" + gain + "]}")
    assert "paper.yaml: gains.0.mark" in refusal(text)


def test_one_mistake_is_told_once(refusal):
    assert len(refusal(STUDY.replace("weight: 2.0", "weight: -2.0")).splitlines()) == 1
    assert len(refusal(STUDY.replace("feature: {", "featur: {")).splitlines()) == 1


def test_override_sets_nested_values_and_later_ones_win(load):
    study = load(STUDY, "schedule.steps=7", "schedule.lr=0.5", "schedule.steps=9", "seeds=[1, 2]")
    assert (study.schedule.steps, study.schedule.lr, study.seeds) == (9, 0.5, (1, 2))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("schedule.stpes=3", ["--set schedule.stpes", "did you mean 'steps'"]),
        ("schedule.steps.x=3", ["--set schedule.steps.x", "schedule.steps is not a mapping"]),
        ("schedule.steps", ["KEY=VALUE"]),
        ("schedule.steps=[", ["not a YAML value"]),
        ("schedule.steps=many", ["--set schedule.steps", "integer"]),
    ],
)
def test_bad_override_names_itself(refusal, override, words):
    message = refusal(STUDY, override)
    for part in words:
        assert part in message


@pytest.mark.parametrize("text", ["", "3", "- a", "\x00"])
def test_file_that_is_no_mapping_is_refused(refusal, text):
    assert "study.yaml" in refusal(text)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.yaml"):
        load_study(tmp_path / "nothing.yaml")


@given(key=st.text(st.characters(categories=("Ll",)), min_size=1, max_size=12), at=st.sampled_from(["", "schedule."]))
def test_any_key_is_either_a_field_or_refused_by_name(tmp_path_factory, key, at):
    path = tmp_path_factory.mktemp("study") / "study.yaml"
    path.write_text(STUDY)
    if key in (ScheduleSpec if at else StudySpec).model_fields:
        return
    with pytest.raises(InputError) as caught:
        load_study(path, [f"{at}{key}=1"])
    assert repr(key) in str(caught.value)


def test_published_weights_are_those_of_the_sensors_whatever_the_names(load):
    weights = ("losses.feature.weight=unidistill", "losses.relation.weight=unidistill")
    study = load(STUDY.replace("tiny_lidar", "tiny_camera_lidar"), *weights)
    assert study.sensors(study.ends("lidar->camera")) == "camera+lidar->camera"
    assert study.loss("feature", "lidar->camera").weight == 10
    assert study.loss("relation", "lidar->camera").weight == 5


def test_path_without_a_published_weight_is_refused(refusal):
    message = refusal(STUDY.replace("tiny_camera}", "tiny_radar}"), "losses.feature.weight=unidistill")
    assert "losses.feature.weight" in message
    assert "no weight of loss 'feature' for lidar->radar" in message


VARIANTS = """\
schedule: {steps: 5}
teachers:
  lidar: {preset: tiny_lidar}
students:
  camera: {preset: tiny_camera}
paths: [lidar->camera]
losses:
  feature: {weight: 1.0}
  fitnet: {loss: feature, weight: 2.0, region: map, norm: l2}
arms:
  points: [feature]
  map: [fitnet]
  two: [feature, fitnet]
"""


def test_a_loss_may_be_there_in_variants_with_names_of_their_own(load):
    study = load(VARIANTS)
    assert study.loss("fitnet", "lidar->camera") == FeatureSpec(weight=2.0, region="map", norm="l2")
    assert study.kind("fitnet") == study.kind("feature") == "feature"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("loss: feature", "loss: featur", ["study.yaml:9", "'featur'", "did you mean 'feature'"]),
        ("fitnet: {loss: feature, ", "fitnet: {", ["unknown loss 'fitnet'", "needs the field loss"]),
        ("norm: l2", "nrom: l2", ["study.yaml:9", "'nrom'", "did you mean 'norm'", "(in losses.fitnet)"]),
        ("norm: l2", "norm: l3", ["study.yaml:9", "losses.fitnet.norm", "'l1' or 'l2'"]),
        ("feature: {weight: 1.0}", "boxes: {loss: feature, weight: 1.0}", ["cannot be named 'boxes'"]),
    ],
)
def test_a_mistake_in_a_variant_is_named(refusal, old, new, words):
    assert old in VARIANTS
    message = refusal(VARIANTS.replace(old, new))
    assert all(part in message for part in words), message


def test_a_variant_takes_the_published_weight_of_its_loss(load):
    assert load(VARIANTS, "losses.fitnet.weight=unidistill").loss("fitnet", "lidar->camera").weight == 100


def test_a_camera_may_see_earlier_keyframes(load):
    study = load(STUDY.replace("{preset: tiny_camera}", "{preset: tiny_camera, keyframes: 2}"))
    assert study.students["camera"].detector_spec.inputs.keyframes == 2
    assert study.teachers["lidar"].detector_spec.inputs.keyframes == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "{preset: tiny_lidar}",
            "{preset: tiny_lidar, keyframes: 2}",
            ["teachers.lidar", "keyframes belong to cameras"],
        ),
        ("{preset: tiny_camera}", "{preset: tiny_camera, keyframes: 0}", ["students.camera.keyframes"]),
        (
            "tiny_lidar}\nstudents:\n  camera: {preset: tiny_camera}",
            "tiny_camera_lidar}\nstudents:\n  camera: {preset: tiny_camera, keyframes: 2}",
            ["lidar->camera", "cannot share a batch", "keyframes"],
        ),
    ],
)
def test_keyframes_that_make_no_sense_are_refused(refusal, old, new, words):
    assert old in STUDY
    message = refusal(STUDY.replace(old, new))
    assert all(part in message for part in words), message


def test_a_preset_may_be_set_otherwise_by_dotted_key_or_by_part(load):
    for changes in ("{lidar.sweeps: 1, lidar.widths: [8, 16, 24]}", "{lidar: {sweeps: 1, widths: [8, 16, 24]}}"):
        study = load(STUDY.replace("{preset: tiny_lidar}", f"{{preset: tiny_lidar, set: {changes}}}"))
        spec, preset = study.teachers["lidar"].detector_spec, PRESETS["tiny_lidar"]
        assert (spec.lidar.sweeps, spec.lidar.widths) == (1, (8, 16, 24))
        assert spec.model_copy(update={"lidar": preset.lidar}) == preset
        assert spec.lidar.depths == preset.lidar.depths


def test_a_detector_may_be_written_out(load):
    written = json.dumps({"detector": PRESETS["tiny_lidar"].model_dump(mode="json")})
    study = load(STUDY.replace("{preset: tiny_lidar}", written))
    assert study.teachers["lidar"].detector_spec == PRESETS["tiny_lidar"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("{preset: tiny_lidar, set: {lidar.wdths: [8]}}", ["set: lidar.wdths", "did you mean 'widths'", "(in lidar)"]),
        ("{preset: tiny_lidar, set: {lidr.widths: [8]}}", ["set: lidr.widths", "did you mean 'lidar'"]),
        ("{preset: tiny_lidar, set: {lidar.widths: much}}", ["set: lidar.widths: Input should be a valid tuple"]),
        ("{preset: tiny_lidar, set: {lidar.widths.x: 3}}", ["lidar.widths is (16, 32, 48) and has no fields"]),
        ("{preset: tiny_lidar, set: {lidar.widths: [8, 16]}}", ["set: lidar: 3 depths for 2 widths"]),
        ("{preset: tiny_lidar, set: {fusion: {channels: 8}}}", ["fusion is for detectors with two or more"]),
        ("{preset: tiny_lidar, detector: {lidar: {wdths: [8]}}}", ["'wdths'", "did you mean 'widths'"]),
        ("{seed: 1}", ["either a preset or a detector; neither is given"]),
        ("{preset: 'no_package.parts:SPEC'}", ["'no_package.parts' cannot be imported", "ModuleNotFoundError"]),
        ("{preset: 'detectors.presets:PRESETS'}", ["of type dict; expected a DetectorSpec"]),
        (
            "{preset: tiny_camera, keyframes: 2, set: {camera.keyframes: 3}}",
            ["are the same"],
        ),
    ],
)
def test_a_mistake_in_a_detector_names_the_key_and_what_is_allowed(refusal, given, words):
    message = refusal(STUDY.replace("{preset: tiny_lidar}", given))
    assert "study.yaml:4: " in message
    assert all(part in message for part in words), message


def test_a_detector_written_out_leaves_nothing_to_set(refusal):
    given = {"detector": PRESETS["tiny_lidar"].model_dump(mode="json")}
    for more, words in (
        ({"set": {"lidar.sweeps": 1}}, "set is for presets"),
        ({"preset": "tiny_lidar"}, "both are given"),
    ):
        assert words in refusal(STUDY.replace("{preset: tiny_lidar}", json.dumps(given | more)))


def test_a_loss_of_a_module_takes_its_own_fields(load):
    study = load(VARIANTS.replace("loss: feature, weight: 2.0, region: map, norm: l2", OUTSIDE))
    assert study.loss("fitnet", "lidar->camera") == RelationSpec(weight=2.0, level="low")


OUTSIDE = 'loss: "distill.relation:RelationSpec", weight: 2.0, level: low'


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("distill.relation:RelationSpec", "no_package:Spec", ["study.yaml:9", "no_package", "cannot be imported"]),
        (":RelationSpec", ":RelatonSpec", ["study.yaml:9", "did you mean 'RelationSpec'", "(in distill.relation)"]),
        (":RelationSpec", ":relation_loss", ["study.yaml:9", "of type function", "a subclass of distill.loss"]),
        ("relation:RelationSpec", "loss:DetectorLossSpec", ["study.yaml:9", "that has its build"]),
        ("level:", "levl:", ["study.yaml:9", "'levl'", "did you mean 'level'", "(in losses.fitnet)"]),
    ],
)
def test_a_mistake_in_a_loss_of_a_module_is_one_message(refusal, old, new, words):
    assert old in OUTSIDE
    outside = OUTSIDE.replace(old, new)
    message = refusal(VARIANTS.replace("loss: feature, weight: 2.0, region: map, norm: l2", outside))
    assert len(message.splitlines()) == 1
    assert all(part in message for part in words), message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("paths=[lidar=>camera]", "'lidar=>camera' is not a path; write TEACHER->STUDENT, such as lidar->camera"),
        ("paths=lidar->camera", "paths: expected a list, such as [lidar->camera]"),
        ("seeds=3", "--set seeds): expected a list, such as [3], or [0-3] for several seeds"),
        ("losses.feature=2.0", "losses.feature: expected keys with values, such as {key: value}, instead of 2.0"),
    ],
)
def test_what_people_write_first_is_answered_with_what_to_write(change, message):
    with pytest.raises(InputError) as error:
        load_study(STUDIES / "smoke.yaml", [change])
    assert message in str(error.value)


def test_the_name_of_a_study_is_answered_with_its_file(monkeypatch):
    monkeypatch.chdir(STUDIES.parent)
    with pytest.raises(InputError, match=r"study paths cannot be read: .*; did you mean studies/paths.yaml\?"):
        load_study(Path("paths"))


def test_a_file_that_cannot_be_read_is_named_once(tmp_path):
    with pytest.raises(InputError) as error:
        load_study(tmp_path / "unlike.yaml")
    assert str(error.value) == f"study {tmp_path / 'unlike.yaml'} cannot be read: No such file or directory"


def test_an_override_names_its_key_once(refusal):
    assert refusal(STUDY, "losses.feature.weight=x").startswith("--set losses.feature.weight: 'x' is not a weight")
    assert refusal(STUDY, "teachers.lidar.preset=3").startswith("--set teachers.lidar.preset: Input should be")
    # Below or above what was set, the key says more than the flag.
    assert refusal(STUDY, "schedule={steps: 0}").startswith("--set schedule: schedule.steps: ")


def test_the_misspelt_name_of_a_study_is_answered_with_the_nearest_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_study.yaml").write_text("{}")
    with pytest.raises(InputError, match=r"study my_studdy.yaml cannot be read: .*; did you mean my_study.yaml\?"):
        load_study(Path("my_studdy.yaml"))
    with pytest.raises(InputError) as error:
        load_study(Path("unlike.yaml"))
    assert "did you mean" not in str(error.value)


def test_losses_that_no_arm_contains_are_known(tmp_path):
    study = load_study(STUDIES / "smoke.yaml", ["losses.extra={loss: relation, weight: 1}"])
    assert study.unused_losses == ["extra"]
