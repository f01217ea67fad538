"""python -m harness.report STUDY.yaml: the tables again from what is stored, also while the study runs."""

from functools import partial
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
    seeds: flags.Seeds = None,
    set_: flags.Set = None,
    sync: Annotated[bool, typer.Option("--sync", help="Rebuild the study's runs in MLflow, too.")] = False,
) -> None:
    """Print and write the tables of a study from its finished runs; rows without one say so. Nothing is trained."""
    with exit_2_on_input_error():
        from harness.data.embedded import find_images, open_root
        from harness.data.root import count_samples
        from harness.report.rebuild import rebuild
        from harness.store import RunFolder
        from harness.study.load import load_study
        from harness.study.plan import plan_study
        from harness.tracking import Mirror

        study = load_study(study_path, flags.overrides(data_root, version, split, seeds, set_))
        root = open_root(study.data, console)
        plan = plan_study(
            study, root.fingerprint(), partial(count_samples, root, study.data.train_split), find_images(console)
        )
        tables = out / study_path.stem
        text = rebuild(plan, study, runs_dir, tables, console)
        if sync:
            done = [job for job in plan.jobs.values() if RunFolder(runs_dir / job.id).result() is not None]
            failed = any(RunFolder(runs_dir / id_).failure() for id_ in plan.jobs)
            mirror = Mirror(tracking_uri, study_path.stem, study, plan, runs_dir, console)
            mirror.follow(done)
            mirror.finish(tables, text, failed)
            console.print(f"compare runs: mlflow ui --backend-store-uri {tracking_uri}", highlight=False)


if __name__ == "__main__":
    app()
