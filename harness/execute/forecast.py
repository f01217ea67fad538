"""Predicts when the jobs of a study will be done, by walking over them as the executor does."""

import heapq
from collections.abc import Collection, Iterable, Mapping
from itertools import count

from harness.execute.state import JobState
from harness.study.jobs import DetectorJobSpec, Job


def makespan(
    jobs: Mapping[str, Job],
    seconds: Mapping[str, float],
    workers: int,
    running: Iterable[tuple[float, Collection[str]]] = (),
) -> float:
    """Return the seconds until all jobs are done.

    Args:
        jobs: Those that wait, by id. What they need and is neither here nor running is done.
        seconds: Of each of them.
        workers: Processes at once.
        running: For each process, the seconds that it still takes, and its jobs.
    """
    waiting = dict(jobs)
    chains = longest_chains(waiting, seconds)
    order = count()  # two processes that end at once must not compare their jobs
    ends = [(end, next(order), tuple(ids)) for end, ids in running]
    heapq.heapify(ends)
    open_ = {id_ for _, _, ids in ends for id_ in ids} | set(waiting)
    now = 0.0
    while waiting or ends:
        ready = [id_ for id_, job in waiting.items() if not open_ & set(job.spec.needs)]
        for id_ in sorted(ready, key=lambda id_: -chains[id_])[: max(0, workers - len(ends))]:
            del waiting[id_]
            heapq.heappush(ends, (now + seconds[id_], next(order), (id_,)))
        if not ends:
            raise ValueError(f"jobs need one another in a circle: {', '.join(waiting)}")
        now, _, ended = heapq.heappop(ends)
        open_ -= set(ended)
    return now


def longest_chains(jobs: Mapping[str, Job], seconds: Mapping[str, float]) -> dict[str, float]:
    """Return by id how long a job and the jobs that wait for it, one after another, take.

    Args:
        jobs: In the order of a plan, where whatever needs a job comes after it.
        seconds: Of each of them, or anything in proportion.
    """
    longest = dict.fromkeys(jobs, 0.0)
    for id_, job in reversed(list(jobs.items())):
        longest[id_] += seconds[id_]
        for needed in job.spec.needs:
            longest[needed] = max(longest.get(needed, 0.0), longest[id_])
    return longest


def time_left(states: Mapping[str, JobState], workers: int, now: float) -> float | None:
    """Return the seconds until a study is done; None while there is nothing to judge by.

    Trainings that run are judged by their latest steps. Those that wait are judged by their estimates, corrected by how
    far off the estimates of the same model have been so far, or those of all models where none of it has run.

    Args:
        states: Of all its jobs.
        workers: Processes at once.
        now: The time of `time.monotonic`.
    """
    if any(state.expected is None for state in states.values() if state.status in ("waiting", "running")):
        return None
    processes: dict[int, list[str]] = {}
    for id_, state in states.items():
        if state.process is not None:
            processes.setdefault(state.process, []).append(id_)
    seen = _Seen()
    running = []
    for ids in processes.values():
        members = [states[id_] for id_ in ids]
        began, of_all = members[0].began or 0.0, sum(state.expected or 0.0 for state in members)
        active = [id_ for id_ in ids if states[id_].status == "running"]
        left = max((left for id_ in active if (left := states[id_].seconds_left) is not None), default=None)
        if not active or left is not None:
            ended = now + left if left is not None else max(state.ended or began for state in members)
            seen.add(members[0].job, ended - began, of_all)
        if active:
            running.append((left, now - began, of_all, active))
    ends = [
        (left if left is not None else max(0.0, seen.ratio(states[ids[0]].job) * of_all - elapsed), ids)
        for left, elapsed, of_all, ids in running
    ]
    waiting = {id_: state.job for id_, state in states.items() if state.status == "waiting"}
    seconds = {id_: seen.ratio(job) * (states[id_].expected or 0.0) for id_, job in waiting.items()}
    return makespan(waiting, seconds, workers, ends)


class _Seen:
    """How far off the estimates have been: of jobs of one model, or of all where nothing of that model has run."""

    def __init__(self) -> None:
        self._of: dict[object, tuple[float, float]] = {}

    def add(self, job: Job, taken: float, expected: float) -> None:
        for key in (_model(job), None):
            before = self._of.get(key, (0.0, 0.0))
            self._of[key] = (before[0] + taken, before[1] + expected)

    def ratio(self, job: Job) -> float:
        taken, expected = self._of.get(_model(job), self._of.get(None, (1.0, 1.0)))
        return taken / expected if expected else 1.0


def _model(job: Job) -> object:
    return job.spec.detector if isinstance(job.spec, DetectorJobSpec) else type(job.spec)
