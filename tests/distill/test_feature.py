"""Feature distillation is a mean absolute difference over channels, keypoints and objects."""

import pytest
import torch
from torch.testing import assert_close

from distill.feature import FeatureSpec
from distill.keypoints import KeypointTerm
from distill.response import ResponseSpec


@pytest.fixture
def feature_loss():
    from distill.feature import feature_loss

    return feature_loss


def test_value_by_hand(feature_loss):
    student = torch.tensor([[[[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]], [[9.0, 9.0], [9.0, 9.0], [9.0, 9.0]]]])
    teacher = torch.tensor([[[[1.0, 0.0], [5.0, 4.0], [1.0, -1.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]])
    # The first object's gaps are 0 2, 2 0, 1 1: their mean is 1; those of the second are 9.
    assert_close(feature_loss(student, teacher, torch.tensor([[True, True]])), torch.tensor(5.0))
    assert_close(feature_loss(student, teacher, torch.tensor([[True, False]])), torch.tensor(1.0))


def test_objects_count_alike_however_they_are_spread_over_samples(feature_loss):
    student = torch.tensor([[3.0, 6.0], [9.0, 50.0]]).reshape(2, 2, 1, 1)
    is_object = torch.tensor([[True, True], [True, False]])
    assert_close(feature_loss(student, torch.zeros(2, 2, 1, 1), is_object), torch.tensor(6.0))


def test_value_and_gradient_equal_a_loop_over_boxes(scene, rng, read_keypoints):
    from distill.feature import feature_loss

    student, teacher = (scene.output(rng, low=3, high=4) for _ in range(2))
    maps = student.bev_low.requires_grad_()
    loss = KeypointTerm(feature_loss, scene.grid, "low", torch.nn.Identity())(student, teacher, scene.batch)

    gaps = []
    for sample, box in scene.valid:
        pairs = zip(
            read_keypoints(maps[sample], scene.batch.boxes, sample, box),
            read_keypoints(teacher.bev_low[sample], scene.batch.boxes, sample, box),
            strict=True,
        )
        gaps.append(sum((s - t).abs().mean() for s, t in pairs) / 9)
    expected = sum(gaps) / len(gaps)

    assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    assert_close(*(torch.autograd.grad(value, maps)[0] for value in (loss, expected)), atol=1e-6, rtol=1e-6)


def test_compares_the_level_it_was_told(scene, rng, detector_spec):
    widths = detector_spec.low_channels, detector_spec.high_channels
    student = scene.output(rng, *widths)
    teacher = scene.output(rng, *widths, bev_low=student.bev_low)
    assert FeatureSpec(weight=1.0).build(detector_spec, detector_spec)(student, teacher, scene.batch) == 0
    high = FeatureSpec(weight=1.0, level="high").build(detector_spec, detector_spec)
    assert high(student, teacher, scene.batch) > 0


def test_active_cells_are_those_where_the_teacher_is_not_zero(scene, rng, detector_spec):
    widths = detector_spec.low_channels, detector_spec.high_channels
    student, teacher = scene.output(rng, *widths), scene.output(rng, *widths)
    teacher.bev_low.mul_(0)
    teacher.bev_low[0, :, 2, 3] = 4.0
    teacher.bev_low[1, 1, 5, 6] = -1.0
    term = FeatureSpec(weight=1.0, region="active").build(detector_spec, detector_spec)
    gaps = (student.bev_low - teacher.bev_low).abs().mean(dim=1)
    assert_close(term(student, teacher, scene.batch), (gaps[0, 2, 3] + gaps[1, 5, 6]) / 2)
    teacher.bev_low.mul_(0)
    assert term(student, teacher, scene.batch) == 0


def test_whole_maps_are_read_where_the_teacher_decides_what_is_compared():
    assert FeatureSpec(weight=1.0, region="active").reads is None
    assert FeatureSpec(weight=1.0, region="map", normalise="channels").reads is None


def test_a_normaliser_without_effect_is_refused():
    with pytest.raises(ValueError, match="normalise: teacher has no effect"):
        FeatureSpec(weight=1.0, norm="cosine", normalise="teacher")


def test_fields_that_came_later_are_written_only_where_they_say_something():
    """What an older version wrote of a loss is what this one writes, so that its trainings are found again."""
    old = {"weight": 2.0, "level": "low", "adapter": "none", "points": "on_box"}
    assert FeatureSpec(weight=2.0).model_dump(mode="json") == old
    assert FeatureSpec(weight=2.0, region="map").model_dump(mode="json") == old | {"region": "map"}
    assert FeatureSpec.model_validate(old | {"norm": "l2"}).norm == "l2"
    assert FeatureSpec(weight=2.0, normalise="channels").model_dump(mode="json") == old | {"normalise": "channels"}
    old = {"weight": 1.0, "teacher_temperature": 1.0, "parts": "joint", "min_overlap": 0.1}
    assert ResponseSpec(weight=1.0).model_dump(mode="json") == old
