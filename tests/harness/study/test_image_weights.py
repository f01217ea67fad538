"""A study whose image backbones begin with a file trains with its content, wherever it lies."""

import pytest

from harness.errors import InputError
from harness.jobs.kinds import check_given
from harness.study.plan import plan_study


@pytest.fixture
def study_text():
    return """\
# Does it plan?
schedule: {steps: 1000, batch_size: 4}
teachers:
  lidar: {preset: tiny_lidar}
students:
  camera: {preset: tiny_camera}
paths: [lidar -> camera]
losses:
  feature: {weight: 2.0}
arms:
  feature: [feature]
seeds: [0, 1]
"""


def _plan(study):
    return plan_study(study, "data", lambda: 11)


def test_jobs_know_the_content_of_the_file(load, study_text, tmp_path):
    places = [tmp_path / "a.pth", tmp_path / "b.pth"]
    for path in places:
        path.write_bytes(b"the same weights")
    plans = [_plan(load(study_text, f"students.camera.init.image_weights={path}")) for path in places]
    plain = _plan(load(study_text))
    assert list(plans[0].jobs) == list(plans[1].jobs)
    jobs = plans[0].jobs.values()
    cameras = [job for job in jobs if job.spec.detector.camera]
    assert len(cameras) == 4
    assert all(job.image_weights == places[0] and job.spec.image_weights for job in cameras)
    assert {job.id for job in cameras}.isdisjoint(plain.jobs)
    # The LiDAR's training is the one that it was.
    assert all(job.id in plain.jobs for job in jobs if job.spec.detector.lidar)
    places[0].write_bytes(b"other weights")
    other = _plan(load(study_text, f"students.camera.init.image_weights={places[0]}"))
    assert {job.id for job in cameras}.isdisjoint(other.jobs)


def test_the_file_is_looked_at_before_anything_is_trained(load, study_text, tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"no weights")
    plan = _plan(load(study_text, f"students.camera.init.image_weights={path}"))
    with pytest.raises(InputError, match=r"a\.pth are no file of tensors"):
        check_given(list(plan.jobs.values()))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teachers.lidar.init.image_weights=resnet.pth", r"teachers\.lidar\.init\.image_weights.*no camera"),
        ("students.camera.init={image_weights: a.pth, image_backbone: images}", "exclude each other"),
    ],
)
def test_a_beginning_that_cannot_be_is_refused(load, study_text, override, message):
    with pytest.raises(InputError, match=message):
        load(study_text, override)


def test_a_file_that_is_not_there_is_named(load, study_text, tmp_path):
    with pytest.raises(InputError, match=r"missing\.pth cannot be read"):
        _plan(load(study_text, f"students.camera.init.image_weights={tmp_path / 'missing.pth'}"))
