"""Reports a search: one line per trial, and at the end the best values with their confirmation and figures."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from harness.console import say
from harness.evidence.line import Line
from harness.evidence.results import outcomes, summary
from harness.evidence.runs import StudyRuns
from harness.execute.executor import execute
from harness.execute.progress import progress
from harness.execute.site import Site
from harness.report.render import Table, markdown_table, show
from harness.report.tables import gain_text, interval_notes, mean_text
from harness.runs.folder import atomic_write
from harness.search.confirmation import (
    CURRENT,
    FOUND,
    PAPER,
    current_values,
    joined,
    own_arm,
    paper_values,
    variant,
    write_found,
)
from harness.search.figures import draw
from harness.search.objective import Trainer
from harness.search.opened_search import OpenedSearch
from harness.search.trials import NAME, REASON, TrialBook
from harness.study.search_spec import Value
from harness.tracking.search import EndedTrial, SearchMirror


def teller(
    console: Console, book: TrialBook, objective: Sequence[str], trials: int, mirror: SearchMirror
) -> Callable[[FrozenTrial], None]:
    """Return what prints one line per ended trial and mirrors the trial to MLflow."""
    began, before = time.monotonic(), len(book.counted())

    def tell(ended: FrozenTrial) -> None:
        counted = len(book.counted())
        left = (trials - counted) * (time.monotonic() - began) / max(1, counted - before)
        how = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(ended.state, "failed")
        given = ended.values if ended.state == TrialState.COMPLETE else ()
        values = " ".join(f" {name} {value:.2f}" for name, value in zip(objective, given, strict=False))
        fields = ", ".join(f"{key} {shown(value)}" for key, value in ended.params.items())
        reason = f" ({ended.user_attrs[REASON]})" if REASON in ended.user_attrs else ""
        say(
            console,
            f"trial {ended.number} {how}{values}{reason}: {fields}; {counted} of {trials}, about "
            f"{timedelta(seconds=round(max(0.0, left)))} left",
        )
        follow(mirror, book, objective)

    return tell


def follow(mirror: SearchMirror, book: TrialBook, objective: Sequence[str]) -> None:
    """Mirror the finished trials of all processes."""
    with book.turn():
        mirror.follow([_ended(trial, objective) for trial in book.study.trials if trial.state.is_finished()])


def _ended(trial: FrozenTrial, objective: Sequence[str]) -> EndedTrial:
    began, ended = (int(1000 * at.timestamp()) if at else 0 for at in (trial.datetime_start, trial.datetime_complete))
    complete = trial.state == TrialState.COMPLETE
    return EndedTrial(
        trial.number,
        trial.state.name,  # type: ignore[arg-type]
        trial.user_attrs.get(NAME, ""),
        trial.params,
        {metric: value / 100 for metric, value in zip(objective, trial.values, strict=True)} if complete else {},
        {epoch: -value for epoch, value in trial.intermediate_values.items()},
        trial.user_attrs.get(REASON, ""),
        began,
        ended,
    )


def finish(
    opened: OpenedSearch,
    trainer: Trainer,
    book: TrialBook,
    baseline: tuple[float, ...],
    site: Site,
    confirm: bool,
    out: Path,
    chosen_study: Path,
    mirror: SearchMirror,
    console: Console,
) -> bool:
    """Confirm the best values and write the report of the search. Return whether all needed results exist.

    Args:
        opened: The search.
        trainer: What trains its trials.
        book: The book of its trials.
        baseline: The objectives of the student without a teacher, as trials are scored.
        site: Where the confirmation is trained.
        confirm: Whether it is.
        out: Folder of tables and figures.
        chosen_study: The file to write, of the study with the best values.
        mirror: The mirror of the search in MLflow.
        console: For the table.
    """
    follow(mirror, book, opened.search.objective)
    while (chosen := _chosen(book)) is not None:
        lines = _confirmed(opened, trainer, chosen.params, site, console) if confirm else None
        with book.turn():
            # Another process may have found better values meanwhile; what is written last has to be the whole.
            if chosen == _chosen(book):
                _write(opened, book, chosen, baseline, lines, out, chosen_study, mirror, console)
                return lines is None or not any(line.missing for line in lines)
    console.print("no trial is complete yet, so there is nothing to report")
    return True


def _chosen(book: TrialBook) -> FrozenTrial | None:
    """Return the best trial; with two objectives, the Pareto-optimal trial that is best in the first."""
    return max(book.best(), key=lambda trial: trial.values[0], default=None)


def _write(
    opened: OpenedSearch,
    book: TrialBook,
    chosen: FrozenTrial,
    baseline: tuple[float, ...],
    lines: Sequence[Line] | None,
    out: Path,
    chosen_study: Path,
    mirror: SearchMirror,
    console: Console,
) -> None:
    parts = [f"# Search {opened.file.stem}", "", *_introduction(opened, book, chosen, baseline), ""]
    parts += [markdown_table(trials_table(opened, book, chosen)), ""]
    importances = book.importances()
    if importances:
        rows = [[key, f"{value:.2f}"] for key, value in importances.items()]
        table = Table.of("importance", f"Importance ({opened.search.importance}):", ["field", "importance"], rows)
        parts += [table.title, "", markdown_table(table), ""]
    if lines is not None:
        table = confirmation_table(opened, lines, book, chosen, baseline)
        show(table, console)
        parts += [table.title, "", markdown_table(table), "", *table.notes, ""]
    pictures = draw(book.study, opened.search.objective, importances, out)
    parts += [f"![{name}]({name}.png)" for name in pictures]
    text = "\n".join(parts) + "\n"
    atomic_write(out / "search.md", text.encode())
    write_found(opened, chosen.params, chosen_study, _headline(opened, chosen))
    mirror.finish(out, text)
    say(console, f"search: {out}/search.md; the study with the best values: {chosen_study}")


def trials_table(opened: OpenedSearch, book: TrialBook, chosen: FrozenTrial) -> Table:
    """Build the table of finished trials: the best first, pruned and failed ones last."""
    fields = list(opened.search.space)
    trials = book.study.get_trials(deepcopy=False)
    ended = [trial for trial in trials if trial.state.is_finished()]
    ended.sort(key=lambda trial: (trial.state != TrialState.COMPLETE, -(trial.values or [0.0])[0], trial.number))
    rows = []
    for trial in ended:
        complete = trial.state == TrialState.COMPLETE
        values = [f"{value:.2f}" for value in trial.values] if complete else [""] * len(opened.search.objective)
        named = (trial.user_attrs.get(NAME, ""), trial.user_attrs.get(REASON, ""), "" if complete else trial.state.name)
        what = [FOUND] * (trial.number == chosen.number) + [name.lower() for name in named if name]
        rows.append([str(trial.number), *values, *(shown(trial.params.get(key)) for key in fields), ", ".join(what)])
    return Table.of("trials", "Trials", ["trial", *opened.search.objective, *fields, "what"], rows)


def shown(value: Value) -> str:
    """Format a value for reading."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_OPTIMISM = (
    "Optimism: the value in the search minus the confirmed value. For gains, both are relative to the baseline with "
    "the same scenes and seeds. Optimism is usually positive, because the best of many trials is partly luck."
)


def confirmation_table(
    opened: OpenedSearch, lines: Sequence[Line], book: TrialBook, chosen: FrozenTrial, baseline: tuple[float, ...]
) -> Table:
    """Build the table of confirmed values and baseline, with their values in the search and the optimism."""
    metrics = opened.search.objective
    kinds = ("{}", "gain {}", "search {}", "optimism {}", "optimism of gain {}")
    header = ["row", "seeds", *(kind.format(metric) for kind in kinds for metric in metrics)]
    searched = {"baseline": baseline, FOUND: tuple(chosen.values)}
    for name, values in ((CURRENT, current_values(opened)), (PAPER, paper_values(opened))):
        if (trial := _trial_of(book, values)) is not None:
            searched[name] = tuple(trial.values)
    arms = {line.key.arm for line in lines}
    rows = []
    for line in lines:
        if line.key.role not in ("baseline", "student"):
            continue
        name, none = line.key.arm, [""] * len(metrics)
        if line.missing:
            rows.append([name, str(line.seeds), line.missing, *[""] * (len(header) - 3)])
            continue
        by_search, optimism, of_gain = none, none, none
        if name in searched:
            given = list(zip(metrics, searched[name], baseline, strict=True))
            by_search = [f"{value:.1f}" for _, value, _ in given]
            optimism = [f"{value - line.metrics[metric].value:+.1f}" for metric, value, _ in given]
            # The search had one baseline for all; a variant with one of its own cannot be held against it.
            if line.key.role == "student" and own_arm("baseline", name) not in arms:
                of_gain = [f"{value - plain - line.gains[m].mean.value:+.1f}" for m, value, plain in given]
        means = [mean_text(line.metrics[metric], "{:.1f}") for metric in metrics]
        gains = [gain_text(line.gains[metric]) for metric in metrics]
        rows.append([name, str(line.seeds), *means, *gains, *by_search, *optimism, *of_gain])
    title = "Confirmation with the full schedule and fresh seeds, on the reported split:"
    return Table.of("confirmation", title, header, rows, [*interval_notes(lines), _OPTIMISM])


def _trial_of(book: TrialBook, values: Mapping[str, Value]) -> FrozenTrial | None:
    complete = book.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return next((trial for trial in complete if values and trial.params == dict(values)), None)


def _confirmed(
    opened: OpenedSearch, trainer: Trainer, values: Mapping[str, Value], site: Site, console: Console
) -> list[Line]:
    """Train and score the best, the study's own and the published values; return the rows of all."""
    variants: dict[str, Mapping[str, Value]] = {FOUND: values, CURRENT: {}}
    if paper := paper_values(opened):
        variants[PAPER] = paper
    plan = joined({name: trainer.planned(variant(opened, name, each)) for name, each in variants.items()})
    trainer.claim(plan)
    with progress(console, site.workers) as display:
        display(execute(plan, site, display))
    return summary(outcomes(StudyRuns.open(plan, site.runs)))


def _introduction(opened: OpenedSearch, book: TrialBook, chosen: FrozenTrial, baseline: Sequence[float]) -> list[str]:
    search, counted = opened.search, book.counted()
    complete = sum(trial.state == TrialState.COMPLETE for trial in counted)
    metrics = search.objective
    values = ", ".join(f"{metric} {value:.2f}" for metric, value in zip(metrics, chosen.values, strict=True))
    plain = ", ".join(f"{metric} {value:.2f}" for metric, value in zip(metrics, baseline, strict=True))
    return [
        f"{opened.path}, {opened.arm}: {', '.join(metrics)} on {search.eval_split}, seeds "
        f"{', '.join(map(str, search.seeds))}, {search.share:.0%} of the schedule; sampler {search.sampler}, pruner "
        f"{search.pruner}; {complete} trials complete, {len(counted) - complete} pruned.",
        "",
        f"Best: trial {chosen.number}, {values}; baseline {plain}.",
    ]


def _headline(opened: OpenedSearch, chosen: FrozenTrial) -> list[str]:
    question = opened.file.read_text().splitlines()[0].lstrip("# ")
    values = ", ".join(f"{key} {shown(value)}" for key, value in chosen.params.items())
    return [question, f"Found by harness.search ({opened.file.name}, trial {chosen.number}): {values}."]
