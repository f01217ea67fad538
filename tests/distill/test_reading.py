"""What is kept of a teacher is all that a loss reads: losses and gradients are those of its whole maps."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from detectors.geometry.boxes import CLASSES
from detectors.heads.center import BOX_CODE, TASK_GROUPS
from detectors.outputs import DetectorOutput, HeadOutput
from detectors.presets import PRESETS
from distill.feature import FeatureSpec
from distill.loss import Reading
from distill.objective import LOSSES
from distill.reading import cells_read, pack, readings_of, unpack
from distill.relation import RelationSpec
from distill.response import ResponseSpec

SPEC = PRESETS["tiny_lidar"]
READ_LITTLE = {
    "feature": FeatureSpec(weight=1.0),
    "feature, high, swapped": FeatureSpec(weight=1.0, level="high", points="swapped"),
    "feature, gaussian": FeatureSpec(weight=1.0, region="gaussian", norm="l2", min_overlap=0.3),
    "feature, foreground": FeatureSpec(weight=1.0, region="foreground", norm="l2"),
    "feature, normalised": FeatureSpec(weight=1.0, norm="l2", normalise="teacher"),
    "feature, cosine": FeatureSpec(weight=1.0, norm="cosine", normalise="channels"),
    "feature, gaussian, standardised": FeatureSpec(weight=1.0, region="gaussian", normalise="channels"),
    "feature, foreground, normalised": FeatureSpec(weight=1.0, region="foreground", normalise="teacher"),
    "relation": RelationSpec(weight=1.0),
    "response": ResponseSpec(weight=1.0),
    "response, split": ResponseSpec(weight=1.0, parts="split", scores="all", min_overlap=0.5),
}


@pytest.fixture
def batch(make_batch):
    """Some boxes on the grid, one at its rim and one beyond it."""
    batch = make_batch()
    center = batch.boxes.center.clone()
    center[0, 0, :2] = torch.tensor([15.9, -15.9])
    center[0, 1, :2] = torch.tensor([40.0, 0.0])
    return replace(batch, boxes=replace(batch.boxes, center=center))


def _draw(count, *channels):
    """A random map; some of its cells are empty, as between a LiDAR's returns."""
    rows, columns = SPEC.grid.rows, SPEC.grid.columns
    return torch.randn(count, *channels, rows, columns) * (torch.rand(rows, columns) > 0.3)


def _output(count, seed):
    torch.manual_seed(seed)
    head = HeadOutput(_draw(count, len(CLASSES)), _draw(count, len(TASK_GROUPS), len(BOX_CODE)))
    low, high = _draw(count, SPEC.low_channels), _draw(count, SPEC.high_channels)
    return DetectorOutput(None, None, None, None, None, low, high, head)


def _maps(output):
    return [output.bev_low, output.bev_high, output.head.heatmap, output.head.boxes]


def _rounded(output):
    low, high, heatmap, boxes = (each.half().float() for each in _maps(output))
    return replace(output, bev_low=low, bev_high=high, head=HeadOutput(heatmap, boxes))


@pytest.mark.parametrize("name", READ_LITTLE)
def test_loss_and_gradient_are_those_of_the_whole_maps(name, batch):
    spec = READ_LITTLE[name]
    term, teacher = spec.build(SPEC, SPEC), _output(len(batch), seed=1)
    kept = unpack([(reading, pack(teacher, reading, batch, SPEC)) for reading in sorted(spec.reads)], SPEC)
    values, gradients = [], []
    for seen in (_rounded(teacher), kept):
        student = _output(len(batch), seed=2)
        for leaf in _maps(student):
            leaf.requires_grad_()
        value = term(student, seen, batch)
        value.backward()
        values.append(value.detach())
        gradients.append([leaf.grad for leaf in _maps(student)])
    assert values[0] > 0
    # Means over channels depend on the maps' layout in memory; the others are the same bits.
    exact = getattr(spec, "normalise", "none") == "none" and getattr(spec, "norm", "l1") != "cosine"
    close = {"atol": 0, "rtol": 0} if exact else {"atol": 1e-7, "rtol": 1e-5}
    assert_close(*values, **close)
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if isinstance(one, Tensor):
            assert_close(one, other, **close)


def test_it_is_a_small_part_of_the_maps(batch):
    teacher = _output(len(batch), seed=1)
    readings = readings_of(READ_LITTLE[name].reads for name in ("feature", "relation", "response"))
    kept = sum(len(record) for reading in readings for record in pack(teacher, reading, batch, SPEC))
    assert kept < sum(each.nbytes for each in _maps(teacher)) / 5


def test_a_map_that_nobody_named_is_not_a_number(batch):
    reading = Reading("bev_low", "points")
    kept = unpack([(reading, pack(_output(len(batch), seed=1), reading, batch, SPEC))], SPEC)
    assert kept.bev_low.isfinite().all()
    assert kept.bev_high.isnan().all()
    assert kept.head.heatmap.isnan().all()


def test_values_that_float16_cannot_hold_are_refused(batch):
    teacher = _output(len(batch), seed=1)
    with pytest.raises(FloatingPointError, match="bev_low has values that float16 does not hold"):
        pack(replace(teacher, bev_low=teacher.bev_low * 1e6), Reading("bev_low", "points"), batch, SPEC)


def test_a_sample_without_boxes_keeps_nothing(batch):
    empty = replace(batch, is_box=torch.zeros_like(batch.is_box))
    for cells in ("points", "gaussian", "foreground"):
        reading = Reading("bev_low", cells, 0.1)
        records = pack(_output(len(batch), seed=1), reading, empty, SPEC)
        assert records == [b""] * len(batch)
        assert not unpack([(reading, records)], SPEC).bev_low.any()


def test_predicted_overlaps_are_packed_with_the_head(batch):
    head = SPEC.head.model_copy(update={"branches": "separate", "average": "task", "iou": True})
    spec, output = SPEC.model_copy(update={"head": head}), _output(len(batch), seed=1)
    output = replace(output, head=replace(output.head, iou=_draw(len(batch), len(TASK_GROUPS))))
    reading = Reading("head", "gaussian", 0.1)
    unpacked = unpack([(reading, pack(output, reading, batch, spec))], spec).head
    read = cells_read(reading, batch, spec)[:, None].expand_as(output.head.iou)
    assert torch.equal(unpacked.iou[read], output.head.iou[read].half().float())
    assert not unpacked.iou[~read].any()


def test_losses_that_read_whole_maps_say_so():
    assert FeatureSpec(weight=1.0, region="map").reads is None
    assert ResponseSpec(weight=1.0, region="map").reads is None
    others = set(LOSSES) - {"feature", "relation", "response", "instance"}
    assert {LOSSES[name](weight=1.0).reads for name in others} == {None}
    assert readings_of([RelationSpec(weight=1.0).reads, None]) is None
    assert readings_of([]) == ()
