"""python -m harness.runs list | show ID | prune: list stored runs and their claims, and delete unclaimed runs."""

import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from harness import flags
from harness.console import age_text, print_table, say, size_text
from harness.errors import InputError, unknown
from harness.program import Program
from harness.runs.claims import Claim, Claims
from harness.runs.folder import Result, find_run
from harness.runs.listing import STATES, StoredRun, stored_runs, unneeded, wanted_by
from harness.runs.prune import propose, prune

console = Console()
_print = partial(say, console)
app = Program(no_args_is_help=True)

DAY_SECONDS = 86400.0
SHORTEST_START = 4
"""Fewest digits of an id; a shorter text is hardly meant as one."""


@app.callback()
def main() -> None:
    """List, show and delete stored runs. A call of harness.run or harness.search claims the runs of its study."""


@app.command("list")
def list_(
    runs_dir: flags.RunsDir = flags.RUNS,
    study: Annotated[list[str] | None, typer.Option(help="Only runs that this study claims. Repeatable.")] = None,
    state: Annotated[
        list[str] | None, typer.Option(help=f"Only runs in this state: {', '.join(STATES)}. Repeatable.")
    ] = None,
) -> None:
    """List runs by the studies that claim them, and runs that no study claims.

    A run that several studies claim is listed once, under all their names. The age is that of its newest file.
    """
    stored, claims = stored_runs(runs_dir), Claims(runs_dir).read()
    _check("study", study, claims)
    _check("state", state, STATES)
    groups: dict[tuple[str, ...], list[StoredRun]] = {}
    for id_, names in wanted_by(stored, claims).items():
        if (not study or set(study) & set(names)) and (not state or stored[id_].state in state):
            groups.setdefault(names, []).append(stored[id_])
    # Runs without a claim come last.
    for names, runs in sorted(groups.items(), key=lambda group: (not group[0], group[0])):
        _print(f"{', '.join(names) or 'claimed by no study'}: {_sum(runs)}")
        _print_runs(runs)
    shown = [run for runs in groups.values() for run in runs]
    count = Counter(run.state for run in shown)
    by_state = ", ".join(f"{count[each]} {each}" for each in STATES if count[each])
    free = unneeded(stored, claims.values())
    _print(f"{_sum(shown)}{f' ({by_state})' if shown else ''}; prune would free {_sum(free)}")


@app.command()
def show(
    run: Annotated[str, typer.Argument(metavar="ID", help="A run's id, or its first four or more digits.")],
    runs_dir: flags.RunsDir = flags.RUNS,
) -> None:
    """Show everything that is known about a run."""
    import yaml

    if len(run) < SHORTEST_START:
        raise InputError(f"id {run!r} is too short; give at least {SHORTEST_START} digits")
    stored, claims = stored_runs(runs_dir), Claims(runs_dir).read()
    shown = stored[find_run(runs_dir, run).path.name]
    _print(f"{shown.id}  {shown.label}")
    by = wanted_by(stored, claims)[shown.id]
    facts = {
        "state": [f"{shown.state}, {age_text(time.time() - shown.newest)} old, {size_text(shown.size)}"],
        "claimed by": [_claim_text(name, claims[name]) for name in by] or ["no study"],
        "needs": [_named(id_, stored) for id_ in shown.needs],
        "needed by": [_named(id_, stored) for id_, other in stored.items() if shown.id in other.needs],
        "failure": shown.failure.splitlines(),
        **(_facts(shown.result) if shown.result else {}),
        "spec": yaml.safe_dump(dict(shown.spec), sort_keys=False).splitlines() if shown.spec else [],
        "files": [f"{size_text(size):>7}  {name}" for name, size in shown.sizes.items()],
    }
    for name, lines in facts.items():
        for number, line in enumerate(lines):
            _print(f"{'' if number else name:<11}{line}")


@app.command("prune")
def prune_(
    runs_dir: flags.RunsDir = flags.RUNS,
    study: Annotated[list[str] | None, typer.Option(help="Also drop the claims of this study. Repeatable.")] = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Keep runs that were written in the last DAYS days.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be deleted; delete nothing.")] = False,
) -> None:
    """Delete runs that no study claims and no claimed run needs. List them and ask first.

    Runs in progress stay. Runs of a version without claims count as unclaimed: call harness.run with their study first,
    which claims them and trains nothing again.
    """
    if older_than is not None and not older_than >= 0:
        raise InputError(f"--older-than {older_than:g} is not a number of days; allowed: 0 or more")
    before = float("inf") if older_than is None else time.time() - older_than * DAY_SECONDS
    stored, claims = stored_runs(runs_dir), Claims(runs_dir).read()
    _check("study", study, claims)
    proposed = propose(stored, claims, study or [], before)
    if proposed.delete:
        _print_runs(proposed.delete)
    forget = "".join(f"drop the claim of {claim.name}, " for claim in proposed.forget)
    question = f"{forget}delete {_sum(proposed.delete)}"
    if dry_run:
        _print(f"would {question}")
        return
    if proposed.forget or proposed.delete:
        _ask(f"{question[0].upper()}{question[1:]}?", yes)
    try:
        deleted = prune(runs_dir, proposed)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be deleted: {error.strerror}") from error
    stayed = len(proposed.delete) - len(deleted)
    _print(f"deleted {_sum(deleted)}{f'; {stayed} stay: they are running or claimed now' if stayed else ''}")


def _check(flag: str, names: Iterable[str] | None, allowed: Collection[str]) -> None:
    for name in names or []:
        if name not in allowed:
            raise InputError(f"--{flag}: {unknown(flag, name, allowed)}")


def _ask(question: str, yes: bool) -> None:
    """Ask for consent, unless --yes gave it; end the command without it."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{question} There is no terminal to confirm this; pass --yes")
    if not typer.confirm(question):
        _print("nothing was deleted")
        raise typer.Exit(0)


def _print_runs(runs: Iterable[StoredRun]) -> None:
    now = time.time()
    rows = [
        [
            run.id,
            run.label,
            run.state,
            age_text(now - run.newest),
            size_text(run.size),
            *(_points(run.result, metric) for metric in ("mAP", "NDS")),
        ]
        for run in sorted(runs, key=lambda run: (run.label, run.id))
    ]
    print_table(console, ["id", "what", "state", "age", "size", "mAP", "NDS"], rows, names=3)


def _points(result: Result | None, metric: str) -> str:
    return f"{100 * result.metrics[metric]:.1f}" if result and metric in result.metrics else ""


def _facts(result: Result) -> dict[str, list[str]]:
    cpu = "" if result.cpu_seconds is None else f", {timedelta(seconds=round(result.cpu_seconds))} of processor time"
    return {
        "metrics": [f"{name} {value:.4g}" for name, value in result.metrics.items()],
        "parameters": [f"{result.parameters:,}"],
        "took": [f"{timedelta(seconds=round(result.seconds))}{cpu}"],
        "machine": [f"{name} {value}" for name, value in result.machine.items()],
        "warnings": [f"loss {name!r}: {text}" for name, text in result.warnings.items()],
    }


def _claim_text(name: str, claim: Claim) -> str:
    return f"{name} ({claim.study}, called {age_text(time.time() - claim.called.timestamp())} ago)"


def _named(id_: str, stored: Mapping[str, StoredRun]) -> str:
    return f"{id_}  {stored[id_].label if id_ in stored else 'is not stored'}"


def _sum(runs: Sequence[StoredRun]) -> str:
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}, {size_text(sum(run.size for run in runs))}"


if __name__ == "__main__":
    app()
