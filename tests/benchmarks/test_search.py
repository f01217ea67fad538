"""What a search adds to the trainings of a trial: the next values, its reports and its end, in a journal of 100 trials.

Measured only with ``pytest tests/benchmarks --benchmark-enable -s``; without it the body runs once, on less, as a test.
"""

import math

from harness.search.loop import search
from harness.search.trials import open_book
from harness.study.search_spec import SearchSpec

REPORTS = 10


def test_a_trial_that_trains_nothing(benchmark, tmp_path):
    weight = {"low": 0.01, "high": 100.0, "log": True}
    space = {f"losses.{name}.weight": weight for name in ("feature", "relation", "response")}
    spec = SearchSpec.model_validate({"space": space, "pruner": "median"})

    def untrained(proposals, stopping, worker):
        [proposal] = proposals
        good = -sum(math.log(value) ** 2 for value in proposal.values.values())
        for epoch in range(REPORTS):
            proposal.report(epoch, good)
        return [(good,)]

    with open_book(tmp_path / "search", None, spec, {}) as book:
        before = 100 if benchmark.enabled else 12
        search(book, untrained, before, 1, None, lambda ended: None)

        def one_more():
            search(book, untrained, len(book.counted()) + 1, 1, None, lambda ended: None)

        benchmark.pedantic(one_more, rounds=20 if benchmark.enabled else 1)
        assert len(book.counted()) > before
        assert all(len(trial.intermediate_values) == REPORTS for trial in book.counted())
