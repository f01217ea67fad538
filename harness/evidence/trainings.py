"""What a report says of every training by itself: state, scores, costs, and the spec that made it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.evidence.damage import flaws
from harness.runs.folder import RunFolder
from harness.study.plan import Plan


@dataclass(frozen=True)
class Training:
    """A job of the plan."""

    job: str
    """Its id, which is the name of its run folder, too."""
    label: str
    role: str
    """Of the first row that shows it; "labels" of what no row does."""
    seed: int | None
    state: str
    """done, running, failed or not run."""
    reason: str = ""
    """Why it failed."""
    commit: str = ""
    machine: str = ""
    minutes: float | int | None = None
    metrics: Mapping[str, float | int] = field(default_factory=dict)
    """As stored: fractions."""
    spec: str = ""
    """JSON."""


def trainings(plan: Plan, runs: Path) -> tuple[Training, ...]:
    """Every job of the plan, in its order."""
    rows = {row.job: row for row in reversed(plan.rows)}
    flawed = flaws(plan, runs)
    found = []
    for id_, job in plan.jobs.items():
        folder, flaw = RunFolder(runs / id_), flawed.get(id_)
        result = None if flaw else folder.result()
        failure = (flaw.message, True) if flaw else None if result else folder.failure()
        running = result is None and folder.in_use()
        state = "done" if result else "running" if running else "failed" if failure else "not run"
        machine = result.machine if result else {}
        known = ("device", "device_name", "torch")
        found.append(
            Training(
                job=id_,
                label=job.label,
                role=rows[id_].role if id_ in rows else "labels",
                seed=getattr(job.spec, "seed", None),
                state=state,
                reason=failure[0] if failure and state == "failed" else "",
                commit=machine.get("commit", ""),
                machine=", ".join(
                    f"torch {machine[key]}" if key == "torch" else machine[key] for key in known if key in machine
                ),
                minutes=result.seconds / 60 if result else None,
                metrics=result.metrics if result else {},
                spec=json.dumps(job.spec.model_dump(mode="json"), indent=1),
            )
        )
    return tuple(found)


def states(found: tuple[Training, ...]) -> dict[str, str]:
    """State of each job."""
    return {one.job: one.state for one in found}
