"""Samples as detectors see them: hits, misses and false alarms are the evaluation's own, and drawn where they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from nuscenes.eval.detection.utils import category_to_detection_name

from detectors.batch import CameraViews
from detectors.geometry.grid import BevGrid
from harness.evaluate.annotations import annotations
from harness.evaluate.columns import Annotations, BoxColumns, Split
from harness.evaluate.detection import detection_config
from harness.evaluate.metrics import compare
from harness.evidence.runs import StudyRuns
from harness.report.sample_drawing import DISTANCE, best_threshold, choose, counts, judged, outlines
from harness.report.samples import samples, trio
from harness.runs.folder import Result, RunFolder
from harness.study.load import load_study
from harness.study.plan import plan_study

CAR, TRUCK = 0, 1


@pytest.fixture
def columns():
    """Boxes of samples: ``columns((sample, label, x, score), ...)``, 4 m long and 2 m wide, at y = 0, ahead."""

    def columns(*rows, annotated=False):
        table = np.array(rows, dtype=float).reshape(-1, 4)
        n = len(table)
        boxes = BoxColumns(
            sample=table[:, 0].astype(np.int64),
            label=table[:, 1].astype(np.int64),
            center=np.stack([table[:, 2], np.zeros(n), np.zeros(n)], axis=1),
            size=np.tile([2.0, 4.0, 1.5], (n, 1)),
            yaw=np.zeros(n),
            velocity=np.zeros((n, 2)),
            attribute=np.full(n, -1),
            score=table[:, 3],
        )
        ones = np.ones(n, dtype=np.int64)
        return Annotations.of(boxes, ones, ones) if annotated else boxes

    return columns


@pytest.fixture
def matched(columns):
    """Two samples. The first: a car at 5 m and a truck at 10 m; the second: a car at 5 m."""
    split = Split(("a", "b"), np.array([0, 1]), np.zeros((2, 3)), np.empty(0, np.int64), np.empty((0, 10)))
    truth = columns((0, CAR, 5, -1), (0, TRUCK, 10, -1), (1, CAR, 5, -1), annotated=True)
    predicted = columns(
        (0, CAR, 6.5, 0.9),  # 1.5 m off: a hit at 2 m
        (0, CAR, 5.0, 0.8),  # nearer, but a better one has found that car
        (0, CAR, 10, 0.7),  # on the truck, but no truck
        (0, TRUCK, 12.5, 0.6),  # 2.5 m off
        (0, CAR, 15.9, 0.65),  # nothing there
        (0, CAR, 16.5, 0.95),  # beyond what is scored
        (0, TRUCK, 10.5, 0.2),  # a hit with a low score
        (1, CAR, 5.0, 0.85),
    )
    return compare(split, truth, predicted, detection_config("within_16m"))


def _at():
    return detection_config("within_16m").dist_ths.index(DISTANCE)


def test_hits_misses_and_false_alarms_are_counted_by_hand(matched):
    found = judged(matched, 0, _at(), 0.5)
    assert counts(found) == "1 hit, 1 miss, 4 false alarms"
    assert found["hit"].center[:, 0].tolist() == [6.5]
    assert found["miss"].center[:, 0].tolist() == [10.0]
    assert counts(judged(matched, 0, _at(), 0.1)) == "2 hits, 0 misses, 4 false alarms"
    assert counts(judged(matched, 0, _at(), 0.99)) == "0 hits, 2 misses, 0 false alarms"
    assert counts(judged(matched, 1, _at(), 0.5)) == "1 hit, 0 misses, 0 false alarms"


def test_the_threshold_has_the_best_f1(matched):
    # With 0.9 and 0.85 kept: 2 hits, 2 detections, 3 annotations, 4 / 5; the third hit comes after four false alarms.
    assert best_threshold(matched, _at()) == 0.85


def test_samples_are_spread_over_those_with_enough_annotations(matched):
    assert choose(matched, 3) == [0], "the other has fewer than the middle"


def test_a_box_is_drawn_where_it_is_and_ahead_is_up(columns):
    grid = BevGrid(x_range=(-10.0, 20.0), y_range=(-21.0, 21.0), z_range=(-3.0, 5.0), cell=1.0)
    # Cameras look ahead: x right is y to the right, y down is z down, z is x; 10 pixels a metre at 1 m.
    turn = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    intrinsics = torch.tensor([[10.0, 0, 30], [0, 10, 20], [0, 0, 1]])
    views = CameraViews(
        images=torch.zeros(6, 3, 40, 60, dtype=torch.uint8),
        intrinsics=intrinsics.expand(6, 3, 3),
        ego_from_camera=turn.expand(6, 4, 4),
        age=torch.zeros(6),
    )
    above, tiles = outlines(
        {"hit": columns((0, CAR, 7, 0.5)), "miss": columns((0, CAR, -8, -1))}, np.eye(4), views, grid
    )
    # 420 pixels are 42 m: 10 a metre. The front of the first is 9 m ahead, 11 m from the upper edge, 1 m to each side.
    assert [outline.kind for outline in above] == ["hit", "miss"]
    assert above[0].path.startswith("M200.0 110.0L220.0 110.0L220.0 150.0L200.0 150.0Z")
    assert [outline.title for outline in above] == ["car 0.50", "car"]
    # Its rear is 5 m ahead, where 2 m are 4 pixels; what lies behind the car is in no image.
    assert [[outline.kind for outline in tile.outlines] for tile in tiles] == [["hit"]] * 6
    assert "M28.0 18.5L32.0 18.5L32.0 21.5L28.0 21.5Z" in tiles[0].outlines[0].path
    assert [(tile.x, tile.y) for tile in tiles] == [(0, 0), (60, 0), (120, 0), (0, 40), (60, 40), (120, 40)]


@pytest.fixture
def studied(smoke_root, tmp_path):
    """A study of which all is done, every detector having found all annotations: study, plan and run folders."""
    study = load_study(Path(__file__).parents[3] / "studies" / "smoke.yaml", [])
    plan = plan_study(study, smoke_root.fingerprint(), int)
    split, _ = annotations(smoke_root, study.data.eval_split)
    results = {token: _as_found(smoke_root, token) for token in split.tokens}
    for id_ in plan.jobs:
        run = RunFolder(tmp_path / "runs" / id_)
        run.write("predictions.json", {"meta": {}, "results": results})
        run.complete(Result({"mAP": 0.5, "NDS": 0.5}, 5, 1.0, {}))
    return study, plan, tmp_path / "runs"


def _as_found(root, token):
    found = []
    for annotation_token in root.devkit.get("sample", token)["anns"]:
        annotation = root.devkit.get("sample_annotation", annotation_token)
        name = category_to_detection_name(annotation["category_name"])
        if name is not None and annotation["num_lidar_pts"] + annotation["num_radar_pts"]:
            box = {key: annotation[key] for key in ("translation", "size", "rotation")}
            more = {"detection_name": name, "detection_score": 0.5, "attribute_name": "", "velocity": [0.0, 0.0]}
            found.append({"sample_token": token, **box, **more})
    return found


def test_pictures_of_a_study_are_kept_for_its_trainings(studied, smoke_root, tmp_path):
    study, plan, folder = studied
    runs = StudyRuns.open(plan, folder)
    detectors = trio(runs)
    assert [plan.jobs[id_].label.split(" · ")[1] for id_ in detectors.values()][:2] == ["teacher", "baseline"]
    drawn = samples(smoke_root, study, runs, detectors, tmp_path, count=2)
    assert drawn.shown
    for shown in drawn.shown:
        assert [view.job for view in shown.views] == list(detectors.values())
        assert all(view.counts.endswith("hits, 0 misses, 0 false alarms") for view in shown.views)
        assert all(len(view.bev) == int(view.counts.split()[0]) for view in shown.views)
        assert shown.cameras.uri.startswith("data:image/webp;base64,")
    assert samples(None, study, runs, detectors, tmp_path, count=2) == drawn, "without the dataset, from the file"
    (tmp_path / "samples.json").write_text('{"known": 3')
    absent = samples(None, study, runs, detectors, tmp_path, count=2)
    assert absent.shown == ()
    assert "dataset is not available" in absent.words[0]


def test_what_is_missing_is_said(studied, smoke_root, tmp_path):
    study, plan, folder = studied
    runs = StudyRuns.open(plan, folder)
    detectors = trio(runs)
    (folder / next(iter(detectors.values())) / "predictions.json").unlink()
    said = samples(smoke_root, study, runs, detectors, tmp_path / "out")
    assert "predictions.json" in said.words[0]
    assert not (tmp_path / "out" / "samples.json").exists(), "another time it may be there"
    (folder / plan.rows[0].job / "result.json").unlink()
    runs = StudyRuns.open(plan, folder)
    assert trio(runs) == {}
    assert "No finished student" in samples(smoke_root, study, runs, {}, tmp_path).words[0]
