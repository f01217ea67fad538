"""Summarises the answer of a study in a few sentences, using its table only."""

import math
from collections.abc import Sequence

from harness.evidence.controls import judge_all
from harness.evidence.effects import BETTER, WORSE
from harness.evidence.line import HEADLINE_METRICS, Line
from harness.report.controls import known_answers
from harness.report.tables import SYNTHETIC, interval_text
from harness.study.spec import StudySpec

NAMED = 4
"""Largest number of rows that a sentence names; of more rows, it names all but the last ones."""


def headlines(lines: Sequence[Line], study: StudySpec) -> list[str]:
    """Return the answer and its limits: controls, missing rows, the minimum detectable effect, published gains."""
    known = known_answers(judge_all(lines, study))
    missing = sum(line.missing != "" for line in lines)
    have = "has" if missing == 1 else "have"
    sentences = [known] if known else []
    sentences += [f"{missing} of {len(lines)} rows {have} no result yet."] if missing else []
    sentences += filter(None, [answer(lines, study)])
    gains = [line for line in lines if not line.key.split and not math.isnan(line.gains["NDS"].detectable)]
    if gains and len(study.seeds) > 1:
        # One for all arms of a student.
        smallest = {line.key.model: f"{line.key.model} {line.gains['NDS'].detectable:.1f} pp" for line in gains}
        sentences.append(f"Minimum detectable effect in NDS (80 % power): {', '.join(smallest.values())}.")
    judged = [line.gains[metric].agreement for line in lines for metric in HEADLINE_METRICS]
    if counts := {kind: judged.count(kind) for kind in dict.fromkeys(judged) if kind}:
        agreements = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        sentences.append(f"Compared with published gains that were read for certain: {agreements}.")
    if study.data.root is None:
        sentences.append(SYNTHETIC)
    return sentences


def answer(lines: Sequence[Line], study: StudySpec) -> str:
    """Which distilled rows gain NDS and what the controls do, in one sentence; empty while no row has a gain."""
    known = [line for line in lines if not line.key.split and not math.isnan(line.gains["NDS"].mean.value)]
    rows = [line for line in lines if line.key.role == "student" and not line.key.split and not is_control(line, study)]
    distilled = [line for line in rows if not math.isnan(line.gains["NDS"].mean.value)]
    clauses = _counts(rows) if distilled else []
    clauses += _controls([line for line in known if is_control(line, study)])
    if distilled:
        # Beside rows that gain significantly, one that does not is no answer.
        clauses.append(_largest(_judged(distilled, BETTER) or distilled))
    if not clauses:
        return ""
    covers = len(study.seeds) == 1 and not any(math.isnan(line.gains["NDS"].low) for line in known)
    seeds = f"{len(study.seeds)} seed{'s' * (len(study.seeds) > 1)}"
    text = "; ".join([*clauses, seeds]) + (
        ", so intervals cover the choice of validation scenes only" if covers else ""
    )
    return f"{text[0].upper()}{text[1:]}."


def is_control(line: Line, study: StudySpec) -> bool:
    """Whether a row is compared with its baseline and learns from no trained teacher."""
    if line.key.role != "student":
        return line.key.role == "control"
    ends = study.ends(line.key.path)
    return ends.image_teacher is None and ends.teacher is not None and study.teachers[ends.teacher].is_control


def _counts(rows: Sequence[Line]) -> list[str]:
    """How many of the distilled rows gain or lose significantly, and which."""
    better, worse = (_judged(rows, side) for side in (BETTER, WORSE))
    count = "the 1 distilled row" if len(rows) == 1 else f"of {len(rows)} distilled rows"
    if not any(line.gains["NDS"].verdict for line in rows):
        any_of = count if len(rows) == 1 else f"any {count}"
        return [f"too few seeds and scenes to test whether {any_of} gains NDS"]
    one = "" if len(rows) == 1 else f"{len(better) or 'none'} "
    if better:
        verb = "gains" if len(better) == 1 else "gain"
        clauses = [f"{one}{count} {verb} NDS significantly (Holm, 95 %): {_named(better)}"]
    else:
        verb = "does not gain" if len(rows) == 1 else "gains"
        clauses = [f"{one}{count} {verb} NDS significantly (Holm, 95 %)"]
    if worse:
        clauses.append(f"{len(worse)} {'loses' if len(worse) == 1 else 'lose'}: {_named(worse)}")
    return clauses


def _controls(lines: Sequence[Line]) -> list[str]:
    """What the controls gain or lose significantly."""
    gains = {line.name: line.gains["NDS"].mean.value for line in lines}
    texts = [f"{line.name} gains {gains[line.name]:+.1f} pp" for line in _judged(lines, BETTER)]
    texts += [f"{line.name} loses {-gains[line.name]:.1f} pp" for line in _judged(lines, WORSE)]
    if not texts:
        return []
    return [f"control{'s' * (len(texts) > 1)}: {few_of(texts)}"]


def _largest(known: Sequence[Line]) -> str:
    """The row with the largest gain, or all rows that show the same number."""
    shown = {line.key: f"{line.gains['NDS'].mean.value:+.1f} pp" for line in known}
    best = max(known, key=lambda line: line.gains["NDS"].mean.value)
    level = [line for line in known if shown[line.key] == shown[best.key]]
    if len(level) > NAMED:
        return f"largest gain in NDS: {shown[best.key]}, of {len(level)} rows"
    gains = [line.gains["NDS"] for line in level]
    intervals = [interval_text(gain.low, gain.high) for gain in gains]
    texts = [f"{line.name} {shown[line.key]} {at}".rstrip() for line, at in zip(level, intervals, strict=True)]
    return f"largest gain{'s' * (len(level) > 1)} in NDS: {', '.join(texts)}"


def _judged(lines: Sequence[Line], side: str) -> list[Line]:
    return [line for line in lines if line.gains["NDS"].verdict == side]


def _named(lines: Sequence[Line]) -> str:
    return few_of([line.name for line in lines])


def few_of(texts: Sequence[str]) -> str:
    """Texts with commas; of more than NAMED, the first ones and the number of the others, which is never 1."""
    if len(texts) <= NAMED:
        return ", ".join(texts)
    return f"{', '.join(texts[: NAMED - 1])} and {len(texts) - NAMED + 1} more"
