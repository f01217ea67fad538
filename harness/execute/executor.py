"""Runs the jobs of a plan in the order of its DAG, several at once; finished jobs are not run again."""

import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from threading import Lock

from harness.execute.forecast import longest_chains
from harness.execute.lockstep import Lockstep
from harness.execute.site import Site, gpus_of
from harness.execute.state import JobState
from harness.jobs.fork_server import CLOSED, ForkedJob, ForkServer
from harness.jobs.kind import BUSY, DONE, FAILED, STOPPED, UNEXAMINED, JobOrder
from harness.jobs.kinds import kind_of
from harness.runs.folder import Busy, RunFolder
from harness.study.jobs import Job
from harness.study.plan import Plan

POLL_SECONDS = 0.25
# Where another study trains the very same job: when looked at again it is done, most likely.
RETRY_BUSY_SECONDS = 5.0
# A worker looks for the closed pipe after every step; this is long enough for a slow step and its checkpoint.
STOP_SECONDS = 120.0
TIMED_SECONDS = 5.0
"""A training is watched for so long before it is said how long it will take."""


@dataclass
class _Timed:
    """What has been seen of a training that a worker goes on with."""

    steps_before: int = 0
    first_seen: tuple[float, int] | None = None
    """When a step of this process was first seen, and its number."""


@dataclass
class _Worker:
    process: ForkedJob
    slot: int
    jobs: dict[str, _Timed]
    """By id: one, or several in lockstep."""


def execute(
    plan: Plan,
    site: Site,
    watch: Callable[[dict[str, JobState]], None],
    stopping: Callable[[], None] = lambda: None,
    expected: Mapping[str, float] | None = None,
    unwanted: Callable[[], Collection[str]] = tuple,
) -> dict[str, JobState]:
    """Run every job that has no result, teachers first.

    Args:
        plan: What to run.
        site: Where.
        watch: Called a few times a second with the state of all jobs.
        stopping: Called once by Ctrl-C, before the seconds in which the workers save their state.
        expected: Estimated seconds of jobs by id; they decide what starts first, and `forecast.time_left` needs them.
        unwanted: Called after `watch`: the ids of jobs that nobody wants any more, with all that need them. They save
            their state and stop, and what trains beside them goes on.

    Returns:
        The final states. A failed job fails its dependents and nothing else.

    Raises:
        KeyboardInterrupt: After the workers have saved their state and ended.
    """
    walk = _Walk(plan, site, expected or {})
    try:
        while not walk.ended:
            walk.start()
            time.sleep(POLL_SECONDS)
            walk.collect()
            watch(walk.states)
            walk.drop(unwanted())
    except KeyboardInterrupt:
        stopping()
        raise
    finally:
        walk.stop()
    return walk.states


class _Walk:
    """One walk over the DAG of a plan."""

    def __init__(self, plan: Plan, site: Site, expected: Mapping[str, float]) -> None:
        self._plan, self._site = plan, site
        self.states = {
            id_: JobState(job, "waiting" if site.folder(id_).result() is None else "done", expected=expected.get(id_))
            for id_, job in plan.jobs.items()
        }
        # What is done takes no time any more.
        seconds = {id_: expected.get(id_, 0.0) if expected else float(job.spec.steps) for id_, job in plan.jobs.items()}
        self._chains = longest_chains(plan.jobs, seconds)
        self._started = count()
        self._together = Lockstep(site)
        self._workers: list[_Worker] = []
        self._not_before: dict[str, float] = {}
        self._orphaned: set[str] = set()

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        return not any(state.status in ("waiting", "running") for state in self.states.values())

    def start(self) -> None:
        """Start what can be started, the longest chain first."""
        while len(self._workers) < self._site.workers and (ready := self._ready()):
            free = sorted(set(range(self._site.workers)) - {worker.slot for worker in self._workers})
            jobs = self._together.choose(ready, len(free))
            try:
                worker = _start(self._plan, jobs, self._site, free[0])
            except Busy:
                self._wait([job.id for job in jobs])
                continue
            self._workers.append(worker)
            process, began = next(self._started), time.monotonic()
            for id_ in worker.jobs:
                state = self.states[id_]
                state.status, state.process, state.began, state.ended = "running", process, began, None
            self._wait([job.id for job in jobs if job.id not in worker.jobs])

    def _ready(self) -> list[Job]:
        """The jobs that wait for nothing; those for which a failed one was needed fail, and trained ones are done."""
        ready = []
        for id_, state in self.states.items():
            if state.status != "waiting":
                continue
            needs = [self.states[needed] for needed in state.job.spec.needs]
            failed = next((needed for needed in needs if needed.status == "failed"), None)
            if failed is not None:
                state.status, state.wrong_input = "failed", failed.wrong_input
                state.reason = f"a job that it needs failed ({failed.job.label})"
            elif all(n.status == "done" for n in needs) and time.monotonic() > self._not_before.get(id_, 0):
                if self._site.folder(id_).result() is not None:
                    # Another study has trained it meanwhile.
                    state.status = "done"
                else:
                    ready.append(state.job)
        return sorted(ready, key=lambda job: -self._chains[job.id])

    def _wait(self, jobs: Iterable[str]) -> None:
        """Try these again later."""
        for id_ in jobs:
            state = self.states[id_]
            state.status, state.process, state.seconds_left = "waiting", None, None
            self._not_before[id_] = time.monotonic() + RETRY_BUSY_SECONDS

    def collect(self) -> None:
        """See how far the workers are, and which have ended."""
        for worker in list(self._workers):
            code = worker.process.poll()
            if code is None:
                for id_, timed in worker.jobs.items():
                    _follow(self.states[id_], timed, self._site)
                continue
            _end(worker)
            self._workers.remove(worker)
            for id_ in worker.jobs:
                if self.states[id_].status != "dropped":
                    self.states[id_].ended = time.monotonic()
                    self._settle(id_, code, together=len(worker.jobs) > 1)

    def _settle(self, id_: str, code: int, together: bool) -> None:
        """What has become of a job whose worker ended with this status."""
        folder, state = self._site.folder(id_), self.states[id_]
        if folder.result() is not None:
            state.status = "done"
            if code == UNEXAMINED and not (together and _is_examined(folder)):
                state.reason = f"its diagnostics failed, see {folder.log}; harness.report --examine tries again"
            return
        failure = folder.failure()
        if failure is None:
            # Without its server a job was stopped, with its state saved: it goes on, but is not started for ever.
            again = code == CLOSED and id_ not in self._orphaned
            # Of several, others may have ended so; of a job that says nothing itself, another process owns the folder.
            if code == BUSY or again or (together and code in (DONE, FAILED, UNEXAMINED)):
                self._wait([id_])
                self._orphaned |= {id_} if code == CLOSED else set()
                return
            if together and code not in (STOPPED, CLOSED):
                # Killed, most likely for the memory of all of them.
                self._wait([id_])
                self._together.alone.add(id_)
                return
        how = {STOPPED: "was stopped", CLOSED: "lost the process that starts jobs"}.get(
            code, f"ended with exit status {code}"
        )
        state.status = "failed"
        state.reason, state.wrong_input = failure or (f"the worker {how}; see {folder.log}", False)

    def drop(self, ids: Iterable[str]) -> None:
        """Go on without these jobs."""
        for id_ in ids:
            state = self.states[id_]
            for worker in self._workers:
                if state.status == "running" and id_ in worker.jobs:
                    worker.process.drop(self._site.folder(id_).path)
            if state.status in ("waiting", "running"):
                state.status = "dropped"

    def stop(self) -> None:
        """Ask all workers to save their state, and wait for them."""
        for worker in self._workers:
            worker.process.stop()
        for worker in self._workers:
            _end(worker)


def _is_examined(folder: RunFolder) -> bool:
    # Rarely asked, and seconds to import.
    from harness.diagnose.examine import is_examined

    return is_examined(folder)


def order_for(job: Job, plan: Plan, site: Site) -> JobOrder:
    """What its worker is told."""
    source = job.source.resolve() if job.source else None
    return JobOrder(
        spec=job.spec,
        label=job.label,
        root=site.root.path.resolve(),
        version=site.root.version,
        image_weights=job.image_weights.resolve() if job.image_weights else None,
        device=site.device,
        threads=site.threads,
        loader_workers=site.loader_workers,
        # What trains nothing has nothing to share.
        gpus=site.gpus_per_job if job.spec.steps else 1,
        deterministic=plan.deterministic,
        **kind_of(job.spec).order(job.spec, source, plan, site.folder),
    )


def _start(plan: Plan, jobs: Sequence[Job], site: Site, slot: int) -> _Worker:
    """Start those of some jobs whose folders are free in one process; raises Busy if none is."""
    begun: dict[str, _Timed] = {}
    for job in jobs:
        folder = site.folder(job.id)
        try:
            with folder.locked():
                folder.begin(order_for(job, plan, site).model_dump(mode="json"))
        except Busy:
            if job is jobs[-1] and not begun:
                raise
            continue
        newest = folder.last_step()
        begun[job.id] = _Timed(steps_before=int(newest["step"]) + 1 if newest else 0)
    folders = [site.folder(id_) for id_ in begun]
    process = _fork_server(site.threads).start(
        [folder.path for folder in folders],
        folders[0].log,
        gpus_of(site.device, site.first_slot + slot, site.gpus_per_job),
    )
    return _Worker(process, slot, begun)


_servers: dict[int, ForkServer] = {}
"""By the number of threads. A search walks over hundreds of plans, in several threads: all share one server."""
_servers_lock = Lock()


def _fork_server(threads: int) -> ForkServer:
    """The server that is there, or a new one."""
    with _servers_lock:
        if threads not in _servers or not _servers[threads].alive:
            _servers[threads] = ForkServer(threads)
        return _servers[threads]


def _end(worker: _Worker) -> None:
    """Ask a worker to stop and wait for it; kill it if it does not answer. Its last checkpoint stays."""
    worker.process.stop()
    try:
        worker.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        worker.process.kill()
        worker.process.wait()


def _follow(state: JobState, timed: _Timed, site: Site) -> None:
    newest = site.folder(state.job.id).last_step()
    if newest is None or not state.job.spec.steps:
        return
    state.step, state.loss = int(newest["step"]) + 1, newest["loss"]
    if state.step <= timed.steps_before:
        return
    now = time.monotonic()
    timed.first_seen = timed.first_seen or (now, state.step)
    seconds, steps = now - timed.first_seen[0], state.step - timed.first_seen[1]
    # Before that nothing is known: starting takes long, and so do first steps.
    if seconds >= TIMED_SECONDS and steps:
        state.seconds_left = seconds / steps * (state.job.spec.steps - state.step)
