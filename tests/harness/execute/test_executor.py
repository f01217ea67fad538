"""The walk over the DAG: teachers first, a failure fails its dependents alone, and the next call retries only that."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.errors import InputError
from harness.execute import executor
from harness.execute.executor import JobState, Site, _follow, _one_gpu, _Worker, check_device, execute
from harness.jobs.fork_server import CLOSED, ForkedJob
from harness.jobs.kind import DONE
from harness.runs.folder import Busy, Result, RunFolder
from harness.study.load import load_study
from harness.study.plan import plan_study


@pytest.fixture
def site(smoke_root, tmp_path):
    return Site(tmp_path / "runs", smoke_root, device="cpu", workers=2)


@pytest.fixture
def plan(smoke_root):
    path = Path(__file__).parents[3] / "studies" / "smoke.yaml"
    return plan_study(load_study(path, ["schedule.steps=2"]), smoke_root.fingerprint(), int)


def _ids(plan):
    return {row.role: row.job for row in plan.rows}


@pytest.mark.slow
def test_failed_teacher_fails_its_student_alone_and_is_retried(site, plan):
    ids = _ids(plan)
    # A folder where the weights belong: the teacher trains, then cannot be saved.
    site.folder(ids["teacher"]).model.mkdir(parents=True)
    seen = []
    states = execute(plan, site, lambda states: seen.append({id_: s.status for id_, s in states.items()}))
    assert states[ids["teacher"]].status == "failed"
    assert "IsADirectoryError" in states[ids["teacher"]].reason
    assert states[ids["student"]].status == "failed"
    assert "teacher" in states[ids["student"]].reason
    assert states[ids["baseline"]].status == "done"
    assert not site.folder(ids["student"]).path.exists()
    # Seen on the way: two at once.
    assert any(list(now.values()).count("running") == 2 for now in seen)

    site.folder(ids["teacher"]).model.rmdir()
    finished = (site.folder(ids["baseline"]).path / "result.json").stat().st_mtime_ns
    states = execute(plan, site, lambda _: None)
    assert {state.status for state in states.values()} == {"done"}
    assert (site.folder(ids["baseline"]).path / "result.json").stat().st_mtime_ns == finished
    assert RunFolder(site.runs / ids["teacher"]).failure() is None


@pytest.mark.slow
def test_interrupted_walk_stops_its_workers_and_goes_on(site, plan):
    def interrupt(states):
        if any(state.status == "running" for state in states.values()):
            raise KeyboardInterrupt

    told = []
    with pytest.raises(KeyboardInterrupt):
        execute(plan, site, interrupt, lambda: told.append("stopping"))
    assert told == ["stopping"]
    # Nobody is left who owns a folder.
    for id_ in plan.jobs:
        with site.folder(id_).locked():
            pass
    states = execute(plan, site, lambda _: None)
    assert {state.status for state in states.values()} == {"done"}


def test_what_another_study_has_trained_meanwhile_is_not_started(site, plan, monkeypatch):
    started = []

    def trained_elsewhere(plan, job, site, slot):
        started.append(job.id)
        site.folder(job.id).complete(Result({}, parameters=1, seconds=0.0, machine={}))
        raise Busy

    monkeypatch.setattr(executor, "_start", trained_elsewhere)
    monkeypatch.setattr(executor, "RETRY_BUSY_SECONDS", 0.0)
    states = executor.execute(plan, site, lambda _: None)
    assert {state.status for state in states.values()} == {"done"}
    assert sorted(started) == sorted(plan.jobs)


def test_default_is_a_worker_a_core_without_a_gpu(monkeypatch, smoke_root):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(executor, "_cores", lambda: 3)

    def on(device, **given):
        site = executor.open_site(Path("runs"), smoke_root, device, **given)
        return site.workers, site.loader_workers

    assert on("auto") == (3, 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert on("auto") == (2, 1)
    assert on("auto", workers=1) == (1, 3)
    assert on("cpu") == (3, 0)
    assert on("cpu", workers=2, loader_workers=4) == (2, 4)


def test_worker_gets_one_of_the_gpus_that_the_user_allowed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [_one_gpu("auto", slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["5", "7", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [_one_gpu("cuda", slot)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["0", "1"]
    assert _one_gpu("cpu", 0) == {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert _one_gpu("auto", 0) == {}


def test_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_device("auto")
    with pytest.raises(InputError, match="this machine has no such device"):
        check_device("cuda")
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        check_device("gpu")


@pytest.mark.slow
def test_a_model_scored_again_on_the_same_split_scores_the_same(site, smoke_root):
    path = Path(__file__).parents[3] / "studies" / "smoke.yaml"
    study = load_study(path, ["schedule.steps=1", "paths=[]", "arms={}", "data.also_score=[synthetic_val]"])
    plan = plan_study(study, smoke_root.fingerprint(), int)
    states = execute(plan, site, lambda _: None)
    assert {state.status for state in states.values()} == {"done"}
    trained, again = (site.folder(row.job).result() for row in plan.rows)
    assert again.metrics == trained.metrics
    assert not (site.folder(plan.rows[1].job).path / "metrics.jsonl").exists()


def test_the_time_left_is_unknown_until_steps_of_this_process_were_timed(site, plan, monkeypatch):
    job = plan.jobs[_ids(plan)["teacher"]]
    job = replace(
        job, spec=job.spec.model_copy(update={"schedule": job.spec.schedule.model_copy(update={"steps": 100})})
    )
    state, folder = JobState(job, "running"), site.folder(job.id)
    folder.write("job.json", {})
    worker = _Worker(ForkedJob.__new__(ForkedJob), 0, steps_before=10)
    for now, steps, left in ((0.0, 10, None), (60.0, 11, None), (64.0, 19, None), (70.0, 31, 34.5)):
        monkeypatch.setattr(executor.time, "monotonic", lambda now=now: now)
        folder.log_step(steps - 1, {"loss": 1.0})
        _follow(state, worker, site)
        # Twenty steps in ten seconds; starting took a minute, which says nothing.
        assert state.seconds_left == left


@pytest.mark.parametrize("times", [1, 2])
def test_jobs_whose_server_ends_are_started_once_more(site, plan, monkeypatch, times):
    started = []

    class Ended(ForkedJob):
        def __init__(self, code):
            self.returncode = code

        def poll(self):
            return self.returncode

        def stop(self):
            pass

    def start(plan, job, site, slot):
        started.append(job.id)
        if started.count(job.id) <= times:
            return _Worker(Ended(CLOSED), slot)
        site.folder(job.id).complete(Result({}, parameters=1, seconds=0.0, machine={}))
        return _Worker(Ended(DONE), slot)

    monkeypatch.setattr(executor, "_start", start)
    monkeypatch.setattr(executor, "RETRY_BUSY_SECONDS", 0.0)
    monkeypatch.setattr(executor, "POLL_SECONDS", 0.0)
    states = execute(plan, site, lambda _: None)
    if times == 1:
        assert {state.status for state in states.values()} == {"done"}
    else:
        baseline = states[_ids(plan)["baseline"]]
        assert baseline.status == "failed"
        assert "lost the process that starts jobs" in baseline.reason
    assert max(map(started.count, started)) == 2
