"""python -m harness.report STUDY.yaml: the tables again from what is stored, also while the study runs."""

import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from harness import flags
from harness.errors import exit_2_on_input_error

if TYPE_CHECKING:
    from harness.data.root import NuScenesRoot
    from harness.study.plan import Plan
    from harness.tracking.study import Mirror

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
    seeds: flags.Seeds = None,
    set_: flags.Set = None,
    sync: Annotated[bool, typer.Option("--sync", help="Rebuild the study's runs in MLflow, too.")] = False,
    ui: Annotated[
        bool, typer.Option("--ui", help="The same, and open MLflow on them: prints links that compare them.")
    ] = False,
    examine: Annotated[
        bool,
        typer.Option("--examine", help="Find out what runs lack for the diagnostics, from their weights and boxes."),
    ] = False,
    device: Annotated[str, typer.Option(help="What --examine looks on: auto, cpu, cuda or mps.")] = "auto",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the UI, on 127.0.0.1.")] = 5000,
) -> None:
    """Print and write the tables of a study from its finished runs; rows without one say so. Nothing is trained."""
    unexamined = False
    with exit_2_on_input_error():
        from harness.data.embedded import find_images, open_root
        from harness.data.root import count_samples
        from harness.report.rebuild import rebuild
        from harness.store import RunFolder
        from harness.study.load import load_study
        from harness.study.plan import plan_study
        from harness.tracking.store import check_store
        from harness.tracking.study import Mirror

        given = flags.overrides(data_root, version, split, seeds, set_)
        study = load_study(study_path, given)
        root = open_root(study.data, console)
        plan = plan_study(
            study, root.fingerprint(), partial(count_samples, root, study.data.train_split), find_images(console)
        )
        if examine:
            unexamined = _complete(plan, runs_dir, root, device)
        tables = out / study_path.stem
        text, arms = rebuild(plan, study, runs_dir, tables, console)
        if sync or ui:
            check_store(tracking_uri)
            done = [job for job in plan.jobs.values() if RunFolder(runs_dir / job.id).result() is not None]
            failed = any(RunFolder(runs_dir / id_).failure() for id_ in plan.jobs)
            mirror = Mirror(tracking_uri, study_path.stem, study, plan, runs_dir, console)
            mirror.follow(done)
            mirror.finish(tables, text, arms, failed)
            if ui:
                _serve(mirror, tracking_uri, port)
            else:
                command = flags.ui_command(study_path, given, runs_dir, out, tracking_uri)
                console.print(f"compare in a browser: {command}", markup=False, highlight=False, soft_wrap=True)
    if unexamined:
        raise typer.Exit(1)


def _complete(plan: "Plan", runs: Path, root: "NuScenesRoot", device: str) -> bool:
    """Examine what is finished; whether that failed anywhere."""
    from harness.execute.executor import check_device
    from harness.report.complete import complete

    check_device(device)
    # One thread, as a training has, so that latencies of then and now compare.
    found = complete(plan, runs, root, device, threads=1, console=console)
    console.print(found.text, markup=False, highlight=False, soft_wrap=True)
    return bool(found.failed)


def _serve(mirror: "Mirror", tracking_uri: str, port: int) -> None:
    """Have the UI on until somebody presses Ctrl-C."""
    from harness.tracking.search import complete_trials
    from harness.tracking.store import is_server
    from harness.tracking.ui import compare_link, serving

    if not mirror.store.alive:
        raise typer.Exit(1)
    wanted = {"arms": mirror.arms(), "search": complete_trials(mirror.store)}
    with tempfile.TemporaryDirectory() as folder, serving(tracking_uri, port, Path(folder) / "log.txt") as address:
        console.print(f"MLflow: {address}/#/experiments/{mirror.store.experiment}", highlight=False, soft_wrap=True)
        for what, runs in wanted.items():
            if runs:
                link = compare_link(address, mirror.store.experiment, runs)
                console.print(f"{what}: {link}", markup=False, highlight=False, soft_wrap=True)
            else:
                console.print(f"{what}: nothing to compare yet", highlight=False)
        if is_server(tracking_uri):
            return
        console.print("Ctrl-C ends it", highlight=False)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            console.print("ended", highlight=False)


if __name__ == "__main__":
    app()
