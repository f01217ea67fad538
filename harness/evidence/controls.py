"""Judges the controls of a study: rows with a known answer, by the lines of its table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.evidence.effects import BETTER
from harness.evidence.line import Gain, Line
from harness.study.controls import ControlSpec
from harness.study.spec import StudySpec

Outcome = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True)
class Judged:
    """A control and what came out."""

    name: str
    control: ControlSpec
    outcome: Outcome
    gain: Gain | None
    """Of its row; None where the table has no such row."""
    jobs: tuple[str, ...] = ()
    why: str = ""
    """Why it is undecided, else empty."""


def judge_all(lines: Sequence[Line], study: StudySpec) -> list[Judged]:
    """Judge every control of a study, in its order."""
    rows = {line.name: line for line in lines}
    return [_judge(name, control, rows.get(control.row)) for name, control in study.controls.items()]


def failed(judged: Sequence[Judged]) -> list[str]:
    """The names of the controls that failed."""
    return [each.name for each in judged if each.outcome == "failed"]


def _judge(name: str, control: ControlSpec, line: Line | None) -> Judged:
    if line is None:
        return Judged(name, control, "undecided", None, why="its row was not planned")
    gain = line.gains[control.metric]
    if math.isnan(gain.mean.value) or math.isnan(gain.low) or not gain.verdict:
        why = line.missing or line.unpaired or "too few seeds and scenes"
        return Judged(name, control, "undecided", gain, line.jobs, why)
    outcome = outcome_of(control, gain)
    why = "its interval allows both" if outcome == "undecided" else ""
    return Judged(name, control, outcome, gain, line.jobs, why)


def outcome_of(control: ControlSpec, gain: Gain) -> Outcome:
    """What a gain whose interval and p are known says of a control.

    - gains: passed if the gain is significant after Holm's correction and its mean at least the bound; failed if the
      interval ends below the bound, so that no gain as large is left; else undecided.
    - does not gain: failed if the gain is significant after Holm's correction and above 0; else passed.
    - level: passed if the interval lies within the bounds; failed if it lies outside of them; else undecided.
    """
    mean, bound = gain.mean.value, control.bound
    match control.expect:
        case "gains":
            if gain.verdict == BETTER and mean >= bound:
                return "passed"
            return "failed" if gain.high < max(bound, 0.0) or gain.high <= 0 else "undecided"
        case "does not gain":
            return "failed" if gain.verdict == BETTER else "passed"
        case "level":
            if -bound <= gain.low and gain.high <= bound:
                return "passed"
            return "failed" if gain.low > bound or gain.high < -bound else "undecided"
