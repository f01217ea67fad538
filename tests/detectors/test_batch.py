"""Collating keeps every sample's sensors and boxes apart."""

import pytest
import torch

from detectors.batch import Sample, collate
from detectors.geometry.boxes import Boxes


def _sample(points):
    return Sample(token=f"{points} points", views=None, points=torch.ones(points, 5), boxes=Boxes.empty())


def test_points_remember_their_sample():
    batch = collate([_sample(2), _sample(0), _sample(3)])
    assert batch.point_sample.tolist() == [0, 0, 2, 2, 2]
    assert batch.tokens == ("2 points", "0 points", "3 points")
    assert batch.views is None


def test_samples_with_different_sensors_do_not_mix():
    without = Sample(token="none", views=None, points=None, boxes=Boxes.empty())
    with pytest.raises(AssertionError, match="different sensors"):
        collate([_sample(2), without])


def test_moving_a_batch_moves_everything(tiny_batch):
    moved = tiny_batch.to("meta")
    tensors = (moved.views.images, moved.points, moved.point_sample, moved.boxes.center, moved.is_box)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
