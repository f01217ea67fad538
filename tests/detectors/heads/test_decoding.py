"""Decoding task by task equals a plain walk over cells and pairs of boxes."""

import math

import pytest
import torch
from torch.testing import assert_close

from detectors.geometry.boxes import CLASSES
from detectors.geometry.overlap import bev_iou
from detectors.heads.center import TASK_GROUPS, CenterHeadSpec, TaskDecodingSpec
from detectors.heads.decoding import decode
from detectors.outputs import HeadOutput

CAR, TRUCK, CONSTRUCTION, PEDESTRIAN = (
    CLASSES.index(name) for name in ("car", "truck", "construction_vehicle", "pedestrian")
)


def _spec(iou=False, max_boxes=500, **fields):
    decoding = TaskDecodingSpec(**fields)
    return CenterHeadSpec(width=8, branches="separate", average="task", iou=iou, max_boxes=max_boxes, decoding=decoding)


def _maps(grid, samples=1):
    """Head maps without anything above the threshold; boxes along x, 4 m by 2 m."""
    boxes = torch.zeros(samples, len(TASK_GROUPS), 10, grid.rows, grid.columns)
    boxes[:, :, :2] = 0.5
    boxes[:, :, 3], boxes[:, :, 4], boxes[:, :, 7] = math.log(4), math.log(2), 1.0
    iou = torch.zeros(samples, len(TASK_GROUPS), grid.rows, grid.columns)
    return HeadOutput(torch.full((samples, len(CLASSES), grid.rows, grid.columns), -10.0), boxes, iou)


def _decoded(maps, spec, grid):
    (boxes,) = decode(maps, spec, grid)
    return [
        (CLASSES[label], round(score, 2))
        for label, score in zip(boxes.label.tolist(), boxes.score.tolist(), strict=True)
    ]


def _put(maps, label, row, column, score):
    maps.heatmap[0, label, row, column] = math.log(score / (1 - score))


def test_classes_of_a_task_suppress_one_another_and_tasks_do_not(grid):
    maps = _maps(grid)
    for label, score in ((TRUCK, 0.9), (CONSTRUCTION, 0.6), (CAR, 0.5)):
        _put(maps, label, 5, 5, score)
    assert _decoded(maps, _spec(), grid) == [("truck", 0.9), ("car", 0.5)]


def test_cells_that_are_no_peaks_are_candidates(grid):
    # CenterPoint takes the best cells; that they are neighbours, only their boxes' overlap can tell.
    maps = _maps(grid)
    maps.boxes[:, :, 3:5] = math.log(0.5)
    _put(maps, PEDESTRIAN, 5, 5, 0.9)
    _put(maps, PEDESTRIAN, 5, 6, 0.8)
    assert _decoded(maps, _spec(), grid) == [("pedestrian", 0.9), ("pedestrian", 0.8)]


def test_overlap_of_each_task(grid):
    # One metre apart along x: 6 of 10 m2.
    maps = _maps(grid)
    for column, score in ((5, 0.9), (6, 0.8)):
        _put(maps, CAR, 5, column, score)
        _put(maps, PEDESTRIAN, 5, column, score / 2)
    lenient = _spec(overlap=(0.5, 0.5, 0.5, 0.5, 0.5, 0.7))
    assert _decoded(maps, lenient, grid) == [("car", 0.9), ("pedestrian", 0.45), ("pedestrian", 0.4)]


def test_scale_nms_grows_what_does_not_touch(grid):
    maps = _maps(grid)
    maps.boxes[:, :, 3:5] = math.log(0.5)
    for column, score in ((5, 0.9), (6, 0.8)):
        _put(maps, PEDESTRIAN, 5, column, score)
    scale = [4.5 if name == "pedestrian" else 1.0 for name in CLASSES]
    # 2.25 m wide and a metre apart they share 1.25 / 3.25; as they are, nothing.
    assert _decoded(maps, _spec(scale=scale), grid) == [("pedestrian", 0.9)]
    (boxes,) = decode(maps, _spec(scale=scale), grid)
    assert_close(boxes.size[:, :2], torch.full((1, 2), 0.5))
    assert len(_decoded(maps, _spec(), grid)) == 2


def test_circles_of_each_task(grid):
    maps = _maps(grid)
    for column, score in ((5, 0.9), (8, 0.8)):
        _put(maps, CAR, 5, column, score)
        _put(maps, TRUCK, 9, column, score - 0.5)
    # Published 4 and 12 are squared metres: three metres are beyond a car's two, within a truck's three and a half.
    spec = _spec(nms=("circle",) * 6)
    assert _decoded(maps, spec, grid) == [("car", 0.9), ("car", 0.8), ("truck", 0.4)]


def test_the_predicted_overlap_decides_who_stays_and_not_the_score(grid):
    maps = _maps(grid)
    for column, score, iou in ((5, 0.9, 0.1), (6, 0.6, 0.9)):
        _put(maps, CAR, 5, column, score)
        maps.iou[0, 0, 5, column] = 2 * iou - 1
    assert _decoded(maps, _spec(), grid) == [("car", 0.9)]
    # 0.9^0.35 0.1^0.65 = 0.22 < 0.6^0.35 0.9^0.65 = 0.78.
    assert _decoded(maps, _spec(iou=True, iou_power=0.65), grid) == [("car", 0.6)]


def test_numbers_before_and_after(grid):
    maps = _maps(grid)
    maps.boxes[:, :, 3:5] = math.log(0.1)
    for i in range(8):
        _put(maps, CAR, 5, i, 0.9 - i / 20)
        _put(maps, PEDESTRIAN, 5, i, 0.82 - i / 20)
    assert len(_decoded(maps, _spec(before=5), grid)) == 10
    assert len(_decoded(maps, _spec(after=3), grid)) == 6
    assert _decoded(maps, _spec(max_boxes=3), grid) == [("car", 0.9), ("car", 0.85), ("pedestrian", 0.82)]
    assert len(_decoded(maps, _spec(score_threshold=0.73), grid)) == 4 + 2


@pytest.mark.parametrize("nms", ["circle", "rotated"])
def test_greedy_loop_over_all_pairs(rng, grid, nms):
    maps = _maps(grid, samples=2)
    maps.heatmap.copy_(torch.randn(maps.heatmap.shape, generator=rng))
    maps.boxes.add_(torch.randn(maps.boxes.shape, generator=rng) * 0.5)
    maps.iou.copy_(torch.randn(maps.iou.shape, generator=rng))
    spec = _spec(iou=True, iou_power=0.65, nms=(nms,) * 6, before=60, after=20, score_threshold=0.6)
    # Without suppression: the candidates.
    every = _spec(iou=True, before=60, after=500, score_threshold=0.6, overlap=(1.0,) * 6)
    candidates, decoded = decode(maps, every, grid), decode(maps, spec, grid)
    for sample in range(2):
        expected = []
        for task, group in enumerate(TASK_GROUPS):
            labels = torch.tensor([CLASSES.index(name) for name in group])
            boxes = candidates[sample]
            boxes = boxes[torch.isin(boxes.label, labels)]
            place = _cells_of(maps, sample, boxes)
            iou = (maps.iou[sample, task].flatten()[place] / 2 + 0.5).clamp(0, 1)
            order = (boxes.score**0.35 * iou**0.65).argsort(descending=True)
            boxes = boxes[order]
            overlap = bev_iou(boxes, boxes)
            kept = []
            for i in range(len(boxes)):
                near = [
                    math.dist(boxes.center[i, :2].tolist(), boxes.center[j, :2].tolist()) < spec.decoding.radius[task]
                    if nms == "circle"
                    else bool(overlap[i, j] > 0.2)
                    for j in kept
                ]
                if not any(near):
                    kept.append(i)
            expected += [(int(boxes.label[i]), float(boxes.score[i])) for i in kept[:20]]
            assert len(kept) < len(boxes)
        found = [
            (int(label), float(score))
            for label, score in zip(decoded[sample].label, decoded[sample].score, strict=True)
        ]
        assert sorted(found) == sorted(expected)
        assert (decoded[sample].score.diff() <= 0).all()


def _cells_of(maps, sample, boxes):
    """Where each box was read: its score is unlike all others."""
    probability = maps.heatmap[sample].sigmoid()
    return torch.stack(
        [
            (probability[label] == score).flatten().nonzero()[0, 0]
            for label, score in zip(boxes.label, boxes.score, strict=True)
        ]
    )
