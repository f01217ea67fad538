"""What a report says of every training by itself: state, scores, costs, and the spec that made it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.evidence.runs import Run, State, StudyRuns
from harness.study.plan import Row


@dataclass(frozen=True)
class Training:
    """A job of the plan."""

    job: str
    """Its id, which is the name of its run folder, too."""
    label: str
    role: str
    """Of the first row that shows it; "labels" of what no row does."""
    seed: int | None
    state: State
    reason: str = ""
    """Why it failed."""
    commit: str = ""
    machine: str = ""
    minutes: float | int | None = None
    metrics: Mapping[str, float | int] = field(default_factory=dict)
    """As stored: fractions."""
    spec: str = ""
    """JSON."""


def trainings(runs: StudyRuns) -> tuple[Training, ...]:
    """Every job of the plan, in its order."""
    rows = {row.job: row for row in reversed(runs.plan.rows)}
    return tuple(_training(id_, run, rows.get(id_)) for id_, run in runs.items())


def _training(id_: str, run: Run, row: Row | None) -> Training:
    machine = run.result.machine if run.result else {}
    kind = [f"torch {machine[key]}" if key == "torch" else machine[key] for key in _KIND if key in machine]
    return Training(
        job=id_,
        label=run.job.label,
        role=row.role if row else "labels",
        seed=getattr(run.job.spec, "seed", None),
        state=run.state,
        reason=(run.damage.message if run.damage else run.failure) if run.state == "failed" else "",
        commit=machine.get("commit", ""),
        machine=", ".join(kind),
        minutes=run.result.seconds / 60 if run.result else None,
        metrics=run.result.metrics if run.result else {},
        spec=json.dumps(run.job.spec.model_dump(mode="json"), indent=1),
    )


_KIND = ("device", "device_name", "torch")
"""What a result says of the kind of its machine, in the order in which it is shown."""


def states(jobs: tuple[Training, ...]) -> dict[str, str]:
    """State of each job."""
    return {one.job: one.state for one in jobs}
