"""python -m harness.report STUDY.yaml: the tables again from what is stored, also while it runs; or from a bundle."""

import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from harness import flags
from harness.errors import InputError, exit_2_on_input_error

if TYPE_CHECKING:
    from harness.report.source import Source
    from harness.tracking.study import Mirror

console = Console()
app = typer.Typer(add_completion=False)
StudyOrBundle = Annotated[
    Path, typer.Argument(metavar="STUDY.yaml|FILE.zip", help="The question, or a bundle that --bundle wrote.")
]


@app.command()
def main(
    study_path: StudyOrBundle,
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
    bundle: Annotated[
        Path | None, typer.Option(metavar="FILE.zip", help="Also write all that the tables are made from to one file.")
    ] = None,
    without_predictions: Annotated[
        bool, typer.Option("--without-predictions", help="Leave predicted boxes out of the bundle, most of its size.")
    ] = False,
    with_weights: Annotated[bool, typer.Option("--with-weights", help="Add trained detectors to the bundle.")] = False,
) -> None:
    """Print and write the tables of a study from its finished runs; rows without one say so. Nothing is trained.

    Of a bundle, without its dataset and its runs. Exit status 2 where a run is damaged: its row says so.
    """
    unexamined = False
    with exit_2_on_input_error():
        from harness.bundle.read import differing_tables, is_bundle
        from harness.bundle.write import write_bundle
        from harness.evidence.runs import StudyRuns
        from harness.report.write import rebuild
        from harness.tracking.store import check_store
        from harness.tracking.study import Mirror

        chosen = {"--without-predictions": without_predictions, "--with-weights": with_weights}
        if bundle is None and any(chosen.values()):
            raise InputError(f"{_named(chosen)}: says what goes into a bundle; add --bundle FILE.zip")
        of_study: dict[str, object] = {"--data-root": data_root, "--version": version, "--split": split}
        of_study |= {"--seeds": seeds, "--set": set_, "--runs-dir": runs_dir != flags.RUNS, "--bundle": bundle}
        of_study["--examine"] = examine
        if is_bundle(study_path) and any(of_study.values()):
            raise InputError(
                f"{_named(of_study)}: {study_path} is a bundle, which has its study, data and runs in it; such flags "
                "are for the file of a study"
            )
        given = flags.overrides(data_root, version, split, seeds, set_)
        with _opened(study_path, given, runs_dir) as source:
            if examine:
                unexamined = _complete(source, device)
            runs = StudyRuns.open(source.plan, source.runs)
            tables = out / source.name
            again = flags.command("harness.run", study_path, given, flags.RUNS, flags.OUT, flags.TRACKING)
            text, arms = rebuild(source, runs, tables, console, again)
            damaged, done = runs.damaged, [runs[id_].job for id_ in runs.results]
            if source.root is None:
                _compare(differing_tables(source, tables))
            elif not done and not damaged:
                train = flags.command("harness.run", study_path, given, runs_dir, out, tracking_uri)
                _say(f"nothing of this study is trained yet; this trains it: {train}")
            if bundle is not None:
                files = write_bundle(bundle, source, runs, tables, not without_predictions, with_weights)
                _say(f"bundle: {bundle}, {files} files of {len(done)} finished runs, {bundle.stat().st_size:,} bytes")
            if sync or ui:
                check_store(tracking_uri)
                failed = any(run.damage or run.failure for run in runs.values())
                mirror = Mirror(tracking_uri, source.name, source.study, source.plan, source.runs, console)
                mirror.follow(done)
                mirror.finish(tables, text, arms, failed)
                if ui:
                    _serve(mirror, tracking_uri, port)
                else:
                    command = flags.command("harness.report", study_path, given, runs_dir, out, tracking_uri)
                    _say(f"compare in a browser: {command} --ui")
        if damaged:
            raise typer.Exit(2)
    if unexamined:
        raise typer.Exit(1)


def _named(given: Mapping[str, object]) -> str:
    """The flags that were given."""
    return ", ".join(flag for flag, value in given.items() if value)


@contextmanager
def _opened(path: Path, given: Sequence[str], runs: Path) -> "Iterator[Source]":
    """What the report is made from."""
    from harness.bundle.read import is_bundle, unbundled
    from harness.report.source import of_study

    if is_bundle(path):
        with unbundled(path) as source:
            yield source
    else:
        yield of_study(path, given, runs, console)


def _compare(differing: Sequence[str]) -> None:
    """Say whether the tables are those of the bundle."""
    if differing:
        _say(f"not as in the bundle, which another version of the code may have written: {', '.join(differing)}")
    else:
        _say("byte for byte the tables of the bundle")


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _complete(source: "Source", device: str) -> bool:
    """Examine what is finished; whether that failed anywhere."""
    from harness.evidence.runs import StudyRuns
    from harness.execute.executor import check_device
    from harness.report.complete import complete

    check_device(device)
    assert source.root is not None, "of a study, not of a bundle"
    # One thread, as a training has, so that latencies of then and now compare.
    runs = StudyRuns.open(source.plan, source.runs)
    found = complete(runs, source.root, device, threads=1, console=console)
    _say(found.text)
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
