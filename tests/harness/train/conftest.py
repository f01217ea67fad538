"""Orders to train a detector, as a study's executor gives them to its workers."""

import pytest


@pytest.fixture(scope="session")
def order_on():
    """``order_on(root, preset, **spec)``: an order on that root; more fields of the job's spec, or of the order."""
    from detectors.presets import PRESETS
    from harness.study.jobs import DataIdentity, JobSpec
    from harness.study.schedule import ScheduleSpec
    from harness.train.job import JobOrder

    def make(root, /, preset="tiny_lidar", schedule=None, eval_split="synthetic_val", **more):
        data = DataIdentity(
            fingerprint=root.fingerprint(),
            train_split="synthetic_train",
            eval_split=eval_split,
            detection_config="within_16m",
        )
        schedule = ScheduleSpec(**(schedule or {"steps": 4, "batch_size": 2}))
        spec = JobSpec(detector=PRESETS[preset], seed=3, data=data, schedule=schedule)
        return JobOrder(
            **{
                "spec": spec,
                "label": "a test",
                "root": root.path,
                "version": root.version,
                "teacher_spec": None,
                "teacher_weights": None,
                "given_weights": None,
                "device": "cpu",
                "threads": 1,
                "loader_workers": 0,
            }
            | more
        )

    return make


@pytest.fixture
def order(smoke_root, order_on):
    """An order for a short training of the LiDAR detector, fields to be replaced."""

    def make(preset="tiny_lidar", **more):
        return order_on(smoke_root, preset, **more)

    return make
