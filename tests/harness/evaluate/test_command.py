"""The command takes the devkit's arguments, writes the devkit's files, and names what is wrong with a result."""

import json
import random
import re
from pathlib import Path

import pytest
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
from typer.testing import CliRunner

from detectors.batch import Inputs
from harness.data.nuscenes import read
from harness.evaluate.__main__ import _titles, app
from harness.evaluate.submission import write_submission
from tests.cases import mostly_slow

SPLIT = "synthetic_val"


@pytest.fixture
def call(smoke_path, tmp_path):
    """Run the command on a result file's content, or on text."""

    def call(content, *flags):
        path = content if isinstance(content, Path) else tmp_path / "result.json"
        if path != content:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        where = ["--output_dir", str(tmp_path / "out"), "--dataroot", str(smoke_path), "--version", "v1.0-synthetic"]
        return CliRunner().invoke(
            app,
            [
                str(path),
                *where,
                "--eval_set",
                SPLIT,
                "--render_curves",
                "0",
                "--plot_examples",
                "0",
                "--resamples",
                "20",
                *flags,
            ],
        )

    return call


@pytest.fixture
def content(smoke_root, tmp_path):
    """A result file's content: the annotations."""
    boxes = {token: read(smoke_root, token, Inputs()).boxes for token in smoke_root.tokens(SPLIT)}
    return write_submission(tmp_path / "annotations.json", smoke_root, boxes, frozenset({"lidar"}))


def test_files_are_the_devkits(call, content, smoke_root, tmp_path):
    run = call(content)
    assert run.exit_code == 0, run.output
    assert "NDS" in run.output
    config, result = config_factory("detection_cvpr_2019"), str(tmp_path / "result.json")
    theirs = tmp_path / "theirs"
    DetectionEval(smoke_root.devkit, config, result, SPLIT, str(theirs), verbose=False).main(render_curves=False)
    for name in ("metrics_summary.json", "metrics_details.json"):
        ours, wanted = (json.loads((folder / name).read_text()) for folder in (tmp_path / "out", theirs))
        if name == "metrics_summary.json":
            assert ours.pop("eval_time") > 0 < wanted.pop("eval_time")
        assert _rounded(ours) == _rounded(wanted)


def _rounded(tree):
    if isinstance(tree, dict):
        return {key: _rounded(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_rounded(value) for value in tree]
    return f"{tree:.11g}" if isinstance(tree, float) else tree


def _box(content, **change):
    token = next(token for token, boxes in content["results"].items() if boxes)
    content["results"][token][0] |= change
    return token


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"translation": [float("nan"), 0, 0]}, "translation of a box is not finite"),
        ({"translation": [1, 2]}, "wrong shape"),
        ({"size": [1, float("inf"), 1]}, "size of a box is not finite"),
        ({"size": [1, 0, 1]}, "size of a box is not positive"),
        ({"rotation": [0, 0, 0, 0]}, "rotation of a box has no length"),
        ({"rotation": [1, 0, 0]}, "wrong shape"),
        ({"velocity": [float("inf"), 0]}, "velocity of a box is infinite"),
        ({"detection_score": float("nan")}, "detection_score of a box is not finite"),
        ({"detection_score": "much"}, "wrong shape or type"),
        ({"detection_score": "0.5"}, "wrong shape or type"),
        ({"detection_score": True}, "wrong shape or type"),
        ({"detection_score": None}, "wrong shape or type"),
        ({"detection_score": 10**400}, "is not finite|wrong shape or type"),
        ({"detection_score": -0.5}, "detection_score of a box is negative"),
        ({"translation": "123"}, "wrong shape"),
        ({"translation": {"1": 0, "2": 0, "3": 0}}, "wrong shape"),
        ({"translation": [1, [2], 3]}, "wrong shape"),
        ({"velocity": [None, None]}, "wrong shape"),
        ({"sample_token": "another"}, "sample_token 'another'; it must be that of its sample"),
        ({"sample_token": None}, "sample_token None"),
        ({"detection_name": "cra"}, "unknown detection_name 'cra'; did you mean 'car'"),
        ({"attribute_name": "vehicle.flying"}, "unknown attribute_name 'vehicle.flying'"),
    ],
)
def test_a_bad_box_is_named(call, content, change, message):
    token = _box(content, **change)
    run = call(content)
    assert run.exit_code == 2
    assert re.search(message, run.stderr), run.stderr
    assert token in run.stderr


def test_a_box_without_its_samples_token_is_named(call, content):
    token = next(token for token, boxes in content["results"].items() if boxes)
    del content["results"][token][0]["sample_token"]
    run = call(content)
    assert run.exit_code == 2
    assert f"sample {token}: a box has sample_token None" in run.stderr


@pytest.mark.parametrize("inside", [b"\xff", b"[" * 100_000])
def test_what_is_no_text_in_the_middle_of_a_file_is_named(call, content, tmp_path, inside):
    whole = json.dumps(content).encode()
    path = tmp_path / "bad.json"
    path.write_bytes(whole.replace(b'"attribute_name": "', b'"attribute_name": "' + inside, 1))
    if inside.startswith(b"["):
        path.write_bytes(whole.replace(b'"attribute_name": "', b'"more": ' + inside + b', "attribute_name": "', 1))
    run = call(path)
    assert run.exit_code == 2
    assert "not valid JSON" in run.stderr


def test_a_velocity_may_be_unknown(call, content):
    _box(content, velocity=[float("nan"), float("nan")])
    assert call(content).exit_code == 0


def test_a_bad_file_is_named(call, content):
    token = next(iter(content["results"]))
    boxes = content["results"][token]
    for changed, message in [
        ("{", "not valid JSON"),
        ("[]", "no mapping 'meta'"),
        ({"meta": {}}, "no mapping 'results'"),
        ({**content, "results": {**content["results"], "another": []}}, "not in the split, such as another"),
        ({**content, "results": {k: v for k, v in content["results"].items() if k != token}}, f"such as {token}"),
        ({**content, "results": {**content["results"], token: boxes[:1] * 501}}, f"{token} has 501 boxes; at most 500"),
        ({**content, "results": {**content["results"], token: 3}}, f"sample {token}: its boxes are not a list"),
        ({**content, "results": {**content["results"], token: [3]}}, f"sample {token}: a box is int"),
        ({**content, "results": {**content["results"], token: [{}]}}, f"sample {token}: a box lacks translation"),
    ]:
        run = call(changed)
        assert run.exit_code == 2, message
        assert message in run.stderr


def _worse(content):
    """The result with every third box away from where it was, and scores by the order in the file."""
    changed = json.loads(json.dumps(content))
    for boxes in changed["results"].values():
        for number, box in enumerate(boxes):
            box["detection_score"] = 1 / (2 + number)
            box["translation"][0] += 3.0 * (number % 3 == 0)
    return changed


def test_one_result_against_another(call, content, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps(_worse(content)))
    run = call(content, "--against", str(other))
    assert run.exit_code == 0, run.output
    assert "localisation" in run.output
    # Errors in their own units, precisions in points.
    assert re.search(r"mASE +0\.\d{3} +0\.\d{3} +[+-]0\.\d{3}", run.output)
    assert re.search(r"mAP +\d+\.\d +\d+\.\d +\+\d+\.\d ", run.output)
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert list(found["results"]) == ["result", "other"]
    one, two = (found["results"][title]["metrics"]["mAP"] for title in ("result", "other"))
    gap = found["difference"]["metrics"]["mAP"]
    assert gap["value"] == pytest.approx(one["value"] - two["value"])
    assert found["counts"]["class"]["car"]["annotations"] > 0
    assert gap["value"] > 0.1
    assert found["difference"]["what errors cost"]["localisation"]["value"] < 0
    assert (tmp_path / "out" / "analysis.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", mostly_slow(["_a", "a$b$", "annotations", "difference"], "a$b$"))
def test_any_name_of_a_file_will_do(call, content, tmp_path, name):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(content))
    run = call(path, "--against", str(path.with_name("other.json").resolve()))
    assert run.exit_code == 2  # there is none yet
    path.with_name("other.json").write_text(json.dumps(_worse(content)))
    run = call(path, "--against", str(path.with_name("other.json")))
    assert run.exit_code == 0, run.output
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert list(found["results"]) == [name, "other"]


def test_few_scenes_have_no_intervals(call, content, tmp_path):
    run = call(content)
    assert "Fewer than 10 scenes: no intervals" in run.output
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())["results"]["result"]["metrics"]["mAP"]
    assert found["value"] > 0.5
    assert found["low"] is None


def test_a_result_against_itself_differs_in_nothing(call, content, tmp_path):
    run = call(content, "--against", str(tmp_path / "result.json"))
    assert run.exit_code == 0, run.output
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())["difference"]
    assert {number["value"] for group in found.values() for number in group.values()} == {0.0}


def test_what_is_wrong_with_the_other_result_is_said_of_it(call, content, tmp_path):
    other = tmp_path / "other.json"
    changed = _worse(content)
    token = _box(changed, size=[1, 0, 1])
    other.write_text(json.dumps(changed))
    run = call(content, "--against", str(other))
    assert run.exit_code == 2
    assert f"--against {other}: sample {token}: size of a box is not positive" in run.stderr
    assert not (tmp_path / "out").exists()


def test_without_draws_there_is_what_the_devkit_writes_and_no_more(call, content, tmp_path):
    run = call(content, "--resamples", "0")
    assert run.exit_code == 0, run.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics_summary.json", "metrics_details.json"}


@pytest.mark.slow
def test_the_devkits_pictures_are_drawn(call, content, tmp_path, smoke_root):
    run = call(content, "--plot_examples", "2", "--render_curves", "1", "--resamples", "0")
    assert run.exit_code == 0, run.output
    tokens = smoke_root.tokens(SPLIT)
    random.Random(42).shuffle(tokens)
    assert {path.stem for path in (tmp_path / "out" / "examples").glob("*.png")} == set(tokens[:2])
    assert (tmp_path / "out" / "plots" / "car_pr.pdf").is_file()


CONFIG_CHANGES = [
    ({"dist_fcn": "iou"}, "dist_fcn: Input should be 'center_distance'"),
    ({"min_recall": -0.5}, "min_recall"),
    ({"min_recall": 0.995}, "min_recall"),
    ({"min_recall": "0.1"}, "min_recall: Input should be a valid number"),
    ({"min_precision": 1}, "min_precision"),
    ({"max_boxes_per_sample": None}, "max_boxes_per_sample"),
    ({"class_range": "50"}, "class_range"),
    ({"class_range": {"car": 50}}, "class_range must have exactly these classes"),
    ({"dist_ths": []}, "dist_ths"),
    ({"dist_ths": ["a", 2.0]}, "dist_ths.0"),
    ({"dist_ths": [2.0, 2.0]}, "dist_ths: [2.0, 2.0] contain a value twice"),
    ({"dist_ths": [0.5, 1.0]}, "dist_th_tp 2.0 is not one of"),
    ({"mean_ap_weight": -5}, "mean_ap_weight"),
    ({"more": 1}, "more"),
]


@pytest.mark.parametrize(("change", "message"), CONFIG_CHANGES)
def test_a_bad_configuration_is_named(call, content, tmp_path, change, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_factory("detection_cvpr_2019").serialize() | change))
    run = call(content, "--config_path", str(path))
    assert run.exit_code == 2
    assert message in run.stderr
    assert str(path) in run.stderr


def test_a_configuration_of_ones_own_is_used(call, content, tmp_path):
    path = tmp_path / "config.json"
    own = {"dist_ths": [1.0, 3.0], "dist_th_tp": 3.0, "min_recall": 0.2, "mean_ap_weight": 2}
    path.write_text(json.dumps(config_factory("detection_cvpr_2019").serialize() | own))
    assert call(content, "--config_path", str(path)).exit_code == 0
    found = json.loads((tmp_path / "out" / "metrics_summary.json").read_text())
    assert found["cfg"]["dist_ths"] == [1.0, 3.0]
    assert set(found["label_aps"]["car"]) == {"1.0", "3.0"}


def test_results_of_jobs_are_called_what_their_jobs_are(tmp_path):
    paths = [tmp_path / name / "predictions.json" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
    assert _titles(paths) == ["a", "b"]
    assert _titles([paths[0], paths[0]]) == ["A", "B"]
    assert _titles([tmp_path / "x.json", tmp_path / "y.json"]) == ["x", "y"]
    (paths[0].parent / "job.json").write_text("[]")
    (paths[1].parent / "job.json").write_text("{")
    assert _titles(paths) == ["a", "b"]
    for path, label in zip(paths, ("student", "baseline"), strict=True):
        (path.parent / "job.json").write_text(json.dumps({"label": label}))
    assert _titles(paths) == ["student", "baseline"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eval_set", "synthetic_vall"], "did you mean 'synthetic_val'"),
        (["--dataroot", "/nowhere"], "/nowhere does not exist"),
        (["--config_path", "/nowhere.json"], "/nowhere.json cannot be read"),
        (["--config_path", "within_16"], "within_16 cannot be read"),
        (["--output_dir", "/dev/null/x"], "cannot be written"),
        (["--against", "/nowhere.json"], "result file /nowhere.json cannot be read"),
        (["--against", "/nowhere.json", "--resamples", "0"], "--against needs --resamples"),
        (["--resamples", "1"], "one draw has no spread"),
        (["--output_dir", "/proc/self"], "cannot be written"),
    ],
)
def test_a_bad_argument_is_named(call, content, flags, message):
    run = call(content, *flags)
    assert run.exit_code == 2
    assert message in run.stderr
