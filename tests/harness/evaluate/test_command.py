"""The command takes the devkit's arguments, writes the devkit's files, and names what is wrong with a result."""

import json

import pytest
from typer.testing import CliRunner

SPLIT = "synthetic_val"


@pytest.fixture
def call(smoke_path, tmp_path):
    """Run the command on a result file's content, or on text."""
    from harness.evaluate.__main__ import app

    def call(content, *flags):
        path = tmp_path / "result.json"
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
    from detectors.batch import Inputs
    from harness.data.nuscenes import read
    from harness.evaluate.submission import write_submission

    boxes = {token: read(smoke_root, token, Inputs()).boxes for token in smoke_root.tokens(SPLIT)}
    return write_submission(tmp_path / "annotations.json", smoke_root, boxes, frozenset({"lidar"}))


def test_files_are_the_devkits(call, content, smoke_root, tmp_path):
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    run = call(content)
    assert run.exit_code == 0, run.output
    assert "NDS" in run.output
    config, result = config_factory("detection_cvpr_2019"), str(tmp_path / "result.json")
    theirs = tmp_path / "theirs"
    DetectionEval(smoke_root.devkit, config, result, SPLIT, str(theirs), verbose=False).main(render_curves=False)
    for name in ("metrics_summary.json", "metrics_details.json"):
        ours, wanted = (json.loads((folder / name).read_text()) for folder in (tmp_path / "out", theirs))
        ours.pop("eval_time", None), wanted.pop("eval_time", None)
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
    ("change", "said"),
    [
        ({"translation": [float("nan"), 0, 0]}, "translation of a box is not finite"),
        ({"translation": [1, 2]}, "another shape"),
        ({"size": [1, float("inf"), 1]}, "size of a box is not finite"),
        ({"size": [1, 0, 1]}, "size of a box is not positive"),
        ({"rotation": [0, 0, 0, 0]}, "rotation of a box has no length"),
        ({"rotation": [1, 0, 0]}, "another shape"),
        ({"velocity": [float("inf"), 0]}, "velocity of a box is infinite"),
        ({"detection_score": float("nan")}, "detection_score of a box is not finite"),
        ({"detection_score": "much"}, "another shape or type"),
        ({"detection_name": "cra"}, "unknown detection_name 'cra'; did you mean 'car'"),
        ({"attribute_name": "vehicle.flying"}, "unknown attribute_name 'vehicle.flying'"),
    ],
)
def test_a_bad_box_is_named(call, content, change, said):
    token = _box(content, **change)
    run = call(content)
    assert run.exit_code == 2
    assert said in run.stderr
    assert token in run.stderr


def test_a_velocity_may_be_unknown(call, content):
    _box(content, velocity=[float("nan"), float("nan")])
    assert call(content).exit_code == 0


def test_a_bad_file_is_named(call, content):
    token = next(iter(content["results"]))
    boxes = content["results"][token]
    for changed, said in [
        ("{", "no JSON"),
        ("[]", "no mapping 'meta'"),
        ({"meta": {}}, "no mapping 'results'"),
        ({**content, "results": {**content["results"], "another": []}}, "has not, such as another"),
        ({**content, "results": {k: v for k, v in content["results"].items() if k != token}}, f"such as {token}"),
        ({**content, "results": {**content["results"], token: boxes[:1] * 501}}, f"{token} has 501 boxes; at most 500"),
        ({**content, "results": {**content["results"], token: 3}}, f"sample {token}: its boxes are no list"),
        ({**content, "results": {**content["results"], token: [3]}}, f"sample {token}: a box is int"),
        ({**content, "results": {**content["results"], token: [{}]}}, f"sample {token}: a box lacks translation"),
    ]:
        run = call(changed)
        assert run.exit_code == 2, said
        assert said in run.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--eval_set", "synthetic_vall"], "did you mean 'synthetic_val'"),
        (["--dataroot", "/nowhere"], "/nowhere does not exist"),
        (["--config_path", "/nowhere.json"], "/nowhere.json cannot be read"),
        (["--output_dir", "/dev/null/x"], "cannot be made"),
    ],
)
def test_a_bad_argument_is_named(call, content, flags, said):
    run = call(content, *flags)
    assert run.exit_code == 2
    assert said in run.stderr
