"""python -m harness.run STUDY.yaml: plan, execute, report."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.errors import InputError, exit_2_on_input_error

console = Console()
app = typer.Typer(add_completion=False)


@app.command()
def main(
    study_path: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The question, such as studies/paths.yaml.")],
    data_root: Annotated[Path | None, typer.Option(help="A nuScenes root; an embedded world if not given.")] = None,
    version: Annotated[str | None, typer.Option(help="Version folder in the root, such as v1.0-trainval.")] = None,
    split: Annotated[
        str | None, typer.Option(help="TRAIN:EVAL splits, or one for both; the version's own if not given.")
    ] = None,
    runs_dir: Annotated[Path, typer.Option(help="Run folders; equal jobs of all studies share one.")] = Path("runs"),
    out: Annotated[Path, typer.Option(help="Tables go to OUT/STUDY.")] = Path("reports"),
    tracking_uri: Annotated[str, typer.Option(help="MLflow tracking store.")] = "sqlite:///mlflow.db",
    workers: Annotated[int | None, typer.Option(min=1, help="Trainings at once; as many as GPUs, or cores.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    seeds: Annotated[str | None, typer.Option(help="Instead of the study's, such as 0,1,2.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, such as schedule.steps=100.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and what is done; run nothing.")] = False,
) -> None:
    """Train what the study needs and does not have yet, score it, and print the table.

    Stop it with Ctrl-C and call it again to go on. Calling it when all is done trains nothing and prints the table.
    """
    with exit_2_on_input_error():
        if device not in ("auto", "cpu", "cuda", "mps"):
            raise InputError(f"--device {device!r}; allowed: auto, cpu, cuda, mps")
        overrides = list(set_ or [])
        if seeds is not None:
            overrides.append(f"seeds=[{seeds}]")
        overrides += _data_overrides(data_root, version, split)
        failed = _run(study_path, overrides, runs_dir, out, tracking_uri, workers, device, dry_run)
    raise typer.Exit(1 if failed else 0)


def _data_overrides(root: Path | None, version: str | None, split: str | None) -> list[str]:
    """The flags about data as overrides of the study's `data`."""
    found = [f"data.root={root}"] if root is not None else []
    if version is not None:
        found.append(f"data.version={version}")
        split = split or {"v1.0-trainval": "train:val", "v1.0-mini": "mini_train:mini_val"}.get(version)
    if split is not None:
        train, _, evaluated = split.partition(":")
        found += [f"data.train_split={train}", f"data.eval_split={evaluated or train}"]
    return found


def _run(
    study_path: Path,
    overrides: list[str],
    runs_dir: Path,
    out: Path,
    tracking_uri: str,
    workers: int | None,
    device: str,
    dry_run: bool,
) -> bool:
    """The whole way; whether a job failed."""
    # What takes seconds to import is imported after the arguments are known to be good.
    from harness.data.embedded import open_root
    from harness.execute.executor import JobState, Site, default_workers, execute
    from harness.execute.progress import progress
    from harness.report.results import results_frame, summary
    from harness.report.tables import markdown, print_table, write_tables
    from harness.study.load import load_study
    from harness.study.plan import plan_study
    from harness.tracking import Mirror
    from harness.train.job import check_inputs

    study = load_study(study_path, overrides)
    root = open_root(study.data, console)
    plan = plan_study(study, root.fingerprint())
    site = Site(runs_dir, root, device, workers or default_workers(device))

    todo = [job for job in plan.jobs.values() if site.folder(job.id).result() is None]
    console.print(
        f"{study_path.stem}: {len(plan.rows)} rows, {len(plan.jobs)} jobs, {len(todo)} to run "
        f"(a loop over rows would train {plan.wanted})",
        highlight=False,
    )
    if dry_run:
        for job in plan.jobs.values():
            console.print(f"  {job.id}  {'to run' if job in todo else 'done  '}  {job.label}", highlight=False)
        return False
    check_inputs(todo, root)

    mirror = Mirror(tracking_uri, study_path.stem, study, plan, runs_dir, console)

    def watch(states: dict[str, JobState]) -> None:
        display(states)
        mirror.follow(state.job for state in states.values() if state.status == "done")

    try:
        with progress(console, site.workers) as display:
            states = execute(plan, site, watch)
            watch(states)
    except KeyboardInterrupt:
        console.print(f"stopped; finished steps are kept in {runs_dir}; the same command goes on")
        raise typer.Exit(130) from None

    results = summary(results_frame(plan, runs_dir))
    tables = out / study_path.stem
    write_tables(results, study, tables)
    print_table(results, study, console)
    failed = [state for state in states.values() if state.status == "failed"]
    for state in failed:
        console.print(f"failed: {state.job.label} [{state.job.id}]: {state.reason}", markup=False, style="red")
    mirror.finish(tables, markdown(results, study), bool(failed))
    console.print(f"tables: {tables}/table.md, {tables}/table.csv", highlight=False)
    console.print(f"compare runs: mlflow ui --backend-store-uri {tracking_uri}", highlight=False)
    return bool(failed)


if __name__ == "__main__":
    app()
