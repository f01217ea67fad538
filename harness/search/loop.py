"""The loop of a search: get values, train them, and report the result; several trials at once."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from optuna.trial import FrozenTrial, Trial, TrialState

from harness.search.trials import INTERRUPTED, REASON, TrialBook
from harness.study.search_spec import Value

Report = Callable[[int, float], bool]
"""Takes an epoch and how good the training is there; whether to give it up."""
Evaluate = Callable[[Mapping[str, Value], Report, Callable[[], bool], int], tuple[float, ...]]
"""Values, report, whether to stop, and the number of the worker, to the objectives' values.

Raises:
    Pruned: Its report said so.
    Stopped: It was asked to stop.
    TrialFailed: There is no value.
"""


class Pruned(Exception):
    """A trial was pruned, because others were better at the same epoch."""


class Stopped(Exception):
    """A trial was interrupted; its values are tried again."""


class TrialFailed(Exception):
    """A trial failed; the message is the reason."""


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
) -> None:
    """Go on until so many trials are complete or pruned, or the deadline (of time.monotonic) is over.

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
            trial = book.ask(trials)
            if trial is not None:
                ended = _one(book, trial, evaluate, stop, worker)
                if ended is not None:
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


def _one(book: TrialBook, trial: Trial, evaluate: Evaluate, stop: threading.Event, worker: int) -> FrozenTrial | None:
    """Evaluate a trial; how it ended, or None where it was interrupted."""

    def report(epoch: int, value: float) -> bool:
        trial.report(value, epoch)
        return bool(trial.should_prune())

    try:
        return book.end(trial, TrialState.COMPLETE, evaluate(trial.params, report, stop.is_set, worker))
    except Pruned:
        return book.end(trial, TrialState.PRUNED)
    except Stopped:
        book.end(trial, TrialState.FAIL, reason=INTERRUPTED)
        return None
    except TrialFailed as error:
        return book.end(trial, TrialState.FAIL, reason=str(error))
    except BaseException as error:
        # A bug of ours, or an interrupt: the trial must not stay RUNNING for ever.
        book.end(trial, TrialState.FAIL, reason=f"{type(error).__name__}: {error}")
        raise
