"""Scoring is the devkit's: perfect boxes score perfectly, known errors come out as they went in."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from nuscenes.eval.common.utils import quaternion_yaw
from pyquaternion import Quaternion

from detectors.batch import Inputs
from detectors.geometry.boxes import CLASSES, Boxes, pad_boxes
from detectors.heads.center_loss import center_targets
from detectors.heads.decoding import decode
from detectors.presets import PRESETS, TINY_PRESETS
from harness.data.nuscenes import read
from harness.evaluate.columns import columns
from harness.evaluate.detection import detection_config, score
from harness.evaluate.figure import _devkit_boxes
from harness.evaluate.intervals import read_draws
from harness.evaluate.submission import write_submission
from harness.runs.folder import RunFolder
from tests.detectors.heads.perfect import perfect_output
from tests.harness.evaluate.sets import random_box

SPLIT = "synthetic_train"


@pytest.fixture
def score_boxes(smoke_root, tmp_path):
    """Write boxes (a function of the annotations of each sample) as a submission and score it."""

    def score_boxes(change, config="within_16m"):
        predictions = {}
        for token in smoke_root.tokens(SPLIT):
            predictions[token] = change(read(smoke_root, token, Inputs()).boxes)
        content = write_submission(tmp_path / "predictions.json", smoke_root, predictions, frozenset({"lidar"}))
        return score(smoke_root, SPLIT, content, config, RunFolder(tmp_path))

    return score_boxes


@pytest.fixture
def present(smoke_root):
    """Classes that have a box in the scored range, as ``AP/CLASS``; an absent class scores 0 whatever is predicted."""
    found = set()
    for token in smoke_root.tokens(SPLIT):
        boxes = read(smoke_root, token, Inputs()).boxes
        near = boxes.center[:, :2].norm(dim=1) < 15.5
        found |= {f"AP/{CLASSES[label]}" for label in boxes.label[near].tolist()}
    assert len(found) >= 8
    return sorted(found)


def test_annotations_score_perfectly(score_boxes, present):
    metrics = score_boxes(lambda boxes: boxes)
    assert all(metrics[name] > 0.999 for name in present)


@pytest.mark.parametrize("preset", sorted(TINY_PRESETS))
def test_annotations_through_head_targets_and_back_score_as_well(score_boxes, present, preset):
    spec = PRESETS[preset]

    def through(boxes):
        padded, is_box = pad_boxes([boxes])
        return decode(perfect_output(center_targets(padded, is_box, spec.head, spec.grid)), spec.head, spec.grid)[0]

    metrics = score_boxes(through)
    assert sum(metrics[name] for name in present) / len(present) >= 0.95


def test_shift_and_turn_come_out_as_translation_and_orientation_error(score_boxes, present):
    def disturb(boxes):
        shifted = boxes.center + torch.tensor([0.3, 0.0, 0.0])
        return replace(boxes, center=shifted, yaw=boxes.yaw + 0.2)

    clean, disturbed = score_boxes(lambda boxes: boxes), score_boxes(disturb)
    # A class without a true positive counts as an error of 1, disturbed or not.
    share = len(present) / 10
    assert disturbed["mATE"] - clean["mATE"] == pytest.approx(0.3 * share, abs=0.02)
    assert disturbed["mAOE"] - clean["mAOE"] == pytest.approx(0.2, abs=0.04)


def test_short_ranges_drop_what_is_beyond_them_and_nothing_else():
    official, short = detection_config("nuscenes"), detection_config("within_16m")
    assert official.class_range["car"] == 50
    assert set(short.class_range.values()) == {16}
    short.class_range = official.class_range
    assert short == official


@pytest.mark.parametrize(
    ("name", "speed", "attribute"),
    [
        ("car", 3.0, "vehicle.moving"),
        ("car", 0.1, "vehicle.parked"),
        ("bus", 0.1, "vehicle.stopped"),
        ("pedestrian", 1.0, "pedestrian.moving"),
        ("bicycle", 0.0, "cycle.without_rider"),
        ("barrier", 2.0, ""),
    ],
)
def test_attribute_follows_class_and_speed(smoke_root, tmp_path, name, speed, attribute):
    token = smoke_root.tokens(SPLIT)[0]
    box = Boxes(
        center=torch.tensor([[1.0, 2.0, 0.5]]),
        size=torch.tensor([[4.0, 2.0, 1.5]]),
        yaw=torch.tensor([math.pi / 2]),
        velocity=torch.tensor([[0.0, speed]]),
        label=torch.tensor([CLASSES.index(name)]),
        score=torch.tensor([0.5]),
    )
    path = tmp_path / "predictions.json"
    write_submission(path, smoke_root, {token: box}, frozenset({"camera"}))
    (entry,) = json.loads(path.read_text())["results"][token]
    assert entry["attribute_name"] == attribute
    # nuScenes stores width before length.
    assert entry["size"] == [2.0, 4.0, 1.5]
    assert math.hypot(*entry["velocity"]) == pytest.approx(speed, abs=0.02)


def test_the_metrics_in_draws_of_scenes_are_kept(score_boxes, tmp_path):
    metrics = score_boxes(lambda boxes: replace(boxes, center=boxes.center + torch.tensor([0.6, 0.0, 0.0])))
    drawn, scenes = read_draws(RunFolder(tmp_path).draws)
    assert scenes > 1
    assert {name: values.shape for name, values in drawn.items()} == dict.fromkeys(metrics, (1001,))
    assert {name: values[0] for name, values in drawn.items()} == pytest.approx(metrics, abs=1e-6)
    assert drawn["mAP"].std() > 0


def test_the_devkits_pictures_have_the_boxes_as_they_are():
    box = random_box(np.random.default_rng(0))
    (found,) = _devkit_boxes("a", columns([0], [{"sample_token": "a", **box}], ["a"]))["a"]
    assert found.translation == pytest.approx(box["translation"])
    assert found.size == pytest.approx(box["size"])
    assert quaternion_yaw(Quaternion(found.rotation)) == pytest.approx(quaternion_yaw(Quaternion(box["rotation"])))
    assert (found.detection_name, found.detection_score) == (box["detection_name"], box["detection_score"])
