"""The loop of a search: get values, train them, and report the result; several trials at once."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

from optuna.trial import FrozenTrial, Trial, TrialState

from harness.search.trials import INTERRUPTED, REASON, TrialBook
from harness.study.search_spec import Value


class Pruned(Exception):
    """A trial was pruned, because others were better at the same epoch."""


class Stopped(Exception):
    """A trial was interrupted; its values are tried again."""


class TrialFailed(Exception):
    """A trial failed; the message is the reason."""


@dataclass(frozen=True)
class Proposal:
    """The values of a trial."""

    values: Mapping[str, Value]
    report: Callable[[int, float], bool]
    """Takes an epoch and how good the training is there; whether to give it up."""


Outcome = tuple[float, ...] | Pruned | TrialFailed
"""The objectives' values of a trial, or why it has none."""
Evaluate = Callable[[Sequence[Proposal], Callable[[], bool], int], Sequence[Outcome]]
"""Proposals that are trained together, whether to stop, and the number of the worker, to an outcome for each.

Raises:
    Stopped: It was asked to stop.
"""

WAIT_SECONDS = 1.0
"""Seconds between two checks of trials that others run."""
MOST_FAILURES = 5
"""Failures in a row after which the search is aborted, because the cause is then not the values."""


def search(
    book: TrialBook,
    evaluate: Evaluate,
    trials: int,
    workers: int,
    deadline: float | None,
    tell: Callable[[FrozenTrial], None],
    together: int = 1,
) -> None:
    """Go on until so many trials are complete or pruned, or the deadline (of time.monotonic) is over.

    Args:
        book: The search.
        evaluate: Trains and scores trials.
        trials: How many are wanted.
        workers: Threads that evaluate.
        deadline: When no more trials are started; None for never.
        tell: Called with every trial that has ended.
        together: Trials that a worker evaluates at once, at most. Their values are proposed before any of them ends.

    Raises:
        TrialFailed: Too many failed in a row.
        KeyboardInterrupt: After the running trials have been given back.
    """
    stop, counting = threading.Event(), threading.Lock()
    failures = 0

    def count(ended: FrozenTrial) -> None:
        nonlocal failures
        with counting:
            failures = failures + 1 if ended.state == TrialState.FAIL else 0
            if failures >= MOST_FAILURES:
                reason = ended.user_attrs[REASON]
                raise TrialFailed(f"{failures} trials failed in a row; reason of the last one: {reason}")

    def work(worker: int) -> None:
        while not stop.is_set() and (deadline is None or time.monotonic() < deadline):
            asked = book.ask(trials, together, workers)
            if asked:
                for ended in _evaluated(book, asked, evaluate, stop, worker):
                    tell(ended)
                    count(ended)
            elif book.running():
                # It may fail, or its process may die: then there is one more to try. And a report waits for it.
                stop.wait(WAIT_SECONDS)
            else:
                return

    with ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(work, worker) for worker in range(workers)]
        try:
            while wait(running, timeout=1.0, return_when=FIRST_EXCEPTION).not_done:
                book.beat()
                if any(future.done() and future.exception() for future in running):
                    break
        finally:
            stop.set()
    for future in running:
        future.result()


def _evaluated(
    book: TrialBook, trials: Sequence[Trial], evaluate: Evaluate, stop: threading.Event, worker: int
) -> list[FrozenTrial]:
    """Evaluate some trials; how they ended. Of those that were interrupted there is none."""
    try:
        outcomes = evaluate([Proposal(trial.params, _report(trial)) for trial in trials], stop.is_set, worker)
    except Stopped:
        for trial in trials:
            book.end(trial, TrialState.FAIL, reason=INTERRUPTED)
        return []
    except BaseException as error:
        # A bug of ours, or an interrupt: the trials must not stay RUNNING for ever.
        for trial in trials:
            book.end(trial, TrialState.FAIL, reason=f"{type(error).__name__}: {error}")
        raise
    return [_end(book, trial, outcome) for trial, outcome in zip(trials, outcomes, strict=True)]


def _report(trial: Trial) -> Callable[[int, float], bool]:
    def report(epoch: int, value: float) -> bool:
        trial.report(value, epoch)
        return bool(trial.should_prune())

    return report


def _end(book: TrialBook, trial: Trial, outcome: Outcome) -> FrozenTrial:
    match outcome:
        case Pruned():
            return book.end(trial, TrialState.PRUNED)
        case TrialFailed():
            return book.end(trial, TrialState.FAIL, reason=str(outcome))
        case _:
            return book.end(trial, TrialState.COMPLETE, outcome)
