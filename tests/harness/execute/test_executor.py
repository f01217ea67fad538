"""The walk over the DAG: teachers first, a failure fails its dependents alone, and the next call retries only that."""

from dataclasses import replace
from pathlib import Path

import pytest

import harness.execute.site
from harness.execute import executor
from harness.execute.executor import _follow, _Timed, _Worker, execute
from harness.execute.site import Site, open_site
from harness.execute.state import JobState
from harness.jobs.fork_server import CLOSED, ForkedJob
from harness.jobs.kind import DONE, FAILED, STOPPED
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

    def trained_elsewhere(plan, jobs, site, slot):
        (job,) = jobs
        started.append(job.id)
        site.folder(job.id).complete(Result({}, parameters=1, seconds=0.0, machine={}))
        raise Busy

    monkeypatch.setattr(executor, "_start", trained_elsewhere)
    monkeypatch.setattr(executor, "RETRY_BUSY_SECONDS", 0.0)
    states = executor.execute(plan, site, lambda _: None)
    assert {state.status for state in states.values()} == {"done"}
    assert sorted(started) == sorted(plan.jobs)


def test_default_is_a_worker_a_core_without_a_gpu(monkeypatch, smoke_root):
    monkeypatch.setattr(harness.execute.site, "resolve_device", lambda device: device)
    monkeypatch.setattr(harness.execute.site, "_cores", lambda: 3)

    def on(device, **given):
        opened = open_site(Path("runs"), smoke_root, device, **given)
        return opened.workers, opened.loader_workers

    assert on("cpu") == (3, 0)
    monkeypatch.setattr(harness.execute.site, "gpu_count", lambda: 2)
    assert on("cuda") == (2, 1)
    assert on("cuda", workers=1) == (1, 3)
    assert on("cpu") == (3, 0)
    assert on("cpu", workers=2, loader_workers=4) == (2, 4)


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
    timed = _Timed(steps_before=10)
    for now, steps, left in ((0.0, 10, None), (60.0, 11, None), (64.0, 19, None), (70.0, 31, 34.5)):
        monkeypatch.setattr(executor.time, "monotonic", lambda now=now: now)
        folder.log_step(steps - 1, {"loss": 1.0})
        _follow(state, timed, site)
        # Twenty steps in ten seconds; starting took a minute, which says nothing.
        assert state.seconds_left == left


class Ended(ForkedJob):
    """A process that has ended."""

    def __init__(self, code):
        self.returncode = code

    def poll(self):
        return self.returncode

    def stop(self):
        pass


@pytest.mark.parametrize("times", [1, 2])
def test_jobs_whose_server_ends_are_started_once_more(site, plan, monkeypatch, times):
    started = []

    def start(plan, jobs, site, slot):
        (job,) = jobs
        started.append(job.id)
        if started.count(job.id) <= times:
            return _Worker(Ended(CLOSED), slot, {job.id: _Timed()})
        site.folder(job.id).complete(Result({}, parameters=1, seconds=0.0, machine={}))
        return _Worker(Ended(DONE), slot, {job.id: _Timed()})

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


@pytest.fixture
def arms(smoke_root):
    """A plan of one baseline and one teacher, with four arms of one student."""
    path = Path(__file__).parents[3] / "studies" / "smoke.yaml"
    arms = "arms={a: [feature], b: [relation], c: [response], d: [feature, response]}"
    return plan_study(load_study(path, ["schedule.steps=2", arms]), smoke_root.fingerprint(), int)


def _walk(plan, site, monkeypatch, end):
    """Execute with workers that end at once; `end` takes the jobs of a worker and returns its exit status."""
    started = []

    def start(plan, jobs, site, slot):
        started.append([job.id for job in jobs])
        return _Worker(Ended(end(jobs)), slot, {job.id: _Timed() for job in jobs})

    monkeypatch.setattr(executor, "_start", start)
    monkeypatch.setattr(executor, "RETRY_BUSY_SECONDS", 0.0)
    monkeypatch.setattr(executor, "POLL_SECONDS", 0.0)
    return execute(plan, site, lambda _: None), started


def _complete(site, jobs):
    for job in jobs:
        site.folder(job.id).complete(Result({}, parameters=1, seconds=0.0, machine={}))
    return DONE


@pytest.mark.parametrize(("lockstep", "together"), [(None, [2, 2]), (1, [1, 1, 1, 1]), (3, [2, 2])])
def test_arms_of_a_student_share_processes_and_leave_none_idle(site, arms, monkeypatch, lockstep, together):
    site = replace(site, lockstep=lockstep)
    states, started = _walk(arms, site, monkeypatch, lambda jobs: _complete(site, jobs))
    assert {state.status for state in states.values()} == {"done"}
    students = {row.job for row in arms.rows if row.role == "student"}
    assert [len(jobs) for jobs in started if set(jobs) <= students] == together


def test_longest_chain_starts_first(site, arms, monkeypatch):
    site = replace(site, workers=1)
    _, started = _walk(arms, site, monkeypatch, lambda jobs: _complete(site, jobs))
    # Four students wait for the teacher and none for the baseline, which comes before them in the plan only.
    assert [len(jobs) for jobs in started] == [1, 1, 4]
    assert started[0] == [_ids(arms)["teacher"]]
    seconds = dict.fromkeys(arms.jobs, 2.0) | {_ids(arms)["baseline"]: 9.0}
    fresh = replace(site, runs=site.runs / "again")
    first = []

    def interrupted(plan, jobs, site, slot):
        first.append(jobs)
        raise KeyboardInterrupt

    monkeypatch.setattr(executor, "_start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(arms, fresh, lambda _: None, expected=seconds)
    assert [job.id for job in first[0]] == [_ids(arms)["baseline"]]


def test_jobs_whose_shared_process_is_killed_are_each_tried_alone(site, arms, monkeypatch):
    site = replace(site, workers=1)
    states, started = _walk(
        arms, site, monkeypatch, lambda jobs: -9 if len(jobs) > 1 or "· c ·" in jobs[0].label else _complete(site, jobs)
    )
    assert [len(jobs) for jobs in started] == [1, 1, 4, 1, 1, 1, 1]
    failed = [state for state in states.values() if state.status == "failed"]
    assert ["· c ·" in state.job.label for state in failed] == [True]
    assert "ended with exit status -9" in failed[0].reason


def test_each_job_of_a_shared_process_has_its_own_end(site, arms, monkeypatch):
    site = replace(site, workers=1)

    def end(jobs):
        if len(jobs) < 4:
            return _complete(site, jobs)
        done, broken, *_ = jobs
        _complete(site, [done])
        site.folder(broken.id).write("job.json", {})
        site.folder(broken.id).fail("its reason", wrong_input=False)
        return FAILED

    states, started = _walk(arms, site, monkeypatch, end)
    together = next(jobs for jobs in started if len(jobs) == 4)
    assert [states[id_].status for id_ in together] == ["done", "failed", "done", "done"]
    assert states[together[1]].reason == "its reason"
    # Of two nothing was heard: another process owned their folders.
    assert started[-1] == together[2:]


def test_what_nobody_wants_any_more_is_dropped_and_the_others_go_on(site, arms, monkeypatch):
    students = [row.job for row in arms.rows if row.role == "student"]
    running = []

    class Running(ForkedJob):
        """A process that ends when it has dropped two of its folders."""

        def __init__(self, jobs):
            self.jobs, self.folders = jobs, []

        def drop(self, folder):
            self.folders.append(folder.name)

        def poll(self):
            if not set(students) & {job.id for job in self.jobs}:
                return _complete(site, self.jobs)
            if len(self.folders) < 2:
                return None
            return _complete(site, [job for job in self.jobs if job.id not in self.folders])

        def stop(self):
            pass

        def wait(self, timeout):
            return DONE

    def start(plan, jobs, site, slot):
        running.append(Running(jobs))
        return _Worker(running[-1], slot, {job.id: _Timed() for job in jobs})

    monkeypatch.setattr(executor, "_start", start)
    monkeypatch.setattr(executor, "POLL_SECONDS", 0.0)
    together = replace(site, workers=1)

    def unwanted():
        # Said again and again, as a search does.
        return students[:2] if any(job.id in students for process in running for job in process.jobs) else ()

    states = execute(arms, together, lambda _: None, unwanted=unwanted)
    assert [states[id_].status for id_ in students] == ["dropped", "dropped", "done", "done"]
    assert not any(name in process.folders for process in running for name in students[2:])


def test_stopped_shared_process_says_so_of_each(site, arms, monkeypatch):
    site = replace(site, workers=1)
    states, _ = _walk(arms, site, monkeypatch, lambda jobs: STOPPED if len(jobs) > 1 else _complete(site, jobs))
    assert [state.reason for state in states.values() if state.status == "failed"] == [
        f"the worker was stopped; see {site.folder(id_).log}" for id_, s in states.items() if s.status == "failed"
    ]
    assert sum(state.status == "failed" for state in states.values()) == 4
