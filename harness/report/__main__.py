"""python -m harness.report STUDY.yaml: rebuild the report from stored runs or from a bundle, without training."""

import tempfile
import threading
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from harness import flags
from harness.console import say
from harness.errors import InputError
from harness.program import Program

if TYPE_CHECKING:
    from harness.evidence.line import Line
    from harness.evidence.runs import StudyRuns
    from harness.opened import Opened
    from harness.tracking.study import Mirror

console = Console()
_say = partial(say, console)
app = Program()
StudyOrBundle = Annotated[
    Path, typer.Argument(metavar="STUDY.yaml|FILE.zip", help="A study file, or a bundle that --bundle wrote.")
]


@app.command()
@flags.asks(path=StudyOrBundle)
def main(
    asked: flags.Asked,
    sync: Annotated[bool, typer.Option("--sync", help="Also rebuild the study's runs in MLflow.")] = False,
    ui: Annotated[
        bool, typer.Option("--ui", help="As --sync, then open MLflow and print links to compare runs.")
    ] = False,
    examine: Annotated[
        bool,
        typer.Option("--examine", help="Compute missing diagnostics from stored weights and boxes."),
    ] = False,
    device: Annotated[str, typer.Option(help="Device for --examine: auto, cpu, cuda or mps.")] = "auto",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow on 127.0.0.1, for --ui.")] = 5000,
    bundle: Annotated[
        Path | None, typer.Option(metavar="FILE.zip", help="Also write a bundle: one file that rebuilds the tables.")
    ] = None,
    without_predictions: Annotated[
        bool, typer.Option("--without-predictions", help="Omit the predicted boxes, most of the bundle's size.")
    ] = False,
    with_weights: Annotated[
        bool, typer.Option("--with-weights", help="Add the trained detectors to the bundle.")
    ] = False,
    columns: flags.Columns = None,
    open_: Annotated[bool, typer.Option("--open", help="Open report.html in the browser.")] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Allow a bundle to import modules, which runs their code.")
    ] = False,
) -> None:
    """Write the report of a study from its finished runs, and print its tables. Nothing is trained.

    A row without a finished run states the reason. A bundle (FILE.zip) needs neither the dataset nor the runs. The exit
    status is 2 if a run is damaged; its row names the damage.
    """
    from harness.study.first_look import first_look

    _check_flags(asked, bundle, examine, without_predictions, with_weights)
    if _is_study_file(asked.path):
        first_look(asked.path, asked.overrides)

    from harness.bundle.read import differing_tables
    from harness.bundle.write import write_bundle
    from harness.evidence.runs import StudyRuns
    from harness.report.write import rebuild

    shown = flags.column_groups(columns)
    with _opened(asked, trust) as opened:
        unexamined = examine and _complete(opened, device)
        runs = StudyRuns.open(opened.plan, opened.runs_dir)
        tables = asked.out / opened.name
        text, arms = rebuild(opened, runs, tables, console, asked.command("harness.run", places=False), shown)
        damaged, done = runs.damaged, [runs[id_].job for id_ in runs.results]
        if opened.root is None:
            _compare(differing_tables(opened, tables))
        elif not done and not damaged:
            _say(f"this study has no finished training yet; to train it: {asked.command('harness.run')}")
        if bundle is not None:
            files = write_bundle(bundle, opened, runs, tables, not without_predictions, with_weights)
            _say(f"bundle: {bundle}, {files} files of {len(done)} finished runs, {bundle.stat().st_size:,} bytes")
        if open_ and not webbrowser.open((tables / "report.html").resolve().as_uri()):
            _say(f"no browser can be started here; open {tables / 'report.html'} yourself")
        if sync or ui:
            mirror = _mirrored(asked, opened, runs, tables, text, arms)
            if ui:
                _serve(mirror, asked.tracking_uri, port)
            else:
                _say(f"to compare the runs in a browser: {asked.again('report', '--ui')}")
    if damaged:
        raise typer.Exit(2)
    if unexamined:
        raise typer.Exit(1)


def _check_flags(
    asked: flags.Asked, bundle: Path | None, examine: bool, without_predictions: bool, with_weights: bool
) -> None:
    """Raise InputError for flags that have no effect together with the others."""
    contents = {"--without-predictions": without_predictions, "--with-weights": with_weights}
    if bundle is None and any(contents.values()):
        raise InputError(f"{_named(contents)}: this applies to a bundle only; add --bundle FILE.zip")
    of_study = asked.of_study | {"--bundle": bundle, "--examine": examine}
    if _is_study_file(asked.path) or not any(of_study.values()):
        return
    from harness.bundle.read import is_bundle

    if is_bundle(asked.path):
        raise InputError(
            f"{_named(of_study)}: {asked.path} is a bundle, which contains its study, data and runs; "
            "these flags are for study files only"
        )


def _is_study_file(path: Path) -> bool:
    """Whether the suffix is that of a study file; a look into the file would cost seconds of imports."""
    return path.suffix in (".yaml", ".yml")


def _named(given: Mapping[str, object]) -> str:
    """The flags that were given."""
    return ", ".join(flag for flag, value in given.items() if value)


@contextmanager
def _opened(asked: flags.Asked, trust: bool) -> "Iterator[Opened]":
    """Open the study or the bundle that the report is made from."""
    from harness.bundle.read import is_bundle, unbundled
    from harness.opened import open_study

    if is_bundle(asked.path):
        with unbundled(asked.path, trust) as opened:
            yield opened
    else:
        yield open_study(asked, console)


def _compare(differing: Sequence[str]) -> None:
    """Print whether the tables equal those of the bundle."""
    if differing:
        _say(f"these differ from the bundle, perhaps written by another version of the code: {', '.join(differing)}")
    else:
        _say("the tables equal those of the bundle byte for byte")


def _complete(opened: "Opened", device: str) -> bool:
    """Examine the finished jobs; return whether any examination failed."""
    from harness.evidence.runs import StudyRuns
    from harness.execute.device import resolve_device
    from harness.report.complete import complete

    device = resolve_device(device)
    assert opened.root is not None, "of a study, not of a bundle"
    # One thread, as a training has, so that latencies of then and now compare.
    runs = StudyRuns.open(opened.plan, opened.runs_dir)
    completion = complete(runs, opened.root, device, threads=1, console=console)
    _say(completion.text)
    return bool(completion.failed)


def _mirrored(
    asked: flags.Asked, opened: "Opened", runs: "StudyRuns", tables: Path, text: str, lines: "Sequence[Line]"
) -> "Mirror":
    """Mirror the study's run folders to MLflow."""
    from harness.tracking.study import Mirror

    mirror = Mirror(asked.tracking_uri, opened.name, opened.study, opened.plan, opened.runs_dir, console)
    mirror.open()
    mirror.follow(runs[id_].job for id_ in runs.results)
    mirror.finish(tables, text, lines, any(run.damage or run.failure for run in runs.values()))
    return mirror


def _serve(mirror: "Mirror", tracking_uri: str, port: int) -> None:
    """Serve the UI until Ctrl-C is pressed."""
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
