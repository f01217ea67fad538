"""Controls in a report: their table, the mark that a failed one leaves on the others, and a sentence."""

import math
from collections.abc import Sequence
from dataclasses import replace

from harness.evidence.controls import Judged, failed
from harness.evidence.effects import ALPHA
from harness.evidence.line import Gain, Mean
from harness.report.render import Cell, Table
from harness.report.tables import interval_text, mean_text, number_cell, p_text


def controls_table(judged: Sequence[Judged]) -> Table | None:
    """Build the table of known answers; None of a study that has none."""
    if not judged:
        return None
    header = ("control", "row", "expected", "metric", "gain", "95 % CI", "p (Holm)", "outcome")
    rows: list[list[Cell]] = []
    for each in judged:
        gain, control = each.gain or Gain(Mean(math.nan, math.nan)), each.control
        rows.append(
            [
                Cell(each.name),
                Cell(control.row, jobs=each.jobs),
                Cell(control.expectation),
                Cell(control.metric),
                number_cell(mean_text(gain.mean, "{:+.1f}"), gain.mean.value),
                number_cell(interval_text(gain.low, gain.high), gain.mean.value),
                number_cell(p_text(gain.holm), gain.holm),
                Cell(each.outcome + (f": {each.why}" if each.why else ""), short=each.outcome),
            ]
        )
    notes = [
        "Controls are rows whose outcome is known before; gains in pp. gains: p (Holm) < "
        f"{ALPHA} and a mean of at least the bound. does not gain: not significantly above 0, which an imprecise study "
        "passes, too. level: the 95 % CI lies within the bounds. undecided: the interval allows both, or there is none."
    ]
    if names := failed(judged):
        text = _failed_text(names)
        notes.append(f"{text[0].upper()}{text[1:]}. Until it is known why, do not rely on other numbers of this study.")
    return Table.of("controls", "Controls" + _mark(judged), header, rows, notes)


def _mark(judged: Sequence[Judged]) -> str:
    """What the title of a table says of failed controls; empty if there are none."""
    names = failed(judged)
    return f" ({_failed_text(names)})" if names else ""


def _failed_text(names: Sequence[str]) -> str:
    return f"failed control{'s' * (len(names) > 1)}: {', '.join(names)}"


def marked(table: Table, judged: Sequence[Judged]) -> Table:
    """The table, with failed controls in its title."""
    return replace(table, title=table.title + _mark(judged))


def known_answers(judged: Sequence[Judged]) -> str:
    """What came out of the controls, in one sentence; empty if there are none."""
    named = {
        outcome: [each for each in judged if each.outcome == outcome] for outcome in ("passed", "failed", "undecided")
    }
    if not judged:
        return ""
    clauses = [f"{len(named['passed'])} of {len(judged)} passed"]
    for outcome in ("failed", "undecided"):
        if named[outcome]:
            clauses.append(f"{outcome}: {', '.join(map(_with_gain, named[outcome]))}")
    warning = " A failed control means that the other rows cannot be relied on." if named["failed"] else ""
    return f"Controls: {'; '.join(clauses)}.{warning}"


def _with_gain(judged: Judged) -> str:
    """A control's name, with its gain where that is known."""
    if judged.gain is None or math.isnan(judged.gain.mean.value):
        return judged.name
    interval = interval_text(judged.gain.low, judged.gain.high)
    return f"{judged.name} ({judged.gain.mean.value:+.1f} pp{f' {interval}' if interval else ''})"
