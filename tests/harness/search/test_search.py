"""The loop of a search: counted trials, dead owners, failures, and samplers that are better than chance."""

import math
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.errors import InputError
from harness.search import loop
from harness.search.loop import MOST_FAILURES, Pruned, Stopped, TrialFailed, search
from harness.search.trials import DIED, INTERRUPTED, OWNER, REASON, open_book
from harness.study.search_spec import SearchSpec

IDENTITY = {"what": "a test"}


@pytest.fixture
def spec():
    """A search over two weights and a switch."""

    def make(**fields):
        space = {
            "losses.a.weight": {"low": 0.01, "high": 100.0, "log": True},
            "losses.b.weight": {"low": 0.01, "high": 100.0, "log": True},
        }
        return SearchSpec.model_validate({"space": space, **fields})

    return make


def one_by_one(evaluate):
    """An evaluation of several proposals from that of one."""

    def outcome(proposal, stopping, worker):
        try:
            return evaluate(proposal.values, proposal.report, stopping, worker)
        except (Pruned, TrialFailed) as ended:
            return ended

    return lambda proposals, stopping, worker: [outcome(each, stopping, worker) for each in proposals]


def planted(values, report, stopping, worker):
    """Best at a = 3 and b = 0.2, where it is 0; falls with the distance in orders of magnitude."""
    gap = math.log10(values["losses.a.weight"] / 3) ** 2 + math.log10(values["losses.b.weight"] / 0.2) ** 2
    return (-gap,)


def run(folder, search_spec, evaluate=planted, trials=5, workers=1, together=1):
    ended = []
    with open_book(folder, None, search_spec, IDENTITY) as book:
        search(book, one_by_one(evaluate), trials, workers, None, ended.append, together)
        return [(trial.state.name, trial.values, trial.params) for trial in book.study.trials], ended


def best(trials):
    return max(values[0] for state, values, _ in trials if state == "COMPLETE")


@pytest.mark.slow
def test_tpe_finds_a_planted_optimum_better_than_chance_does(tmp_path, spec):
    wins = 0
    for seed in range(10):
        values = {
            sampler: best(run(tmp_path / f"{sampler}-{seed}", spec(sampler=sampler, sampler_seed=seed), trials=40)[0])
            for sampler in ("tpe", "random")
        }
        wins += values["tpe"] > values["random"]
    assert wins >= 8


def test_as_many_trials_as_asked_for_and_no_more_by_several_workers(tmp_path, spec):
    trials, ended = run(tmp_path / "search", spec(), trials=13, workers=4)
    assert [state for state, *_ in trials] == ["COMPLETE"] * 13
    assert sorted(each.number for each in ended) == list(range(13))
    # Called again with the same number there is nothing left to do.
    again, more = run(tmp_path / "search", spec(), trials=13)
    assert (len(again), more) == (13, [])


def test_values_are_proposed_together_and_each_worker_leaves_the_others_as_many(tmp_path, spec):
    sizes = []

    def evaluate(proposals, stopping, worker):
        sizes.append(len(proposals))
        return [planted(each.values, each.report, stopping, worker) for each in proposals]

    found = []
    for name in ("one", "other"):
        with open_book(tmp_path / name / "search", None, spec(), IDENTITY) as book:
            search(book, evaluate, 10, 1, None, lambda ended: None, 4)
            found.append([trial.params for trial in book.study.trials])
    assert sizes == 2 * [4, 4, 2]
    assert found[0] == found[1], "the seed decides what is proposed"
    with open_book(tmp_path / "search", None, spec(), IDENTITY) as book:
        assert [len(book.ask(7, most=4, workers=2)) for _ in range(4)] == [4, 2, 1, 0]


def test_of_trials_that_run_together_each_has_its_own_end(tmp_path, spec):
    def evaluate(proposals, stopping, worker):
        assert not any(each.report(0, 0.5) for each in proposals)
        return [(1.0,), Pruned(), TrialFailed("loss 'a' is nan")] if len(proposals) == 3 else [(0.5,)]

    with open_book(tmp_path / "search", None, spec(), IDENTITY) as book:
        ended = []
        search(book, evaluate, 3, 1, None, ended.append, 3)
        assert [(trial.state.name, trial.user_attrs.get(REASON)) for trial in ended] == [
            ("COMPLETE", None),
            ("PRUNED", None),
            ("FAIL", "loss 'a' is nan"),
            ("COMPLETE", None),
        ]


def test_trials_that_are_interrupted_together_are_all_tried_again(tmp_path, spec):
    calls = []

    def interrupted(proposals, stopping, worker):
        calls.append([each.values for each in proposals])
        if len(calls) == 1:
            raise Stopped
        return [planted(each.values, each.report, stopping, worker) for each in proposals]

    with open_book(tmp_path / "search", None, spec(), IDENTITY) as book:
        search(book, interrupted, 3, 1, None, lambda ended: None, 3)
        states = [trial.state.name for trial in book.study.trials]
    assert states == ["FAIL"] * 3 + ["COMPLETE"] * 3
    assert calls[0] == calls[1]


def test_an_interrupted_trial_is_tried_again_with_its_values(tmp_path, spec):
    calls = []

    def interrupted(values, report, stopping, worker):
        calls.append(dict(values))
        if len(calls) == 3:
            raise Stopped
        return planted(values, report, stopping, worker)

    trials, _ = run(tmp_path / "search", spec(), interrupted, trials=4)
    assert sorted(state for state, *_ in trials) == ["COMPLETE"] * 4 + ["FAIL"]
    assert calls.count(calls[2]) == 2


def test_a_dead_owners_trial_is_told_fail_and_tried_again(tmp_path, spec):
    folder = tmp_path / "search"
    with open_book(folder, None, spec(), IDENTITY) as book:
        [trial] = book.ask(5)
        values = dict(trial.params)
        # An owner of this machine whose lock nobody holds.
        trial.set_user_attr(OWNER, book.study.trials[0].user_attrs[OWNER].replace(book._owner, "gone"))
    trials, _ = run(folder, spec(), trials=3)
    assert [state for state, *_ in trials].count("FAIL") == 1
    assert next(params for state, _, params in trials if state == "COMPLETE") == values
    assert sum(state == "COMPLETE" for state, *_ in trials) == 3


def test_values_that_a_trial_was_given_but_had_not_taken_on_when_it_was_killed_are_tried(tmp_path, spec):
    given = {"losses.a.weight": 3.0, "losses.b.weight": 0.2}
    with open_book(tmp_path / "search", None, spec(), IDENTITY) as book:
        book.enqueue(given, "current")
        # As Optuna leaves it between its first and second entry: running, without values, and nobody's.
        assert book.study.ask().params == {}
    trials, _ = run(tmp_path / "search", spec(), trials=1)
    assert [(state, params) for state, _, params in trials] == [("FAIL", {}), ("COMPLETE", given)]


def test_who_has_nothing_to_begin_waits_for_the_others_and_takes_over_what_they_leave(tmp_path, spec, monkeypatch):
    monkeypatch.setattr(loop, "WAIT_SECONDS", 0.01)
    with (
        open_book(tmp_path / "search", None, spec(), IDENTITY) as mine,
        open_book(tmp_path / "search", None, spec(), IDENTITY) as other,
        ThreadPoolExecutor() as pool,
    ):
        [theirs] = other.ask(2)
        ended = threading.Semaphore(0)
        running = pool.submit(loop.search, mine, one_by_one(planted), 2, 1, None, lambda _: ended.release())
        ended.acquire()
        assert not running.done()
        other.close()
        running.result()
        trials = mine.study.trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[0].user_attrs[REASON] == DIED
    assert trials[2].params == theirs.params


def test_ctrl_c_gives_all_trials_back(tmp_path, spec):
    both = threading.Barrier(2)
    tried = []

    def until_stopped(values, report, stopping, worker):
        tried.append(values)
        if both.wait() == 0:
            signal.raise_signal(signal.SIGINT)
        while not stopping():
            time.sleep(0.001)
        raise Stopped

    with open_book(tmp_path / "search", None, spec(), IDENTITY) as book:
        with pytest.raises(KeyboardInterrupt):
            search(book, one_by_one(until_stopped), 3, 2, None, lambda ended: None)
        assert [(trial.state.name, trial.user_attrs[REASON]) for trial in book.study.trials] == [
            ("FAIL", INTERRUPTED),
            ("FAIL", INTERRUPTED),
        ]
    trials, _ = run(tmp_path / "search", spec(), trials=3)
    complete = [params for state, _, params in trials if state == "COMPLETE"]
    assert len(complete) == 3
    assert all(values in complete for values in tried)


def test_failures_have_a_reason_and_too_many_in_a_row_end_the_search(tmp_path, spec):
    def failing(values, report, stopping, worker):
        raise TrialFailed("loss 'a' is nan")

    with open_book(tmp_path / "search", None, spec(), {}) as book:
        with pytest.raises(
            TrialFailed, match=f"{MOST_FAILURES} trials failed in a row; reason of the last one: loss 'a' is nan"
        ):
            search(book, one_by_one(failing), 20, 1, None, lambda ended: None)
        trials = book.study.trials
    assert [trial.state.name for trial in trials] == ["FAIL"] * MOST_FAILURES
    assert {trial.user_attrs[REASON] for trial in trials} == {"loss 'a' is nan"}


def test_a_storage_of_another_search_is_refused(tmp_path, spec):
    with open_book(tmp_path / "search", None, spec(), {"share": 0.5}):
        pass
    words = "contains a different search named 'search': share is 0.5 there, 1.0 here"
    with pytest.raises(InputError, match=words), open_book(tmp_path / "search", None, spec(), {"share": 1.0}):
        pass


def test_a_line_that_a_killed_process_left_unfinished_is_cut_off(tmp_path, spec):
    run(tmp_path / "search", spec(), trials=2)
    with (tmp_path / "search" / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code": 4, "half')
    trials, _ = run(tmp_path / "search", spec(), trials=4)
    assert [state for state, *_ in trials] == ["COMPLETE"] * 4


def test_median_pruner_ends_what_is_worse_than_the_others(tmp_path, spec):
    number = iter(range(100))
    lock = threading.Lock()

    def course(values, report, stopping, worker):
        with lock:
            mine = next(number)
        for epoch in range(6):
            if report(epoch, -float(mine)):
                raise Pruned
        return (-float(mine),)

    trials, ended = run(tmp_path / "search", spec(pruner="median"), course, trials=10)
    assert [each.state.name for each in ended][:5] == ["COMPLETE"] * 5
    assert {each.state.name for each in ended[5:]} == {"PRUNED"}
    assert sum(state == "PRUNED" for state, *_ in trials) == 5


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"space": {"losses.a.weight": {"low": 2.0, "high": 1.0}}}, "low 2 is not below high 1"),
        (
            {"space": {"losses.a.weight": {"low": 0.0, "high": 1.0, "log": True}}},
            "on a log scale, low must be above 0",
        ),
        ({"sampler": "grid"}, "a grid needs a step in every range; space.losses.a.weight has none"),
        ({"objective": ["mAP", "NDS"], "pruner": "median"}, "cannot be pruned"),
        ({"trials": 0}, "greater than 0"),
    ],
)
def test_a_space_that_spans_nothing_is_refused(spec, fields, words):
    with pytest.raises(ValueError, match=words):
        spec(**fields)
