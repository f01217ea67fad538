"""Opens a study from Python, as in a notebook: train it, read its lines, and write its report."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from harness import flags
from harness.errors import InputError
from harness.home import expanded

if TYPE_CHECKING:
    import pandas as pd

    from harness.opened import Opened
    from harness.study.plan import Plan


class TrainingFailed(RuntimeError):
    """Jobs of a study failed. The message names each with its reason. Finished jobs are kept and not repeated."""


def open_study(
    study: str | Path,
    *,
    seeds: str | Iterable[int] | None = None,
    data_root: str | Path | None = None,
    version: str | None = None,
    split: str | None = None,
    set: Mapping[str, Any] | None = None,
    runs_dir: str | Path = flags.RUNS,
    console: Console | None = None,
) -> "Study":
    """Open a study as `crossbev run` does, without training.

    An example for a notebook:

    >>> import harness
    >>> study = harness.open_study("studies/smoke.yaml", seeds=[0, 1], runs_dir="runs")
    >>> [job.label for job in study.plan.jobs.values()]  # the jobs of the plan
    >>> study.run(workers=2)  # trains what is missing; interrupt it and call it again to resume
    >>> lines = study.lines()
    >>> lines[["role", "model", "path", "NDS", "gain_NDS"]]
    >>> gains = lines[lines.role == "student"].set_index("path").gain_NDS
    >>> gains.plot.barh()
    >>> study.report("reports/smoke")  # table.md, table.csv, report.html and their figures

    Args:
        study: The study file.
        seeds: Seeds to use instead of the study's, as numbers or as a text such as 0-2.
        data_root: A nuScenes root. By default the embedded world, which is made in the cache folder on first use.
        version: Version folder in the root.
        split: TRAIN:EVAL splits, or one name for both.
        set: Values of the study's fields by dotted key, such as ``{"schedule.steps": 100}``.
        runs_dir: Folder of the run folders.
        console: Shows the progress of slow steps. By default the terminal or the notebook.

    Raises:
        harness.errors.InputError: The study, its dataset or another input is wrong.
    """
    from harness.opened import open_study as open_asked

    asked = flags.Asked(
        expanded(Path(study)),
        data_root=None if data_root is None else expanded(Path(data_root)),
        version=version,
        split=split,
        seeds=seeds if seeds is None or isinstance(seeds, str) else ",".join(map(str, seeds)),
        set_=[f"{key}={json.dumps(value, default=_plain)}" for key, value in (set or {}).items()],
        runs_dir=expanded(Path(runs_dir)),
    )
    console = console or Console()
    return Study(asked, open_asked(asked, console), console)


def _plain(value: Any) -> Any:
    """Return numpy's numbers as Python's, and paths as text."""
    return value.item() if hasattr(value, "item") else str(value)


@dataclass(frozen=True)
class Study:
    """A study with its plan and its runs, made by `open_study`."""

    asked: flags.Asked
    opened: "Opened"
    console: Console

    @property
    def plan(self) -> "Plan":
        """The plan: the jobs, each trained once, and the rows of the table."""
        return self.opened.plan

    def run(
        self,
        workers: int | None = None,
        device: str = "auto",
        loader_workers: int | None = None,
        lockstep: int | None = None,
    ) -> None:
        """Train and score what is missing. Nothing is written to MLflow; `crossbev report STUDY.yaml --sync` does that.

        Args:
            workers: Trainings at once. By default one per GPU, or one per core without a GPU.
            device: auto, cpu, cuda or mps.
            loader_workers: Data-loading processes per training. By default some on a GPU, none on a CPU.
            lockstep: Most students that train side by side in one process; 1 for none. By default as many as fit.

        Raises:
            harness.errors.InputError: Input of a job is missing; nothing was trained.
            TrainingFailed: Jobs failed; all others are finished.
            KeyboardInterrupt: Ctrl-C was pressed; the trainings have saved their state.
        """
        from harness.execute.estimate import estimate
        from harness.execute.executor import execute
        from harness.execute.progress import progress
        from harness.execute.shared_memory import shared_memory
        from harness.execute.site import open_site
        from harness.jobs.kinds import check_inputs
        from harness.runs.claims import Claim, Claims
        from harness.runs.folder import make_folder

        assert self.opened.root is not None, "of a study's file"
        site = open_site(self.asked.runs_dir, self.opened.root, device, workers, loader_workers, lockstep)
        make_folder(site.runs)
        todo = [job for job in self.plan.jobs.values() if site.folder(job.id).result() is None]
        check_inputs(todo, site.root)
        if (memory := shared_memory(self.plan, todo, site)) is not None:
            memory.check()
        Claims(site.runs).replace(Claim.now(self.asked.call, self.asked.path, self.plan.jobs))
        expected = estimate(self.plan, todo, site).by_job
        with progress(self.console, site.workers) as display:
            states = execute(self.plan, site, display, expected=expected)
        failed = [state for state in states.values() if state.status == "failed"]
        if failed:
            reasons = "\n".join(f"{state.job.label} [{state.job.id}]: {state.reason}" for state in failed)
            raise (InputError if all(state.wrong_input for state in failed) else TrainingFailed)(reasons)

    def lines(self) -> "pd.DataFrame":
        """Return the lines of the table with the columns of table.csv: means over seeds, gains in pp, CIs, verdicts.

        A line without finished trainings has the reason in the column `missing`, and NaN for numbers.
        """
        from harness.evidence.results import groups, outcomes, summary
        from harness.evidence.runs import StudyRuns
        from harness.report.write import frame
        from harness.study.papers import read_paper

        papers = [read_paper(path) for path in self.opened.study.report.papers]
        trained = outcomes(StudyRuns.open(self.plan, self.opened.runs_dir), papers)
        return frame(summary(trained, groups(trained)))

    def report(self, out: str | Path | None = None) -> Path:
        """Write tables, figures and page; return their folder, by default reports/STUDY."""
        from harness.evidence.runs import StudyRuns
        from harness.report.write import rebuild

        folder = self.asked.tables if out is None else expanded(Path(out))
        runs = StudyRuns.open(self.plan, self.opened.runs_dir)
        rebuild(self.opened, runs, folder, self.console, self.asked.command("harness.run", places=False))
        return folder
