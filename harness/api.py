"""A study from Python, as in a notebook: open it, train what it lacks, look at its lines, write its report."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from harness import flags
from harness.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from harness.opened import Opened
    from harness.study.plan import Plan


class TrainingFailed(RuntimeError):
    """Jobs of a study failed; the message names each with its reason. What is finished stays, and counts next time."""


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
    """Open a study, as `crossbev run` does before it trains anything.

    Ten lines of a notebook:

    >>> import harness
    >>> study = harness.open_study("studies/smoke.yaml", seeds=[0, 1], runs_dir="runs")
    >>> [job.label for job in study.plan.jobs.values()]  # what it takes; equal jobs of all studies share one run
    >>> study.run(workers=2)  # trains what is not there yet; stop it, and call it again to go on
    >>> lines = study.lines()
    >>> lines[["role", "model", "path", "NDS", "gain_NDS"]]
    >>> gains = lines[lines.role == "student"].set_index("path").gain_NDS
    >>> gains.plot.barh()
    >>> study.report("reports/smoke")  # table.md, table.csv, report.html and their figures

    Args:
        study: Its file.
        seeds: Instead of the study's, as numbers or as a text such as 0-2.
        data_root: A nuScenes root; an embedded world if not given, which is made in a cache folder on first use.
        version: Version folder in the root.
        split: TRAIN:EVAL splits, or one for both.
        set: Values of the study's fields by dotted key, such as ``{"schedule.steps": 100}``.
        runs_dir: Run folders.
        console: Is told what takes long; the terminal, or the notebook, if not given.

    Raises:
        harness.errors.InputError: The study, its dataset or something that is given to it is not as it has to be.
    """
    from harness.opened import open_study as open_asked

    asked = flags.Asked(
        Path(study),
        data_root=None if data_root is None else Path(data_root),
        version=version,
        split=split,
        seeds=seeds if seeds is None or isinstance(seeds, str) else ",".join(map(str, seeds)),
        set_=[f"{key}={json.dumps(value)}" for key, value in (set or {}).items()],
        runs_dir=Path(runs_dir),
    )
    console = console or Console()
    return Study(asked, open_asked(asked, console), console)


@dataclass(frozen=True)
class Study:
    """A study with its plan and its runs; `open_study` makes it."""

    asked: flags.Asked
    opened: "Opened"
    console: Console

    @property
    def plan(self) -> "Plan":
        """Its jobs, each of which is trained once, and the rows of its table."""
        return self.opened.plan

    def run(self, workers: int | None = None, device: str = "auto", loader_workers: int | None = None) -> None:
        """Train and score what is not there yet. MLflow is told nothing; `crossbev report STUDY.yaml --sync` does that.

        Args:
            workers: Trainings at once; one a GPU, or one a core, if not given.
            device: auto, cpu, cuda or mps.
            loader_workers: Processes that load data for each training; some on GPUs and none on a CPU, if not given.

        Raises:
            harness.errors.InputError: Something that a job needs is missing; nothing was trained.
            TrainingFailed: Some jobs failed, after all others have been done.
            KeyboardInterrupt: After the trainings have saved their state.
        """
        from harness.execute.executor import check_device, execute, open_site
        from harness.execute.progress import progress
        from harness.jobs.kinds import check_inputs
        from harness.runs.claims import Claim, Claims
        from harness.runs.folder import make_folder

        check_device(device)
        assert self.opened.root is not None, "of a study's file"
        site = open_site(self.asked.runs_dir, self.opened.root, device, workers, loader_workers)
        make_folder(site.runs)
        check_inputs([job for job in self.plan.jobs.values() if site.folder(job.id).result() is None], site.root)
        Claims(site.runs).replace(Claim.now(self.asked.call, self.asked.path, self.plan.jobs))
        with progress(self.console, site.workers) as display:
            states = execute(self.plan, site, display)
        failed = [state for state in states.values() if state.status == "failed"]
        if failed:
            reasons = "\n".join(f"{state.job.label} [{state.job.id}]: {state.reason}" for state in failed)
            raise (InputError if all(state.wrong_input for state in failed) else TrainingFailed)(reasons)

    def lines(self) -> "pd.DataFrame":
        """The lines of its table, as table.csv has them: means over seeds, gains in points, intervals, verdicts.

        A line whose trainings are not done has its reason in the column `missing`, and NaN for numbers.
        """
        from harness.evidence.results import groups, outcomes, summary
        from harness.evidence.runs import StudyRuns
        from harness.report.write import frame
        from harness.study.papers import read_paper

        papers = [read_paper(path) for path in self.opened.study.report.papers]
        trained = outcomes(StudyRuns.open(self.plan, self.opened.runs_dir), papers)
        return frame(summary(trained, groups(trained)))

    def report(self, out: str | Path | None = None) -> Path:
        """Write its tables, figures and page; the folder, which is reports/STUDY if none is given."""
        from harness.evidence.runs import StudyRuns
        from harness.report.write import rebuild

        folder = self.asked.tables if out is None else Path(out)
        runs = StudyRuns.open(self.plan, self.opened.runs_dir)
        rebuild(self.opened, runs, folder, self.console, self.asked.command("harness.run", places=False))
        return folder
