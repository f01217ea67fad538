"""python -m harness.search STUDY.yaml: Optuna proposes values, jobs train them, fresh seeds confirm them."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness import flags
from harness.console import say
from harness.errors import InputError
from harness.program import Program

console = Console()
_say = partial(say, console)
app = Program()


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """A batch system that ends the job says so by SIGTERM; it is taken like Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.command()
@flags.asks("seeds")
@_ended_as_by_ctrl_c()
def main(
    asked: flags.Asked,
    trials: Annotated[
        int | None, typer.Option(help="Complete or pruned trials. Default: the number in the study.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Start no trial after this many minutes.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at once. Default: one per GPU or core.")] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Database URL, for machines without a common folder. Default: Optuna's journal.",
            callback=flags.uri_at_home,
        ),
    ] = None,
    searches_dir: Annotated[Path, typer.Option(help="Folder of the searches' journals and locks.")] = Path("searches"),
    found_study: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="File for the best study. Default: OUT/STUDY/STUDY_found.yaml."),
    ] = None,
    confirm: Annotated[
        bool, typer.Option(help="Train the best values on fresh seeds and score them on the reported split.")
    ] = True,
    lockstep: flags.Lockstep = "auto",
    device: flags.Device = "auto",
) -> None:
    """Search values for the fields in a study's section `search`, and confirm the best ones.

    Press Ctrl-C to stop; the same command resumes, even after a kill. Two calls at the same time share the work. Trials
    are ordinary jobs, so equal values are never trained twice.
    """
    if trials is not None and trials <= 0:
        raise InputError(f"--trials {trials} is not a number of trials; allowed: 1 or more")
    if timeout is not None and not timeout > 0:
        raise InputError(f"--timeout {timeout:g} is not a time; allowed: more than 0 minutes")
    together = flags.lockstep_of(lockstep)
    deadline = None if timeout is None else time.monotonic() + 60 * timeout
    from harness.study.first_look import first_look

    first_look(asked.path, asked.overrides)

    from harness.execute.device import resolve_device
    from harness.execute.shared_memory import shared_memory
    from harness.execute.site import open_site
    from harness.jobs.kinds import check_inputs
    from harness.opened import Planner
    from harness.runs.claims import Claim, Claims
    from harness.runs.folder import make_folder
    from harness.search.confirmation import CURRENT, first_values, variant
    from harness.search.loop import Stopped, TrialFailed, search
    from harness.search.objective import Trainer
    from harness.search.opened_search import open_search
    from harness.search.report import finish, teller
    from harness.search.trials import open_book
    from harness.study.plan import Plan
    from harness.tracking.search import SearchMirror
    from harness.tracking.store import check_store
    from harness.world.roots import open_root

    device = resolve_device(device)
    chosen_study = found_study or asked.tables / f"{asked.name}_found.yaml"
    folder = searches_dir / asked.name
    opened = open_search(asked.path, asked.overrides)
    chosen = opened.trial_study({}).data
    planner = Planner(open_root(chosen, console), console)
    if confirm:
        open_root(opened.study.data, console)
    several = open_site(asked.runs_dir, planner.root, device, workers, lockstep=together)
    _say(several.text)
    claims = Claims(asked.runs_dir)

    def claim(plan: Plan) -> None:
        claims.extend(Claim.now(f"search {asked.call}", asked.path, plan.jobs))

    trainer = Trainer(opened, planner, replace(several, workers=1), claim)
    trials = trials or opened.search.trials
    confirmed = trainer.planned(variant(opened, CURRENT, {})).jobs if confirm else {}
    first = trainer.plan({})
    check_inputs([*first.jobs.values(), *confirmed.values()], planner.root)
    if (memory := shared_memory(first, list(first.jobs.values()), several)) is not None:
        memory.check()
    for needed in (asked.runs_dir, asked.tables, chosen_study.parent):
        make_folder(needed)
    check_store(asked.tracking_uri, asked.name)

    identity = opened.identity(planner.fingerprint)
    with open_book(folder, storage, opened.search, identity) as book:
        with book.turn():
            mirror = SearchMirror(asked.tracking_uri, asked.name, identity, console)
        _say(
            f"search {asked.name}: {opened.path} {opened.arm}, {', '.join(opened.search.objective)} on "
            f"{chosen.eval_split}, seeds {', '.join(map(str, opened.search.seeds))}; "
            f"{len(book.counted())} of {trials} trials are finished"
        )
        for name, values in first_values(opened).items():
            book.enqueue(values, name)
        try:
            baseline = trainer.score(trainer.baseline())
            tell = teller(console, book, opened.search.objective, trials, mirror)
            search(book, trainer.evaluate, trials, several.workers, deadline, tell, trainer.together)
            complete = finish(
                opened, trainer, book, baseline, several, confirm, asked.tables, chosen_study, mirror, console
            )
            _say(f"to compare the trials in a browser: {asked.again('report', '--ui')}")
        except (KeyboardInterrupt, Stopped):
            mirror.store.stop()
            _say(
                f"stopped; {folder.parent} contains all finished trials, {asked.runs_dir} all finished steps; "
                "the same command resumes"
            )
            raise typer.Exit(130) from None
        except TrialFailed as error:
            _say(f"search aborted: {error}", style="red")
            raise typer.Exit(1) from None
        if not complete:
            raise typer.Exit(1)


if __name__ == "__main__":
    app()
