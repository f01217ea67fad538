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
from harness.search.loop import Pruned, Report, Stopped, TrialFailed
from harness.search.opened_search import OpenedSearch
from harness.study.plan import Plan, Row
from harness.study.search_spec import Value
from harness.study.spec import StudySpec

PERCENT = 100.0


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

    def plan(self, values: Mapping[str, Value]) -> Plan:
        """Plan a trial."""
        return self.planned(self.opened.trial_study(values))

    def baseline(self) -> Plan:
        """Plan the student of a trial without a teacher."""
        return self.planned(self.opened.alone(self.opened.trial_study({})))

    def planned(self, study: StudySpec) -> Plan:
        """The plan of a study."""
        return self.planner.plan(study)

    def evaluate(
        self, values: Mapping[str, Value], report: Report, stopping: Callable[[], bool], worker: int
    ) -> tuple[float, ...]:
        """The objectives of some values, in points, in the mean over the search's seeds; raises as `loop.Evaluate`."""
        try:
            plan = self.plan(values)
        except InputError as error:
            raise TrialFailed(str(error)) from error
        return self.score(plan, report, stopping, worker)

    def score(self, plan: Plan, report: Report, stopping: Callable[[], bool], worker: int) -> tuple[float, ...]:
        """Run a plan; the objectives of its distilled students, or of its baselines where it has none, in the mean."""
        students = [row for row in plan.rows if row.role == "student"]
        rows = students or [row for row in plan.rows if row.role == "baseline"]
        needed = _needed(plan, rows)
        reported = 0

        def watch(states: dict[str, JobState]) -> None:
            nonlocal reported
            if stopping():
                raise Stopped
            for loss in self._epochs(plan, rows[0], reported):
                reported += 1
                if report(reported - 1, -loss):
                    raise Pruned

        self.claim(needed)
        states = execute(needed, replace(self.site, first_slot=worker), watch)
        failed = next((state for state in states.values() if state.status == "failed"), None)
        if failed is not None:
            raise TrialFailed(f"{failed.job.label} [{failed.job.id}]: {failed.reason}")
        results = [RunFolder(self.site.runs / row.job).result() for row in rows]
        means = [
            _mean([PERCENT * result.metrics[metric] for result in results if result is not None])
            for metric in self.opened.search.objective
        ]
        if not all(map(math.isfinite, means)):
            raise TrialFailed(f"{' and '.join(self.opened.search.objective)} are {means}")
        return tuple(means)

    def _epochs(self, plan: Plan, row: Row, reported: int) -> list[float]:
        """Mean detection loss of each whole epoch of a row's training so far, but for the first `reported`."""
        schedule = plan.detector_spec(row.job).schedule
        assert schedule is not None
        data = plan.detector_spec(row.job).data
        each = math.ceil(self.planner.samples(data.train_split, data.train_share) / schedule.batch_size)
        folder = RunFolder(self.site.runs / row.job)
        newest = folder.last_step()
        if newest is None or newest["step"] + 1 < (reported + 1) * each:
            return []
        losses = [line["raw/heatmap"] + line["raw/boxes"] for line in folder.steps()]
        return [_mean(losses[first : first + each]) for first in range(reported * each, len(losses) - each + 1, each)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _needed(plan: Plan, rows: Sequence[Row]) -> Plan:
    """The jobs of some rows and what these need, no others: a search does not train a baseline a second time."""
    wanted = with_needs({id_: job.spec.needs for id_, job in plan.jobs.items()}, [row.job for row in rows])
    return Plan({id_: job for id_, job in plan.jobs.items() if id_ in wanted}, list(rows))
