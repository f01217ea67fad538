"""The loop of a search: ask for values, have them trained, tell what came of it; several at once if so wanted."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

from optuna.trial import Trial

from harness.search.trials import TrialBook
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
    """A trial is given up, as others were better at its age."""


class Stopped(Exception):
    """A trial is interrupted; its values are to be tried again."""


class TrialFailed(Exception):
    """A trial has no value, and why."""


@dataclass(frozen=True)
class Ended:
    """How a trial ended, for a display."""

    number: int
    how: str
    """complete, pruned or failed."""
    values: tuple[float, ...]
    """The objectives; empty where it did not complete."""
    params: Mapping[str, Value]
    reason: str
    seconds: float


WAIT_SECONDS = 1.0
"""Between two looks at trials that others are at."""
MOST_FAILURES = 5
"""After so many in a row the search is given up: what fails so often is not the values' fault."""


def search(
    book: TrialBook,
    evaluate: Evaluate,
    trials: int,
    workers: int,
    deadline: float | None,
    tell: Callable[[Ended], None],
) -> None:
    """Go on until so many trials are complete or pruned, or the deadline (of time.monotonic) is over.

    Raises:
        TrialFailed: Too many failed in a row.
        KeyboardInterrupt: After the running trials have been given back.
    """
    stop = threading.Event()
    failures = _Failures()

    def work(worker: int) -> None:
        while not stop.is_set() and (deadline is None or time.monotonic() < deadline):
            trial = book.ask(trials)
            if trial is not None:
                _one(book, trial, evaluate, stop, worker, tell, failures)
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


def _one(
    book: TrialBook,
    trial: Trial,
    evaluate: Evaluate,
    stop: threading.Event,
    worker: int,
    tell: Callable[[Ended], None],
    failures: "_Failures",
) -> None:
    began = time.monotonic()

    def report(epoch: int, value: float) -> bool:
        trial.report(value, epoch)
        return bool(trial.should_prune())

    values: tuple[float, ...] = ()
    reason = ""
    try:
        values = evaluate(trial.params, report, stop.is_set, worker)
        book.tell(trial, values)
        how = "complete"
    except Pruned:
        book.prune(trial)
        how = "pruned"
    except Stopped:
        book.give_back(trial)
        return
    except TrialFailed as error:
        how, reason = "failed", str(error)
        book.fail(trial, reason)
    except BaseException as error:
        # A bug of ours, or an interrupt: the trial must not stay RUNNING for ever.
        book.fail(trial, f"{type(error).__name__}: {error}")
        raise
    tell(Ended(trial.number, how, values, dict(trial.params), reason, time.monotonic() - began))
    failures.count(how, reason)


class _Failures:
    """Those in a row."""

    def __init__(self) -> None:
        self._lock, self._row = threading.Lock(), 0

    def count(self, how: str, reason: str) -> None:
        """Take in how a trial ended; raises TrialFailed after too many failures."""
        with self._lock:
            self._row = self._row + 1 if how == "failed" else 0
            if self._row >= MOST_FAILURES:
                raise TrialFailed(f"{self._row} trials in a row failed, the last one for: {reason}")
