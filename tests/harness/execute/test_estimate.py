"""The time of a plan comes from finished jobs of the same kind, or from steps of its detectors."""

from dataclasses import replace
from pathlib import Path

import pytest

from detectors.cost import Cost
from harness.execute import estimate as module
from harness.execute.estimate import estimate
from harness.execute.site import Site
from harness.jobs.kind import JobOrder
from harness.runs.folder import Result
from harness.study.load import load_study
from harness.study.plan import plan_study

STUDY = Path(__file__).parents[3] / "studies" / "smoke.yaml"


@pytest.fixture(autouse=True)
def cache_folder(monkeypatch, tmp_path):
    """One of its own: step times are kept in the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def plan_of(smoke_root):
    return lambda *changes: plan_study(load_study(STUDY, changes), smoke_root.fingerprint(), int)


@pytest.fixture
def site(smoke_root, tmp_path):
    return Site(tmp_path / "runs", smoke_root, device="cpu", workers=1)


def _finish(plan, site, seconds):
    """As if the plan had been run."""
    for job in plan.jobs.values():
        teacher = plan.jobs[job.spec.teacher].spec if job.spec.teacher else None
        order = JobOrder(
            spec=job.spec,
            label=job.label,
            root=site.root.path,
            version=site.root.version,
            teacher_spec=teacher,
            teacher_weights=None,
            given_weights=None,
            device="cpu",
            threads=1,
            loader_workers=0,
        )
        site.folder(job.id).write("job.json", order.model_dump(mode="json"))
        site.folder(job.id).complete(Result({}, 1, seconds, {"device": "cpu (x86_64)", "threads": "1"}))


def test_other_seeds_and_weights_take_as_long_and_workers_share(plan_of, site):
    _finish(plan_of(), site, seconds=7.0)
    other = plan_of("seeds=[5]", "losses.feature.weight=9", "teachers.lidar.seed=5")
    todo = list(other.jobs.values())
    needed = estimate(other, todo, site)
    assert needed.by_runs == 3
    assert needed.seconds == pytest.approx(21)
    # Teacher and baseline at once, then the student, which waits for its teacher.
    assert estimate(other, todo, replace(site, workers=2)).seconds == pytest.approx(14)
    assert estimate(other, todo[:1], replace(site, workers=2)).seconds == pytest.approx(7)


def test_without_runs_the_steps_of_detectors_are_timed(plan_of, site, monkeypatch):
    seconds = {True: 0.9, False: 0.3}
    timed = []

    def measure(spec, *_):
        timed.append(spec)
        return Cost(1, 1, (1, 1, 1), step_seconds=seconds[spec.camera is not None])

    monkeypatch.setattr("detectors.cost.measure", measure)
    _finish(plan_of(), site, seconds=7.0)
    longer = plan_of("schedule.steps=100")  # of another kind than the finished ones
    needed = module.estimate(longer, list(longer.jobs.values()), site)
    # A third of a step is the forward pass: of the teacher in each of the student's steps, and of each to be scored.
    scored = len(site.root.tokens("synthetic_val")) / 2 * (0.3 + 0.9 + 0.9) / 3
    assert needed.by_runs == 0
    assert needed.seconds == pytest.approx(100 * 0.3 + 100 * 0.9 + 100 * (0.9 + 0.1) + scored)
    # Each model once, and never again on this machine, unless the file of times is damaged.
    assert len(timed) == 2
    assert module.estimate(longer, list(longer.jobs.values()), site) == needed
    assert len(timed) == 2
    module.steps_file().write_text("[")
    assert module.estimate(longer, list(longer.jobs.values()), site) == needed
    assert len(timed) == 4


def test_times_that_cannot_be_kept_cost_no_estimate(plan_of, site, monkeypatch, tmp_path):
    (tmp_path / "a file").write_text("")
    monkeypatch.setattr(module, "steps_file", lambda: tmp_path / "a file" / "step_seconds.json")
    monkeypatch.setattr("detectors.cost.measure", lambda spec, *_: Cost(1, 1, (1, 1, 1), step_seconds=0.5))
    assert module.estimate(plan_of(), list(plan_of().jobs.values()), site).seconds > 0


def test_students_that_train_side_by_side_share_their_teacher(plan_of, site, monkeypatch):
    monkeypatch.setattr("detectors.cost.measure", lambda spec, *_: Cost(1, 1, (1, 1, 1), step_seconds=0.3))
    plan = plan_of("schedule.steps=100", "arms={a: [feature], b: [relation], c: [response]}")
    students = [row.job for row in plan.rows if row.role == "student"]
    todo = list(plan.jobs.values())
    by_job = {limit: estimate(plan, todo, replace(site, lockstep=limit)).by_job for limit in (1, 2, 3)}
    for id_ in students:
        alone, two, three = (by_job[limit][id_] for limit in (1, 2, 3))
        assert alone - two == pytest.approx(100 * 0.1 / 2)
        assert alone - three == pytest.approx(100 * 0.1 * 2 / 3)


def test_what_is_timed_for_the_first_time_is_told_once(plan_of, site, monkeypatch):
    monkeypatch.setattr("detectors.cost.measure", lambda spec, *_: Cost(1, 1, (1, 1, 1), step_seconds=0.3))
    plan, told = plan_of(), []
    for _ in range(2):
        estimate(plan, list(plan.jobs.values()), site, told.append)
    assert told == ["timing a training step of each detector, once on this machine"]


def test_nothing_to_run_takes_no_time(plan_of, site):
    assert estimate(plan_of(), [], site).seconds == 0
