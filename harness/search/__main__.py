"""python -m harness.search STUDY.yaml: Optuna proposes, ordinary jobs answer, fresh seeds and scenes confirm."""

import signal
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness import flags
from harness.errors import InputError, exit_2_on_input_error

console = Console()
app = typer.Typer(add_completion=False)


@app.command()
def main(
    study_path: flags.StudyPath,
    trials: Annotated[
        int | None, typer.Option(help="Complete or pruned ones; the study's number if not given.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Minutes after which no trial is begun any more.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at once; as many as GPUs, or cores.")] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="A database URL, for machines that share no folder; Optuna's journal if not given."),
    ] = None,
    searches_dir: Annotated[Path, typer.Option(help="Folders of searches: journal, and who is at work.")] = Path(
        "searches"
    ),
    confirm: Annotated[
        bool, typer.Option(help="Train the best values on fresh seeds and score what is reported.")
    ] = True,
    data_root: flags.DataRoot = None,
    version: flags.Version = None,
    split: flags.Split = None,
    runs_dir: flags.RunsDir = flags.RUNS,
    out: flags.Out = flags.OUT,
    tracking_uri: flags.TrackingUri = flags.TRACKING,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    set_: flags.Set = None,
) -> None:
    """Search the fields that a study's section `search` names, and confirm what was found.

    Stop it with Ctrl-C, or kill it, and call it again to go on; call it twice at once to go twice as fast. A trial is a
    set of ordinary jobs: equal values are never trained twice, and its runs are those of any study.
    """
    with exit_2_on_input_error():
        if trials is not None and trials <= 0:
            raise InputError(f"--trials {trials} is no number of trials; 1 or more")
        if timeout is not None and not timeout > 0:
            raise InputError(f"--timeout {timeout:g} is no time; more than 0 minutes")
        given = flags.overrides(data_root, version, split, None, set_)
        call = "search " + flags.called(study_path, data_root, version, split, None, set_)
        _search(
            study_path,
            given,
            call,
            trials,
            timeout,
            workers,
            storage,
            searches_dir,
            confirm,
            runs_dir,
            out,
            tracking_uri,
            device,
        )


def _search(
    study_path: Path,
    given: list[str],
    call: str,
    trials: int | None,
    timeout: float | None,
    workers: int | None,
    storage: str | None,
    searches_dir: Path,
    confirm: bool,
    runs_dir: Path,
    out: Path,
    tracking_uri: str,
    device: str,
) -> None:
    from harness.execute.executor import Site, check_device, default_loader_workers, default_workers
    from harness.runs.claims import Records, Wanted
    from harness.runs.folder import make_folder
    from harness.search.confirmation import CURRENT, first_values, variant
    from harness.search.loop import Stopped, TrialFailed, search
    from harness.search.objective import Trainer
    from harness.search.opened_search import ask
    from harness.search.report import Tell, finish, found_path
    from harness.search.trials import opened
    from harness.study.plan import Plan
    from harness.tracking.search import SearchMirror
    from harness.tracking.store import check_store
    from harness.train.job import check_inputs
    from harness.world.roots import find_images, open_root

    check_device(device)
    question = ask(study_path, given)
    chosen = question.trial_study({}).data
    root = open_root(chosen, console)
    if confirm:
        open_root(question.study.data, console)
    workers = workers or default_workers(device)
    site = Site(runs_dir, root, device, 1, loader_workers=default_loader_workers(device, workers))
    records = Records(runs_dir)

    def want(plan: Plan) -> None:
        records.extend(Wanted(name=call, study=study_path.resolve(), called=datetime.now(UTC), jobs=tuple(plan.jobs)))

    trainer = Trainer(question, root, site, find_images(console), want)
    wanted = trials or question.search.trials
    deadline = None if timeout is None else time.monotonic() + 60 * timeout
    confirmed = trainer.planned(variant(question, CURRENT, {})).jobs if confirm else {}
    check_inputs([*trainer.plan({}).jobs.values(), *confirmed.values()], root)
    reports = out / study_path.stem
    for folder in (runs_dir, reports, found_path(question).parent):
        make_folder(folder)
    check_store(tracking_uri)

    identity = question.identity(trainer.fingerprint)
    with opened(searches_dir / study_path.stem, storage, question.search, identity) as book:
        with book.turn():
            mirror = SearchMirror(tracking_uri, study_path.stem, identity, console)
        console.print(
            f"search {study_path.stem}: {question.route} {question.arm}, {', '.join(question.search.objective)} on "
            f"{chosen.eval_split}, seeds {', '.join(map(str, question.search.seeds))}; "
            f"{len(book.counted())} of {wanted} trials are there",
            highlight=False,
            soft_wrap=True,
        )
        for name, values in first_values(question).items():
            book.enqueue(values, name)
        try:
            baseline = trainer.score(trainer.baseline(), lambda epoch, value: False, lambda: False, 0)
            search(
                book,
                trainer.evaluate,
                wanted,
                workers,
                deadline,
                Tell(console, book, question.search.objective, wanted, mirror),
            )
            several = replace(site, workers=workers)
            whole = finish(question, trainer, book, baseline, several, confirm, reports, mirror, console)
            command = flags.command("harness.report", study_path, given, runs_dir, out, tracking_uri)
            console.print(f"compare in a browser: {command} --ui", markup=False, highlight=False, soft_wrap=True)
        except (KeyboardInterrupt, Stopped):
            mirror.stop()
            console.print(
                f"stopped; finished trials are kept in {searches_dir}, steps in {runs_dir}; the same command goes on"
            )
            raise typer.Exit(130) from None
        except TrialFailed as error:
            console.print(f"given up: {error}", markup=False, style="red")
            raise typer.Exit(1) from None
        if not whole:
            raise typer.Exit(1)


if __name__ == "__main__":
    # A batch system that ends the job says so by SIGTERM; it is taken like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
