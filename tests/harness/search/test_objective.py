"""Trials as ordinary jobs: what a space turns into, what is trained once for all, and what a failed job leaves."""

from dataclasses import replace

import pytest
import yaml
from rich.console import Console

from harness.data.root import NuScenesRoot
from harness.execute.site import Site
from harness.execute.state import JobState
from harness.opened import Planner
from harness.runs.folder import Result
from harness.search import objective
from harness.search.confirmation import CURRENT, FOUND, joined, variant, write_found
from harness.search.loop import Proposal, Pruned, TrialFailed
from harness.search.objective import Trainer
from harness.search.opened_search import open_search
from harness.search.trials import REASON, open_book
from harness.study.load import load_study
from harness.study.plan import plan_study

WEIGHT, LR, SWITCH, ADAPTER, PRESET = (
    "losses.feature.weight",
    "schedule.lr",
    "arms.both.relation",
    "losses.feature.adapter",
    "students.radar.preset",
)
SPACE = {
    WEIGHT: {"low": 1.0e-5, "high": 10.0, "log": True},
    LR: {"choices": [0.001, 0.002]},
    SWITCH: {"choices": [True, False]},
    ADAPTER: {"choices": ["none", "conv3x3"]},
    PRESET: {"choices": ["tiny_radar", "tiny_lidar"]},
}
STUDY = {
    "data": {"preset": "smoke"},
    "schedule": {"steps": 4, "batch_size": 2, "lr": 0.002},
    "teachers": {"lidar": {"preset": "tiny_lidar", "seed": 0}},
    "students": {"radar": {"preset": "tiny_radar"}},
    "paths": ["lidar->radar"],
    "losses": {"feature": {"weight": 1.0}, "relation": {"weight": 0.5}},
    "arms": {"both": ["feature", "relation"]},
    "seeds": [0, 1],
}


class Trainings:
    """In place of the executor: what it was asked to train, each job as good as a function of its spec says."""

    def __init__(self, failing=()):
        self.jobs, self.failing = [], set(failing)
        self.walks, self.dropped = [], []

    def __call__(self, plan, site, watch, unwanted):
        self.walks.append(plan)
        states = {}
        for id_, job in plan.jobs.items():
            states[id_] = JobState(job, "done")
            if job.spec.teacher is not None and job.spec.losses["feature"]["weight"] in self.failing:
                states[id_] = JobState(job, "failed", "loss 'feature' is nan in step 3")
            elif site.folder(id_).result() is None:
                self.jobs.append(id_)
                good = job.spec.losses.get("feature", {"weight": 0.1})["weight"]
                metrics = {"NDS": good / 100, "mAP": job.spec.schedule.lr / 100}
                site.folder(id_).complete(Result(metrics, parameters=1, seconds=0.0, machine={}))
        watch(states)
        self.dropped.append(set(unwanted()))
        return states


@pytest.fixture
def make(tmp_path, smoke_root, monkeypatch):
    """Opened search, trainer and the list of trainings of a search."""

    def make(given=(), failing=(), **search):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({**STUDY, "search": {"space": SPACE, **search}}))
        opened = open_search(path, given)
        trainings = Trainings(failing)
        monkeypatch.setattr(objective, "execute", trainings)
        site = Site(tmp_path / "runs", smoke_root, device="cpu", workers=1)
        trainer = Trainer(opened, Planner(smoke_root, Console(quiet=True)), site, lambda plan: None)
        return opened, trainer, trainings

    return make


def run(folder, opened, trainer, trials, together=1):
    """The trials of a search, all told."""
    from harness.search.loop import search

    with open_book(folder, None, opened.search, {}) as book:
        search(book, trainer.evaluate, trials, 1, None, lambda ended: None, together)
        return book.study.trials, book.best()


def proposal(values, report=lambda epoch, value: False):
    return Proposal(values, report)


def never():
    return False


def test_two_objectives_and_every_kind_of_field_and_no_job_trained_twice(make, tmp_path):
    space = {**SPACE, WEIGHT: {"choices": [1, 2.5]}}
    opened, trainer, trainings = make(space=space, objective=["mAP", "NDS"], sampler="grid", seeds=[100, 101])
    trials, best = run(tmp_path / "search", opened, trainer, 99)
    # A grid has an end, whatever is asked for.
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2**5
    assert len(trainings.jobs) == len(set(trainings.jobs))
    # A student for every seed; a teacher for each learning rate.
    assert len(trainings.jobs) == 2 * 2**5 + 2
    for trial in trials:
        assert trial.values == pytest.approx([trial.params[LR], trial.params[WEIGHT]])
    assert {(trial.params[LR], trial.params[WEIGHT]) for trial in best} == {(0.002, 2.5)}
    # The same values, written otherwise, are the same jobs.
    [again] = trainer.evaluate([proposal(trials[0].params | {WEIGHT: float(trials[0].params[WEIGHT])})], never, 0)
    assert again == tuple(trials[0].values)
    assert len(trainings.jobs) == 2 * 2**5 + 2


@pytest.mark.parametrize("given", [(), ("schedule.steps=6", "losses.relation.weight=0.25")])
@pytest.mark.parametrize(
    "values",
    [
        {WEIGHT: 1.0e-5, LR: 0.001, SWITCH: False, ADAPTER: "conv3x3", PRESET: "tiny_lidar"},
        {WEIGHT: 3.0, LR: 0.002, SWITCH: True, ADAPTER: "none", PRESET: "tiny_radar"},
    ],
    ids=["all else", "all the same"],
)
def test_the_found_study_is_the_jobs_that_confirmed_it(make, smoke_root, tmp_path, values, given):
    opened, trainer, _ = make(given, confirm={"seeds": [0, 1]}, share=0.5)
    write_found(opened, values, tmp_path / "found.yaml", ["found"])
    planned = plan_study(load_study(tmp_path / "found.yaml"), smoke_root.fingerprint(), int)
    confirmed = trainer.planned(variant(opened, FOUND, values))
    assert planned.jobs.keys() == confirmed.jobs.keys()
    # On other scenes, in half the steps: a trial has no job in common with what is reported.
    assert not planned.jobs.keys() & trainer.plan(values).jobs.keys()


def test_without_any_loss_the_found_study_is_the_baseline(make, smoke_root, tmp_path):
    switches = ("arms.both.feature", "arms.both.relation")
    opened, trainer, _ = make(space={key: {"choices": [True, False]} for key in switches}, confirm={"seeds": [2]})
    none = dict.fromkeys(switches, False)
    assert trainer.plan(none).jobs.keys() == trainer.baseline().jobs.keys()
    write_found(opened, none, tmp_path / "found.yaml", ["found"])
    planned = plan_study(load_study(tmp_path / "found.yaml"), smoke_root.fingerprint(), int)
    assert {row.role for row in planned.rows} == {"baseline"}


def test_a_variants_own_baseline_is_no_seed_of_the_other(make):
    opened, trainer, _ = make(confirm={"seeds": [0, 1]})
    values = {FOUND: {WEIGHT: 2.0, LR: 0.001, SWITCH: True, ADAPTER: "none", PRESET: "tiny_radar"}, CURRENT: {}}
    plan = joined({name: trainer.planned(variant(opened, name, each)) for name, each in values.items()})
    arms = {(row.arm, row.seed): row.job for row in plan.rows if row.role == "baseline"}
    assert {arm for arm, _ in arms} == {"baseline", "baseline of found"}
    assert len(set(arms.values())) == 4
    for row in plan.rows:
        if row.role == "student":
            assert row.baseline == arms["baseline of found" if row.arm == FOUND else "baseline", row.seed]


def test_the_tables_are_read_once_for_all_trials(make, monkeypatch):
    read = []
    count, fingerprint = NuScenesRoot.count, NuScenesRoot.fingerprint
    monkeypatch.setattr(NuScenesRoot, "count", lambda root, *which: read.append("count") or count(root, *which))
    monkeypatch.setattr(NuScenesRoot, "fingerprint", lambda root: read.append("fingerprint") or fingerprint(root))
    _, trainer, _ = make(["schedule.steps=null", "schedule.epochs=2"])
    for weight in (1.0, 2.0, 3.0):
        trainer.evaluate([proposal({WEIGHT: weight})], never, 0)
    assert sorted(read) == ["count", "fingerprint"]


def test_where_the_data_lies_is_no_part_of_what_a_search_is(make):
    here, there = (make([f"data.root={place}"])[0].identity("content") for place in ("/here", "/there"))
    assert here == there


def test_a_failed_job_fails_its_trial_and_says_why(make, tmp_path):
    space = {WEIGHT: {"choices": [1.0, 2.0, 3.0]}}
    opened, trainer, _ = make(space=space, sampler="grid", failing=[2.0])
    trials, best = run(tmp_path / "search", opened, trainer, 3)
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    assert [trial.params for trial in failed] == [{WEIGHT: 2.0}]
    assert "lidar->radar · both · seed 100 [" in failed[0].user_attrs[REASON]
    assert failed[0].user_attrs[REASON].endswith("]: loss 'feature' is nan in step 3")
    assert [trial.params for trial in best] == [{WEIGHT: 3.0}]


def test_trials_that_are_proposed_together_are_one_walk_and_each_has_its_own_outcome(make):
    space = {WEIGHT: {"choices": [1.0, 2.0, 3.0, 4.0]}}
    _, trainer, trainings = make(space=space, failing=[2.0])
    students = {weight: trainer.plan({WEIGHT: weight}).rows[-1].job for weight in (1.0, 3.0)}
    trainer.site.folder(students[3.0]).path.mkdir(parents=True)
    for step in range(99):
        trainer.site.folder(students[3.0]).log_step(step, {"raw/heatmap": 1.0, "raw/boxes": 1.5})
    reports = []

    def prune(epoch, value):
        reports.append((epoch, value))
        return epoch == 1

    asked = [proposal({WEIGHT: weight}, prune) for weight in (1.0, 2.0, 3.0, 1.0)]
    first, failed, pruned, again = trainer.evaluate(asked, never, 0)
    assert first == again == (1.0,)
    assert isinstance(failed, TrialFailed)
    assert str(failed).endswith("loss 'feature' is nan in step 3")
    assert isinstance(pruned, Pruned)
    assert reports == [(0, -2.5), (1, -2.5)]
    # One teacher and three students; the teacher is wanted by the others.
    assert [len(plan.jobs) for plan in trainings.walks] == [4]
    assert trainings.dropped == [{students[3.0]}]


def test_trials_that_differ_in_losses_alone_are_proposed_together(make):
    losses = {WEIGHT: {"choices": [1.0, 2.0]}, SWITCH: {"choices": [True, False]}}
    assert make(space=losses)[1].together == 2
    assert make(space=losses, sampler="grid")[1].together == 4
    assert make(space=losses | {LR: {"choices": [0.001, 0.002]}}, sampler="grid")[1].together == 1
    _, trainer, _ = make()
    assert replace(trainer, site=replace(trainer.site, lockstep=3)).together == 3


def test_a_metric_that_is_no_number_fails_its_trial(make):
    _, trainer, trainings = make()
    plan = trainer.plan({})
    trainings(plan, trainer.site, lambda states: None, tuple)
    for row in plan.rows:
        folder = trainer.site.folder(row.job)
        folder.complete(replace(folder.result(), metrics={"NDS": float("nan")}))
    with pytest.raises(TrialFailed, match=r"NDS are \[nan\]"):
        trainer.score(plan)
