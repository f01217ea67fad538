"""Losses of other papers, by hand and against loops: regions of features, CWD, InfoNCE."""

import math

import pytest
import torch
from torch.testing import assert_close

from detectors.geometry.boxes import Boxes
from detectors.geometry.grid import BevGrid
from distill.channelwise import channelwise_loss
from distill.contrastive import ContrastiveSpec, info_nce
from distill.feature import FeatureSpec
from distill.regions import center_gaussians, scaled_foreground
from distill.response import ResponseSpec


@pytest.fixture
def maps(scene, rng, detector_spec):
    return tuple(scene.output(rng, detector_spec.low_channels, detector_spec.high_channels) for _ in "st")


@pytest.mark.parametrize("region", ["map", "gaussian", "foreground"])
@pytest.mark.parametrize(("norm", "power"), [("l1", 1), ("l2", 2)])
def test_features_in_a_region_equal_a_loop_over_cells(maps, scene, detector_spec, region, norm, power):
    student, teacher = maps
    teacher.bev_low[:, :, 2:4] = 0.0
    term = FeatureSpec(weight=1.0, region=region, norm=norm).build(detector_spec, detector_spec)
    boxes, is_box, grid = scene.batch.boxes, scene.batch.is_box, scene.grid
    weights = {
        "map": torch.ones(2, grid.rows, grid.columns, dtype=torch.float64),
        "gaussian": center_gaussians(boxes, is_box, grid, 0.1),
        "foreground": scaled_foreground(boxes, is_box, grid),
    }[region]
    total = count = 0.0
    for b in range(2):
        for y in range(grid.rows):
            for x in range(grid.columns):
                weight = weights[b, y, x]
                if region == "foreground" and not teacher.bev_low[b, :, y, x].any():
                    continue
                gaps = (student.bev_low[b, :, y, x] - teacher.bev_low[b, :, y, x]).abs() ** power
                total, count = total + weight * gaps.mean(), count + weight
    assert count > 3
    assert_close(term(student, teacher, scene.batch), total / count)


def _mask(scene, center, size, yaw, velocity):
    fields = {"center": [*center, 0.0], "size": [*size, 1.0], "yaw": yaw, "velocity": velocity}
    values = {name: torch.tensor(value, dtype=torch.float64).reshape(1, 1, -1) for name, value in fields.items()}
    values["yaw"] = values["yaw"][..., 0]
    boxes = scene.with_boxes(
        torch.ones(1, 1, dtype=torch.bool),
        **{**{name: value[:1, :1] for name, value in vars(scene.batch.boxes).items()}, **values},
    ).boxes
    return scaled_foreground(boxes, torch.ones(1, 1, dtype=torch.bool), scene.grid)[0]


@pytest.mark.parametrize(
    ("size", "yaw", "velocity", "cells"),
    [
        # Columns of a cell's centres from -5.5, rows from -4.5; the box is at (1, 0). Its sides grow by 0.5 m at least.
        ((3.0, 1.0), 0.0, (0.0, 0.0), (4, 2)),  # 3.5 x 1.5 m
        ((3.0, 1.0), math.pi / 2, (0.0, 0.0), (2, 4)),
        ((4.4, 2.4), 0.0, (0.8, 0.0), (6, 2)),  # half as long again: 6.6 x 2.9 m
        ((4.4, 2.4), 0.0, (-0.3, 0.0), (6, 2)),  # a quarter: 5.5 x 2.9 m
        ((4.4, 3.2), 0.0, (0.0, -0.9), (4, 4)),  # 4.9 x 4.8 m
        ((4.0, 2.0), 0.0, (float("nan"), float("nan")), (4, 2)),  # 4.5 x 2.5 m
    ],
)
def test_scaled_foreground_by_hand(scene, size, yaw, velocity, cells):
    mask = _mask(scene, (1.0, 0.0), size, yaw, velocity)
    assert (int(mask.any(dim=0).sum()), int(mask.any(dim=1).sum())) == cells
    assert mask.sum() == cells[0] * cells[1]
    # Around the box: between the seventh and the eighth column, and the fifth and the sixth row.
    rows, columns = mask.nonzero().double().mean(dim=0) + 0.5
    assert (columns - 6.0, rows - 5.0) == pytest.approx((1.0, 0.0))


@pytest.mark.parametrize(
    ("far", "share", "long"), [(19.0, 0.0, 4.0), (20.0, 0.25, 4.0), (30.0, 0.5, 4.0), (32.0, 0.5, 12.0)]
)
def test_farther_objects_have_larger_masks(far, share, long):
    grid = BevGrid(x_range=(0, 64), y_range=(-8, 8), z_range=(-3, 2), cell=0.125)
    one = torch.ones(1, 1)
    boxes = Boxes(
        center=torch.tensor([[[far, 0.0, 0.0]]]),
        size=torch.tensor([[[long, 2.0, 1.0]]]),
        yaw=0 * one,
        velocity=torch.zeros(1, 1, 2),
        label=torch.zeros(1, 1, dtype=torch.long),
        score=one,
    )
    mask = scaled_foreground(boxes, one.bool(), grid)[0]
    length, width = (side + min(max(0.5, side * share), 4.0) for side in (long, 2.0))
    assert mask.sum() * 0.125**2 == pytest.approx(length * width, rel=0.05)


def test_channelwise_by_hand():
    # One channel of two cells: student 1/2, 1/2; teacher 3/4, 1/4. Another in which they agree but for a constant.
    student = torch.tensor([[[[0.0, 0.0]], [[1.0, 2.0]]]])
    teacher = torch.tensor([[[[math.log(3.0), 0.0]], [[5.0, 6.0]]]])
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert channelwise_loss(student, teacher, 1.0).item() == pytest.approx(divergence / 2)
    assert channelwise_loss(2 * student, 2 * teacher, 2.0).item() == pytest.approx(4 * divergence / 2)


def test_channelwise_does_not_ask_how_strong_a_channel_is(rng):
    maps = torch.randn(2, 3, 4, 5, generator=rng)
    assert channelwise_loss(maps + 7.0, maps, 4.0).item() == pytest.approx(0.0, abs=1e-5)
    assert channelwise_loss(maps.flip(3), maps, 4.0) > 0.01


def test_info_nce_by_hand():
    own = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    wanted = torch.tensor([[1.0, 0.0], [1.0, 0.0], [9.0, 9.0]])
    counts = torch.tensor([True, True, False])
    # The first finds itself and its twin alike; the second is at right angles to both.
    found = info_nce(own, wanted, counts, 0.5)
    assert found.item() == pytest.approx(math.log(2))
    assert info_nce(own, own, counts, 0.5).item() == pytest.approx(math.log(1 + math.exp(-2)))
    nothing = info_nce(own, wanted, torch.zeros(3, dtype=torch.bool), 0.5)
    assert nothing == 0


def test_info_nce_of_many_points_is_that_of_all_at_once(rng, monkeypatch):
    values = []
    counts = torch.rand(13, generator=rng) < 0.7
    student, teacher = (torch.randn(13, 4, generator=rng, dtype=torch.float64) for _ in "st")
    for at_once in (13**2, 30, 1):
        monkeypatch.setattr("distill.contrastive.AT_ONCE", at_once)
        leaf = student.clone().requires_grad_()
        loss = info_nce(leaf, teacher, counts, 0.3)
        loss.backward()
        values.append((loss.detach(), leaf.grad))
    for other in values[1:]:
        torch.testing.assert_close(other, values[0])


def test_contrastive_compares_the_nine_points_of_every_box(maps, scene, detector_spec, read_keypoints):
    torch.manual_seed(0)
    term = ContrastiveSpec(weight=1.0, temperature=0.5).build(detector_spec, detector_spec).double()
    vectors = []
    for project, output in ((term.student, maps[0]), (term.teacher, maps[1])):
        points = [
            point for b, k in scene.valid for point in read_keypoints(output.bev_high[b], scene.batch.boxes, b, k)
        ]
        vectors.append([vector / vector.norm() for vector in project(torch.stack(points))])
    errors = []
    for i, own in enumerate(vectors[0]):
        scores = torch.stack([own @ wanted / 0.5 for wanted in vectors[1]])
        errors.append(scores.logsumexp(0) - scores[i])
    assert_close(term(*maps, scene.batch), sum(errors) / len(errors), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("scores", ["best", "all"])
@pytest.mark.parametrize("parts", ["joint", "split"])
def test_response_over_the_whole_map_equals_a_loop(maps, scene, detector_spec, scores, parts):
    term = ResponseSpec(weight=1.0, region="map", scores=scores, parts=parts).build(detector_spec, detector_spec)
    heat = [output.head.heatmap.sigmoid() for output in maps]
    if scores == "best":
        heat = [values.amax(dim=1, keepdim=True) for values in heat]
    score_gap, box_gap = (heat[0] - heat[1]).abs(), (maps[0].head.boxes - maps[1].head.boxes).abs()
    if parts == "split":
        expected = score_gap.mean() + box_gap.mean()
    else:
        expected = torch.cat([score_gap, box_gap.flatten(1, 2)], dim=1).mean()
    assert_close(term(*maps, scene.batch), expected)
