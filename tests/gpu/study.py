"""A whole study on the card: LiDAR -> camera of studies/paths.yaml, one seed; docs/gpu.md holds it against a CPU."""

import sys
import time
from pathlib import Path

from rich.console import Console

from harness.evidence.runs import StudyRuns
from harness.execute.executor import execute
from harness.execute.site import open_site
from harness.flags import Asked
from harness.opened import open_study
from harness.report.write import rebuild
from tests.gpu.common import Rows

# Nothing but a teacher, a baseline and a distilled student: three trainings.
CHANGES = ["paths=[lidar->camera]", "students.camera.longer_baseline=null"]


def main() -> None:
    """One row a line of the table."""
    rows, out = Rows(), Path(sys.argv[1]).parent / "study"
    asked = Asked(Path("studies/paths.yaml"), seeds="0", set_=CHANGES, runs_dir=out / "runs", out=out)
    opened = open_study(asked, Console())
    assert opened.root is not None
    site = open_site(asked.runs_dir, opened.root, "cuda", workers=3, loader_workers=2)
    asked.runs_dir.mkdir(parents=True)
    began, told = time.monotonic(), 0.0

    def watch(states) -> None:
        nonlocal told
        if time.monotonic() - told > 20:
            told = time.monotonic()
            print(round(told - began), [f"{s.job.label} {s.status} {s.step}" for s in states.values()], flush=True)

    states = execute(opened.plan, site, watch)
    for state in states.values():
        if state.status != "done":
            rows.add(row=state.job.label, ok=False, error=state.reason)
    _, lines = rebuild(opened, StudyRuns.open(opened.plan, asked.runs_dir), asked.tables, Console(width=200))
    for line in lines:
        rows.add(row=line.name, seeds=line.seeds, **{name: mean.value for name, mean in line.means.items()})
    rows.add(row="all, seconds", seeds=round(time.monotonic() - began))


if __name__ == "__main__":
    main()
