"""python -m harness.run STUDY.yaml: plan, execute, report."""

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness import flags
from harness.errors import exit_2_on_input_error

console = Console()
app = typer.Typer(add_completion=False)


@app.command()
def main(
    study_path: flags.StudyPath,
    data_root: flags.DataRoot = None,
    version: flags.Version = None,
    split: flags.Split = None,
    runs_dir: flags.RunsDir = flags.RUNS,
    out: flags.Out = flags.OUT,
    tracking_uri: flags.TrackingUri = flags.TRACKING,
    workers: Annotated[int | None, typer.Option(min=1, help="Trainings at once; as many as GPUs, or cores.")] = None,
    loader_workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that load data for each training; 0 on a CPU if not given.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    seeds: flags.Seeds = None,
    set_: flags.Set = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and what is done; run nothing.")] = False,
) -> None:
    """Train what the study needs and does not have yet, score it, and print the table.

    Stop it with Ctrl-C and call it again to go on. Calling it when all is done trains nothing and prints the table.
    """
    with exit_2_on_input_error():
        overrides = flags.overrides(data_root, version, split, seeds, set_)
        call = flags.called(study_path, data_root, version, split, seeds, set_)
        status = _run(
            study_path, overrides, call, runs_dir, out, tracking_uri, workers, loader_workers, device, dry_run
        )
    raise typer.Exit(status)


def _run(
    study_path: Path,
    overrides: list[str],
    call: str,
    runs_dir: Path,
    out: Path,
    tracking_uri: str,
    workers: int | None,
    loader_workers: int | None,
    device: str,
    dry_run: bool,
) -> int:
    """The whole way; the exit status: 0, 1 where a job failed, 2 where all that failed did so by wrong input."""
    # What takes seconds to import is imported after the arguments are known to be good.
    from harness.data.root import count_samples
    from harness.evidence.runs import StudyRuns
    from harness.execute.executor import (
        JobState,
        Site,
        check_device,
        default_loader_workers,
        default_workers,
        execute,
    )
    from harness.execute.progress import progress
    from harness.report.source import Source
    from harness.report.write import rebuild
    from harness.runs.claims import Records, Wanted
    from harness.runs.folder import make_folder
    from harness.study.load import load_study
    from harness.study.plan import plan_study
    from harness.tracking.store import check_store
    from harness.tracking.study import Mirror
    from harness.train.job import check_inputs
    from harness.world.roots import find_images, open_root

    check_device(device)
    study = load_study(study_path, overrides)
    root = open_root(study.data, console)
    plan = plan_study(
        study, root.fingerprint(), partial(count_samples, root, study.data.train_split), find_images(console)
    )
    workers = workers or default_workers(device)
    if loader_workers is None:
        loader_workers = default_loader_workers(device, workers)
    site = Site(runs_dir, root, device, workers, loader_workers=loader_workers)

    todo = [job for job in plan.jobs.values() if site.folder(job.id).result() is None]
    console.print(
        f"{study_path.stem}: {len(plan.rows)} rows, {len(plan.jobs)} jobs, {len(todo)} to run "
        f"(a loop over rows would train {plan.wanted})",
        highlight=False,
    )
    for what, names in (
        ("teacher that no arm asks", study.unused_teachers),
        ("student without a path", study.unused_students),
    ):
        if names:
            console.print(f"{what}, not trained: {', '.join(names)}", markup=False, highlight=False)
    if dry_run:
        for job in plan.jobs.values():
            console.print(f"  {job.id}  {'to run' if job in todo else 'done  '}  {job.label}", highlight=False)
        if todo:
            from harness.execute.estimate import estimate

            needed = estimate(plan, todo, site)
            console.print(
                f"about {timedelta(seconds=round(needed.seconds))} with {workers} workers; by finished jobs alike: "
                f"{needed.by_runs} of {len(todo)} jobs; by steps timed on random input: the others",
                highlight=False,
                soft_wrap=True,
            )
        return 0
    tables = out / study_path.stem
    for folder in (runs_dir, tables):
        make_folder(folder)
    check_inputs(todo, root)
    check_store(tracking_uri)
    # Before `execute` looks which results are there: from here on harness.runs leaves them alone.
    wanted = Wanted(name=call, study=study_path.resolve(), called=datetime.now(UTC), jobs=tuple(plan.jobs))
    Records(runs_dir).replace(wanted)

    mirror = Mirror(tracking_uri, study_path.stem, study, plan, runs_dir, console)

    def watch(states: dict[str, JobState]) -> None:
        display(states)
        mirror.follow(state.job for state in states.values() if state.status == "done")

    try:
        with progress(console, site.workers) as display:
            states = execute(plan, site, watch)
            watch(states)
    except KeyboardInterrupt:
        mirror.stop()
        said = f"stopped; finished steps are kept in {runs_dir}; the same command goes on"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None

    source = Source(study_path.stem, study, plan, runs_dir, root)
    text, arms = rebuild(source, StudyRuns.open(plan, runs_dir), tables, console)
    failed = [state for state in states.values() if state.status == "failed"]
    for state in failed:
        console.print(f"failed: {state.job.label} [{state.job.id}]: {state.reason}", markup=False, style="red")
    for state in states.values():
        if state.status == "done" and state.reason:
            console.print(f"done, but {state.job.label} [{state.job.id}]: {state.reason}", markup=False, style="yellow")
    mirror.finish(tables, text, arms, bool(failed))
    command = flags.command("harness.report", study_path, overrides, runs_dir, out, tracking_uri)
    for what, end in (("the whole report, with figures, as a page", ""), ("compare in a browser", " --ui")):
        console.print(f"{what}: {command}{end}", markup=False, highlight=False, soft_wrap=True)
    return 0 if not failed else 2 if all(state.wrong_input for state in failed) else 1


if __name__ == "__main__":
    app()
