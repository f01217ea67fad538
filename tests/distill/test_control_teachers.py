"""The oracle says what the annotations are; the mirrored teacher says what it would, on the other side."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detectors.heads.center import TASK_OF_CLASS
from detectors.heads.center_loss import center_targets
from detectors.heads.decoding import decode
from distill.control_teachers import Mirrored, Oracle, oracle_head
from distill.objective import FrozenTeacher, Objective
from distill.output import OutputSpec
from distill.response import ResponseSpec


@pytest.fixture
def head(detector_spec):
    return detector_spec.head.model_copy(update={"nms_radius": (0.0,) * 10})


def test_an_oracle_decodes_to_the_annotations(scene, head):
    batch = scene.batch
    found = decode(oracle_head(batch.boxes, batch.is_box, head, scene.grid), head, scene.grid)
    for sample in (0, 1):
        valid = [box for at, box in scene.valid if at == sample]
        sure = found[sample][found[sample].score > 0.99]
        assert len(sure.score) == len(valid)
        order = sorted(range(len(valid)), key=lambda n: sure.center[n, 0].item())
        wanted = sorted(valid, key=lambda box: batch.boxes.center[sample, box, 0].item())
        for number, box in zip(order, wanted, strict=True):
            assert_close(sure.center[number].double(), batch.boxes.center[sample, box], atol=1e-4, rtol=1e-4)
            assert_close(sure.size[number].double(), batch.boxes.size[sample, box], atol=1e-4, rtol=1e-4)
            assert sure.label[number] == batch.boxes.label[sample, box]
            turn = (sure.yaw[number] - batch.boxes.yaw[sample, box]).item()
            assert math.cos(turn) == pytest.approx(1.0)


def test_its_heatmaps_are_the_students_targets(scene, head):
    batch = scene.batch
    drawn = oracle_head(batch.boxes, batch.is_box, head, scene.grid).heatmap.sigmoid()
    wanted = center_targets(batch.boxes, batch.is_box, head, scene.grid).heatmap
    assert_close(drawn, wanted.clamp(1e-3, 1 - 1e-3))


def test_beside_a_centre_it_tells_the_same_box_and_elsewhere_nothing(scene, head):
    batch = scene.batch
    drawn = oracle_head(batch.boxes, batch.is_box, head, scene.grid)
    # The first box is at x -2.3, y 1.1: 3.7 columns and 6.1 rows from the grid's corner.
    car = drawn.boxes[0, TASK_OF_CLASS[0]]
    assert_close(car[:2, 6, 3], torch.tensor([0.7, 0.1], dtype=torch.float64))
    assert_close(car[:2, 7, 2], torch.tensor([1.7, -0.9], dtype=torch.float64))
    assert_close(car[2:, 6, 3], car[2:, 7, 2])
    assert not drawn.boxes[0, :, :, 0, 0].any()
    heights = drawn.heatmap.sigmoid()
    assert not drawn.boxes[1, TASK_OF_CLASS[0]].any()
    assert heights[1, 0].max() < 0.01


def test_without_boxes_an_oracle_says_nothing(scene, head):
    drawn = oracle_head(scene.batch.boxes, scene.batch.is_box & False, head, scene.grid)
    assert not drawn.boxes.any()
    assert_close(drawn.heatmap.sigmoid(), torch.full_like(drawn.heatmap, 1e-3))


@pytest.mark.parametrize("loss", [ResponseSpec(weight=1.0, parts="split"), OutputSpec(weight=1.0, score_threshold=0.5)])
def test_a_student_learns_from_an_oracle(spec, batch, loss):
    objective = Objective(spec.build(), Oracle(spec), {"it": loss})
    objective(batch).total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())
    assert objective.student.head.boxes.weight.grad.any()
    objective.teacher.check_unchanged()
    assert not any("teacher" in name for name in objective.state_dict())


def test_features_of_an_oracle_are_no_numbers(spec, batch):
    seen = Oracle(spec).observe(batch)
    assert seen.bev_low.shape == (2, spec.low_channels, spec.grid.rows, spec.grid.columns)
    assert seen.bev_low.isnan().all()
    assert seen.bev_high.isnan().all()


def test_a_mirrored_teacher_is_the_other_way_round(spec, batch):
    detector = spec.build()
    seen, mirrored = FrozenTeacher(detector).observe(batch), Mirrored(detector).observe(batch)
    for name in ("bev_low", "bev_high", "lidar_bev"):
        assert_close(getattr(mirrored, name), getattr(seen, name).flip(2), atol=0, rtol=0)
    assert_close(mirrored.head.heatmap[:, :, 0], seen.head.heatmap[:, :, -1], atol=0, rtol=0)
    assert_close(mirrored.head.boxes[:, :, :, 0], seen.head.boxes[:, :, :, -1], atol=0, rtol=0)
    assert mirrored.camera_bev is None
    assert not mirrored.bev_high.requires_grad


def test_padding_does_not_matter_to_an_oracle(scene, head):
    batch = scene.batch
    one = oracle_head(batch.boxes, batch.is_box, head, scene.grid)
    shorter = {name: value[1:, :1] for name, value in vars(batch.boxes).items()}
    other = oracle_head(replace(batch.boxes, **shorter), batch.is_box[1:, :1], head, scene.grid)
    assert_close(one.boxes[1:], other.boxes)
    assert_close(one.heatmap[1:], other.heatmap)
