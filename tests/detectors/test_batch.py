"""Collating keeps every sample's sensors and boxes apart."""

import pytest
import torch

from detectors.batch import CameraViews, Inputs, Sample, collate
from tests.boxes import no_boxes


def _sample(points):
    return Sample(token=f"{points} points", views=None, lidar=torch.ones(points, 5), radar=None, boxes=no_boxes())


def test_points_remember_their_sample():
    batch = collate([_sample(2), _sample(0), _sample(3)])
    assert batch.lidar.sample.tolist() == [0, 0, 2, 2, 2]
    assert batch.tokens == ("2 points", "0 points", "3 points")
    assert batch.views is None


def test_samples_with_different_sensors_do_not_mix():
    without = Sample(token="none", views=None, lidar=None, radar=None, boxes=no_boxes())
    with pytest.raises(ValueError, match="2 points and none has lidar"):
        collate([_sample(2), without])


def _seen(token, images, width=48):
    views = CameraViews(
        images=torch.zeros(images, 3, 32, width, dtype=torch.uint8),
        intrinsics=torch.eye(3).expand(images, 3, 3),
        ego_from_camera=torch.eye(4).expand(images, 4, 4),
        age=torch.zeros(images),
    )
    return Sample(token=token, views=views, lidar=None, radar=None, boxes=no_boxes())


@pytest.mark.parametrize(
    ("other", "message"),
    [(_seen("short", 5), "short has 5 images of 32x48"), (_seen("wide", 6, 56), "wide has 6 images of 32x56")],
)
def test_a_sample_that_lacks_an_image_is_named(other, message):
    with pytest.raises(ValueError, match=message):
        collate([_seen("whole", 6), other])


def test_moving_a_batch_moves_everything(tiny_batch):
    moved = tiny_batch.to("meta")
    tensors = (
        moved.views.images,
        moved.views.age,
        moved.lidar.values,
        moved.radar.sample,
        moved.boxes.yaw,
        moved.is_box,
    )
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_inputs_of_two_detectors_are_joined_unless_they_differ():
    camera, lidar = Inputs(image_size=(32, 48)), Inputs(lidar_sweeps=3)
    assert camera.joined(lidar) == lidar.joined(camera) == Inputs(image_size=(32, 48), lidar_sweeps=3)
    assert (camera.sensors, lidar.sensors) == ({"camera"}, {"lidar"})
    assert Inputs(image_size=(32, 48), keyframes=2).joined(lidar).keyframes == 2
    with pytest.raises(ValueError, match="lidar_sweeps 3, the other 1"):
        lidar.joined(Inputs(lidar_sweeps=1))
    with pytest.raises(ValueError, match="keyframes 1, the other 2"):
        camera.joined(Inputs(image_size=(32, 48), keyframes=2))
    states = Inputs(radar_sweeps=2, radar_states=True)
    assert camera.joined(states).radar_states
    with pytest.raises(ValueError, match="radar_states True, the other False"):
        states.joined(Inputs(radar_sweeps=2))


def test_a_teacher_sees_the_sweeps_that_are_drawn_for_its_student():
    student, teacher = Inputs(lidar_sweeps=10, lidar_pool=12), Inputs(lidar_sweeps=10)
    assert student.joined(teacher) == teacher.joined(student) == student
    assert student.lidar_read == 13
    assert teacher.lidar_read == 10
    for field in ("lidar_fill", "lidar_near"):
        with pytest.raises(ValueError, match=f"one detector needs {field} False, the other True"):
            teacher.joined(Inputs(lidar_sweeps=10, **{field: True}))
        assert getattr(Inputs(lidar_sweeps=10, **{field: True}).joined(Inputs(image_size=(32, 48))), field)


def test_returns_for_a_loss_come_with_any_sweeps():
    camera, lidar = Inputs(image_size=(32, 48), lidar_for_loss=True), Inputs(lidar_sweeps=3)
    assert camera.sensors == {"camera"}
    assert (camera.lidar_read, lidar.lidar_read, Inputs(image_size=(32, 48)).lidar_read) == (1, 3, 0)
    joined = camera.joined(lidar)
    assert (joined.lidar_sweeps, joined.lidar_read, joined.lidar_for_loss) == (3, 3, True)
    assert lidar.joined(camera) == joined
