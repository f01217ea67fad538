"""python -m harness.run STUDY.yaml: plan, execute, report."""

from collections.abc import Collection
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from harness import flags
from harness.console import say
from harness.program import Program

if TYPE_CHECKING:
    from harness.execute.site import Site
    from harness.execute.state import JobState
    from harness.opened import Opened
    from harness.study.jobs import Job
    from harness.study.plan import Plan

console = Console()
_say = partial(say, console)
app = Program()


@app.command()
@flags.asks()
def main(
    asked: flags.Asked,
    workers: Annotated[int | None, typer.Option(min=1, help="Trainings at once. Default: one per GPU or core.")] = None,
    loader_workers: Annotated[
        int | None, typer.Option(min=0, help="Data-loading processes per training. Default on a CPU: 0.")
    ] = None,
    lockstep: flags.Lockstep = "auto",
    device: flags.Device = "auto",
    gpus_per_job: Annotated[
        int, typer.Option(min=1, help="GPUs on which one training runs, each with a part of every batch.")
    ] = 1,
    columns: flags.Columns = None,
    page: Annotated[bool, typer.Option(help="Write report.html, which takes 5 to 10 CPU-seconds.")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and a time estimate; train nothing.")
    ] = False,
) -> None:
    """Train and score what a study still needs, print its tables and write its report.

    Press Ctrl-C to stop; the same command resumes. After the last training, the command only prints the tables again.
    """
    shown, together = flags.column_groups(columns), flags.lockstep_of(lockstep)
    # What takes seconds to import is imported after the arguments are known to be good.
    from harness.study.first_look import first_look

    first_look(asked.path, asked.overrides)

    from harness.execute.device import resolve_device
    from harness.execute.site import open_site
    from harness.jobs.kinds import check_given
    from harness.opened import open_study

    device = resolve_device(device)
    opened = open_study(asked, console)
    assert opened.root is not None, "of a study's file"
    site = open_site(asked.runs_dir, opened.root, device, workers, loader_workers, together, gpus_per_job)
    todo = [job for job in opened.plan.jobs.values() if site.folder(job.id).result() is None]
    _introduce(opened, todo, asked.seeds)
    if todo:
        _say(site.text)
    if dry_run:
        check_given(todo)
        _show_plan(opened, todo, site)
        return
    raise typer.Exit(_run(asked, opened, todo, site, shown, page))


def _introduce(opened: "Opened", todo: "list[Job]", seeds: str | None) -> None:
    plan = opened.plan
    if seeds is not None and seeds.isdecimal() and int(seeds) > 1:
        _say(f"--seeds {seeds} is one seed, number {seeds}; --seeds 0-{int(seeds) - 1} are {seeds} seeds")
    _say(f"{opened.name}: {introduction(plan, len(todo))}")
    for what, names in (
        ("teachers that no arm uses", opened.study.unused_teachers),
        ("students without a path", opened.study.unused_students),
    ):
        if names:
            _say(f"not trained: {what}: {', '.join(names)}")
    if opened.study.unused_losses:
        _say(f"losses without effect, as no arm contains them: {', '.join(opened.study.unused_losses)}")


def introduction(plan: "Plan", todo: int) -> str:
    """Tell the size of a plan, how many of its jobs are still to run, and how long its epochs are if not plain."""
    trainings = sum(job.spec.steps > 0 for job in plan.jobs.values())
    trained = "" if trainings == len(plan.jobs) else f" ({_count(trainings, 'training')})"
    left = {0: "all are done", 1: "1 is still to run"}.get(todo, f"{todo} are still to run")
    need = "needs" if len(plan.rows) == 1 else "need"
    balanced = "" if plan.plain_epochs is None else f"; a class-balanced epoch is {plan.plain_epochs:.2f} plain ones"
    rows, jobs = _count(len(plan.rows), "row"), _count(len(plan.jobs), "job")
    return f"{rows} of the table {need} {jobs}{trained}; {left}{balanced}"


def estimate_text(seconds: float, workers: int, by_runs: int, by_steps: int) -> str:
    """Tell how long jobs will take, and on what that is based."""
    based = [f"{_count(by_runs, 'job')} by finished jobs of the same kind"] if by_runs else []
    based += [f"{_count(by_steps, 'job')} by timed steps"] if by_steps else []
    time = timedelta(seconds=round(seconds))
    return f"estimated wall time: {time} with {_count(workers, 'worker')} ({', '.join(based)})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _show_plan(opened: "Opened", todo: "list[Job]", site: "Site") -> None:
    """Print every job, and the estimated time of those that are not finished."""
    from harness.execute.estimate import estimate
    from harness.execute.shared_memory import shared_memory

    for job in opened.plan.jobs.values():
        _say(f"  {job.id}  {'to run' if job in todo else 'done  '}  {job.label}")
    if todo:
        needed = estimate(opened.plan, todo, site, _say)
        _say(estimate_text(needed.seconds, site.workers, needed.by_runs, len(todo) - needed.by_runs))
    if (memory := shared_memory(opened.plan, todo, site)) is not None:
        _say(memory.text)
    if opened.plan.looped_trainings > len(opened.plan.jobs):
        looped = opened.plan.looped_trainings
        _say(f"a loop that trains a teacher and a baseline for each row would need {looped} trainings")


def _run(
    asked: flags.Asked,
    opened: "Opened",
    todo: "list[Job]",
    site: "Site",
    columns: tuple[str, ...] | None,
    page: bool,
) -> int:
    """Execute and report. Return the exit status: 0, 1 if a job failed, 2 if all failures are due to wrong input."""
    from harness.evidence.runs import StudyRuns
    from harness.execute.estimate import estimate
    from harness.execute.executor import execute
    from harness.execute.progress import progress
    from harness.execute.shared_memory import shared_memory
    from harness.jobs.kinds import check_inputs
    from harness.report.write import rebuild
    from harness.runs.claims import Claim, Claims
    from harness.runs.folder import make_folder
    from harness.tracking.study import Mirror

    for folder in (asked.runs_dir, asked.tables):
        make_folder(folder)
    check_inputs(todo, site.root)
    if (memory := shared_memory(opened.plan, todo, site)) is not None:
        memory.check()
    mirror = Mirror(asked.tracking_uri, opened.name, opened.study, opened.plan, asked.runs_dir, console)
    if todo or mirror.closed is None:
        mirror.open()
    # Before `execute` looks which results are there: from here on harness.runs leaves them alone.
    Claims(asked.runs_dir).replace(Claim.now(asked.call, asked.path, opened.plan.jobs))

    def watch(states: "dict[str, JobState]") -> None:
        display(states)
        if todo:
            mirror.follow(_done(states))

    try:
        # Before any process starts: beside others, steps would be timed at half their speed.
        expected = estimate(opened.plan, todo, site, _say).by_job
        with progress(console, site.workers) as display:
            stopping = partial(_say, "stopping; the trainings save their state")
            states = execute(opened.plan, site, watch, stopping, expected)
            watch(states)
    except KeyboardInterrupt:
        if todo:
            mirror.store.stop()
        _say(f"stopped; {asked.runs_dir} contains all finished steps; the same command resumes")
        raise typer.Exit(130) from None

    failed = [state for state in states.values() if state.status == "failed"]
    _say_what_went_wrong(states.values())
    _say("writing the report")
    command = asked.command("harness.run", places=False) if page else ""
    runs = StudyRuns.open(opened.plan, asked.runs_dir)
    text, arms = rebuild(opened, runs, asked.tables, console, command, columns)
    done, written = _done(states), (asked.tables, text, arms, bool(failed))
    # MLflow takes as long to import as everything else: it is left alone where it has nothing to learn.
    if not mirror.is_finished(*written, len(done)):
        mirror.follow(done)
        mirror.finish(*written)
    _say(f"to compare the runs in MLflow: {asked.again('report', '--ui')}")
    return 0 if not failed else 2 if all(state.wrong_input for state in failed) else 1


def _done(states: "dict[str, JobState]") -> "list[Job]":
    return [state.job for state in states.values() if state.status == "done"]


def _say_what_went_wrong(states: "Collection[JobState]") -> None:
    for state in states:
        if state.status == "failed":
            _say(f"failed: {state.job.label} [{state.job.id}]: {state.reason}", style="red")
    for state in states:
        if state.status == "done" and state.reason:
            _say(f"warning: {state.job.label} [{state.job.id}] is done, but {state.reason}", style="yellow")


if __name__ == "__main__":
    app()
