"""Evaluates a trial: trains its student as an ordinary job, and scores it on the scenes of the search."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.errors import InputError
from harness.execute.executor import execute
from harness.execute.site import Site
from harness.execute.state import JobState
from harness.opened import Planner
from harness.runs.folder import RunFolder
from harness.runs.listing import with_needs
from harness.search.loop import Outcome, Proposal, Pruned, Stopped, TrialFailed
from harness.search.opened_search import OpenedSearch
from harness.study.plan import Plan, Row
from harness.study.search_spec import Value
from harness.study.spec import StudySpec

PERCENT = 100.0
TOGETHER = {"grid": 4, "random": 4}
"""Trials that are proposed at once, unless a number is given."""
LEARNING_TOGETHER = 2
"""The same of samplers that learn. With 20 trials of TPE on a planted optimum, two at once end as close to it as one
does (0.04 of squared orders of magnitude, median of 24 searches), four at 0.07, chance at 0.15."""


@dataclass(frozen=True)
class Trainer:
    """Trains and scores the values of trials of one search."""

    opened: OpenedSearch
    planner: Planner
    """Plans trials on what they are trained and scored on."""
    site: Site
    """Where."""
    claim: Callable[[Plan], None]
    """Called with every plan before it is run, so that its runs are not deleted."""

    @property
    def together(self) -> int:
        """The number of trials to propose at once, as far as they share their batches, teacher and seed."""
        if self.site.lockstep is not None:
            return self.site.lockstep
        if not self.opened.shares_batches:
            return 1
        return TOGETHER.get(self.opened.search.sampler, LEARNING_TOGETHER)

    def plan(self, values: Mapping[str, Value]) -> Plan:
        """Plan a trial."""
        return self.planned(self.opened.trial_study(values))

    def baseline(self) -> Plan:
        """Plan the student of a trial without a teacher."""
        return self.planned(self.opened.alone(self.opened.trial_study({})))

    def planned(self, study: StudySpec) -> Plan:
        """The plan of a study."""
        return self.planner.plan(study)

    def evaluate(self, proposals: Sequence[Proposal], stopping: Callable[[], bool], worker: int) -> Sequence[Outcome]:
        """The objectives of some values, in points, in the mean over the search's seeds, as `loop.Evaluate`.

        The students of all of them are one walk of the executor, which trains them side by side where they share
        their batches.
        """
        outcomes: dict[int, Outcome] = {}
        trials: dict[int, _Trial] = {}
        for number, proposal in enumerate(proposals):
            try:
                trials[number] = _Trial.of(self.plan(proposal.values), proposal.report)
            except InputError as error:
                outcomes[number] = TrialFailed(str(error))
        outcomes |= dict(zip(trials, self._score(list(trials.values()), stopping, worker), strict=True))
        return [outcomes[number] for number in range(len(proposals))]

    def score(self, plan: Plan, worker: int = 0) -> tuple[float, ...]:
        """Run a plan to its end; the objectives of its distilled students, or of its baselines where it has none.

        Raises:
            TrialFailed: There is no value.
        """
        [outcome] = self._score([_Trial.of(plan, lambda epoch, value: False)], lambda: False, worker)
        if not isinstance(outcome, tuple):
            raise outcome
        return outcome

    def _score(self, trials: "Sequence[_Trial]", stopping: Callable[[], bool], worker: int) -> list[Outcome]:
        """Run some plans together; an outcome for each."""
        if not trials:
            return []

        def watch(states: dict[str, JobState]) -> None:
            if stopping():
                raise Stopped
            for trial in trials:
                self._follow(trial)

        def unwanted() -> set[str]:
            pruned = [set(trial.plan.jobs) for trial in trials if trial.is_pruned]
            wanted = [set(trial.plan.jobs) for trial in trials if not trial.is_pruned]
            return set().union(*pruned).difference(*wanted)

        for trial in trials:
            self.claim(trial.plan)
        together = Plan(
            {id_: job for trial in trials for id_, job in trial.plan.jobs.items()},
            [row for trial in trials for row in trial.plan.rows],
        )
        states = execute(together, replace(self.site, first_slot=worker), watch, unwanted=unwanted)
        return [self._outcome(trial, states) for trial in trials]

    def _follow(self, trial: "_Trial") -> None:
        """Report the epochs that a trial has done since, until it is pruned."""
        for loss in [] if trial.is_pruned else self._epochs(trial.plan, trial.plan.rows[0], trial.reported):
            trial.reported += 1
            if trial.report(trial.reported - 1, -loss):
                trial.is_pruned = True
                return

    def _outcome(self, trial: "_Trial", states: Mapping[str, JobState]) -> Outcome:
        if trial.is_pruned:
            return Pruned()
        failed = next((states[id_] for id_ in trial.plan.jobs if states[id_].status == "failed"), None)
        if failed is not None:
            return TrialFailed(f"{failed.job.label} [{failed.job.id}]: {failed.reason}")
        results = [RunFolder(self.site.runs / row.job).result() for row in trial.plan.rows]
        means = [
            _mean([PERCENT * result.metrics[metric] for result in results if result is not None])
            for metric in self.opened.search.objective
        ]
        if not all(map(math.isfinite, means)):
            return TrialFailed(f"{' and '.join(self.opened.search.objective)} are {means}")
        return tuple(means)

    def _epochs(self, plan: Plan, row: Row, reported: int) -> list[float]:
        """Mean detection loss of each whole epoch of a row's training so far, but for the first `reported`."""
        schedule = plan.detector_spec(row.job).schedule
        assert schedule is not None
        data = plan.detector_spec(row.job).data
        each = math.ceil(self.planner.samples(data.train_split, data.train_share) / schedule.global_batch)
        folder = RunFolder(self.site.runs / row.job)
        newest = folder.last_step()
        if newest is None or newest["step"] + 1 < (reported + 1) * each:
            return []
        losses = [line["raw/heatmap"] + line["raw/boxes"] for line in folder.steps()]
        return [_mean(losses[first : first + each]) for first in range(reported * each, len(losses) - each + 1, each)]


@dataclass
class _Trial:
    """A trial on its way."""

    plan: Plan
    """Its rows, those that are scored, and the jobs that these need."""
    report: Callable[[int, float], bool]
    reported: int = 0
    """Epochs."""
    is_pruned: bool = False

    @classmethod
    def of(cls, plan: Plan, report: Callable[[int, float], bool]) -> "_Trial":
        students = [row for row in plan.rows if row.role == "student"]
        return cls(_needed(plan, students or [row for row in plan.rows if row.role == "baseline"]), report)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _needed(plan: Plan, rows: Sequence[Row]) -> Plan:
    """The jobs of some rows and what these need, no others: a search does not train a baseline a second time."""
    wanted = with_needs({id_: job.spec.needs for id_, job in plan.jobs.items()}, [row.job for row in rows])
    return Plan({id_: job for id_, job in plan.jobs.items() if id_ in wanted}, list(rows))
