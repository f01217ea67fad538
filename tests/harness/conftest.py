"""Datasets made once a run, orders to train on them, and a small study that has run, by its results."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from rich.console import Console
from typer.testing import CliRunner

from detectors.presets import PRESETS
from harness.data.root import NuScenesRoot
from harness.evaluate.intervals import write_draws
from harness.flags import Asked
from harness.jobs.kind import JobOrder
from harness.opened import open_study
from harness.report.__main__ import app
from harness.runs.folder import Result, RunFolder
from harness.study.jobs import DataIdentity, DetectorJobSpec
from harness.study.schedule import ScheduleSpec
from harness.world.nuimages import synthesize_images
from harness.world.nuscenes import GENERATOR, synthesize

STUDY = Path(__file__).parents[2] / "studies" / "smoke.yaml"
NDS = {"teacher": 0.401, "baseline": 0.301, "student": 0.352}
"""Of seed 0; of seed 1 it is 0.01 more."""


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What the program keeps goes into a folder of the run, not into the user's cache."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield cache


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """``once(name, make)``: a folder that ``make(folder)`` has filled, in whichever worker of the run asked first."""
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name, make):
        folder, done = common / name, common / f"{name} is whole"
        with FileLock(common / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def smoke_path(once):
    """The folder of the embedded world's smallest preset; all workers read it and none writes to it."""
    return once("smoke world", lambda path: synthesize(path, "smoke", seed=0))


@pytest.fixture(scope="session")
def smoke_root(smoke_path):
    """That folder, opened."""
    return NuScenesRoot(smoke_path, "v1.0-synthetic")


@pytest.fixture(scope="session")
def smoke_images(once):
    """The folder of the smallest preset of single images with instance masks, of the same seed."""
    return once("smoke images", lambda path: synthesize_images(path, "smoke", seed=0))


@pytest.fixture(scope="session")
def real_root():
    """One real nuScenes frame (CROSSBEV_REAL_FRAME, or shared/real beside the repository), which we may not ship."""
    beside = Path(__file__).parents[3] / "shared" / "real" / "nuscenes-frame"
    path = Path(os.environ.get("CROSSBEV_REAL_FRAME", beside))
    if not path.is_dir():
        pytest.skip(f"no real nuScenes frame at {path}; its licence does not let us ship one")
    return NuScenesRoot(path, "v1.0-mini")


@pytest.fixture(scope="session")
def order_on():
    """``order_on(root, preset, **spec)``: an order on that root; more fields of the job's spec, or of the order."""

    def make(root, /, preset="tiny_lidar", schedule=None, eval_split="synthetic_val", **more):
        data = DataIdentity(
            fingerprint=root.fingerprint(),
            train_split="synthetic_train",
            eval_split=eval_split,
            detection_config="within_16m",
        )
        schedule = ScheduleSpec(**(schedule or {"steps": 4, "batch_size": 2}))
        spec = DetectorJobSpec(detector=PRESETS[preset], seed=3, data=data, schedule=schedule)
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


@pytest.fixture(scope="session")
def train_here(smoke_root, order_on):
    """``train_here(plan, runs)``: every job of a plan on the smoke world, one after the other and in this process."""
    from harness.jobs.worker import run

    def train(plan, runs):
        for id_, job in plan.jobs.items():
            teacher = job.spec.teacher
            order = order_on(
                smoke_root,
                spec=job.spec,
                label=job.label,
                teacher_spec=teacher and plan.jobs[teacher].spec,
                teacher_weights=teacher and RunFolder(runs / teacher).model,
            )
            folder = RunFolder(runs / id_)
            folder.write("job.json", order.model_dump(mode="json"))
            folder.complete(run(order, folder, lambda: False))
        return runs

    return train


@pytest.fixture(scope="session")
def planned(own_cache, smoke_path):
    """The study and its plan."""
    # What it would make there is the same, byte for byte.
    (own_cache / "crossbev").mkdir(exist_ok=True)
    embedded = own_cache / "crossbev" / f"synthetic-smoke-0-{GENERATOR}"
    if not embedded.exists():
        embedded.symlink_to(smoke_path, target_is_directory=True)
    return open_study(Asked(STUDY, seeds="0,1", runs_dir=Path("none")), Console(file=io.StringIO()))


@pytest.fixture(scope="session")
def stored(planned, tmp_path_factory):
    """A folder with its finished runs; to be copied, not to be written to."""
    folder = tmp_path_factory.mktemp("stored")
    for row in planned.plan.rows:
        run = RunFolder(folder / "runs" / row.job)
        nds = NDS[row.role] + 0.01 * row.seed
        order = {"spec": planned.plan.jobs[row.job].spec.model_dump(mode="json"), "label": "x", "device": "cpu"}
        run.write("job.json", order | {"root": str(folder), "teacher_weights": str(folder / "weights")})
        for step in range(3):
            run.log_step(step, {"loss": 2.0 - step, "seconds": 0.25})
        write_draws(run.draws, {name: nds + np.linspace(0, 0.01, 5) for name in ("mAP", "NDS")}, 12)
        (run.path / "predictions.json").write_text(json.dumps({"results": {row.job: []}}))
        (run.path / "analysis.npz").write_bytes(b"what a later version keeps")
        (run.path / "log.txt").write_text(f"runs in {folder}")
        run.model.write_bytes(b"weights")
        (run.path / "plots").mkdir()
        (run.path / "plots" / "loss.png").write_bytes(b"a picture")
        machine = {"device": "cpu", "torch": "2", "threads": "1", "peak_memory_mb": "7", "commit": "aaaaaaaaaaaa"}
        began = {"weights": f"{row.seed}", "batches": ""} if row.role != "teacher" else {}
        run.complete(Result({"mAP": nds, "NDS": nds, "mATE": 0.5}, 5, 1.0, machine, 0.5, {}, began))
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    """A copy of that folder."""
    shutil.copytree(stored / "runs", tmp_path / "work" / "runs")
    return tmp_path / "work"


@pytest.fixture
def jobs(planned):
    """Job ids by role and seed."""
    return {(row.role, row.seed): row.job for row in planned.plan.rows}


@pytest.fixture
def report(folder, monkeypatch):
    """``report(STUDY, flags)`` in that folder: exit status and all that was said, as one line."""

    def report(what=STUDY, *flags):
        monkeypatch.chdir(folder)
        told = CliRunner().invoke(app, [str(what), *map(str, flags)])
        assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
        return told.exit_code, told.output

    return report
