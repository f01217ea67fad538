"""A synthetic dataset, made once a run, orders to train on it, and the real frame where it is at hand."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What the program keeps goes into a folder of the run, not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def smoke_path(tmp_path_factory):
    """The folder of the embedded world's smallest preset."""
    from harness.data.synthetic_tables import synthesize

    path = tmp_path_factory.mktemp("world") / "smoke"
    synthesize(path, "smoke", seed=0)
    return path


@pytest.fixture(scope="session")
def smoke_root(smoke_path):
    """That folder, opened."""
    from harness.data.root import NuScenesRoot

    return NuScenesRoot(smoke_path, "v1.0-synthetic")


@pytest.fixture(scope="session")
def smoke_images(tmp_path_factory):
    """The folder of the smallest preset of single images with instance masks, of the same seed."""
    from harness.data.synthetic_images import synthesize_images

    path = tmp_path_factory.mktemp("images") / "smoke"
    synthesize_images(path, "smoke", seed=0)
    return path


@pytest.fixture(scope="session")
def real_root():
    """One real nuScenes frame (CROSSBEV_REAL_FRAME, or shared/real beside the repository), which we may not ship."""
    from harness.data.root import NuScenesRoot

    beside = Path(__file__).parents[3] / "shared" / "real" / "nuscenes-frame"
    path = Path(os.environ.get("CROSSBEV_REAL_FRAME", beside))
    if not path.is_dir():
        pytest.skip(f"no real nuScenes frame at {path}; its licence does not let us ship one")
    return NuScenesRoot(path, "v1.0-mini")


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
