"""Summarises the answer of a study in a few sentences, using its table only."""

import math
from collections.abc import Sequence

from harness.evidence.effects import BETTER, WORSE
from harness.evidence.line import HEADLINE_METRICS, Line
from harness.report.tables import SYNTHETIC, interval_text
from harness.study.spec import StudySpec

NAMED = 3
"""Largest number of rows that a sentence names."""


def headlines(lines: Sequence[Line], study: StudySpec) -> list[str]:
    """Return the answer and its limits: missing rows, the minimum detectable effect, published gains."""
    missing = sum(line.missing != "" for line in lines)
    sentences = [f"{missing} of {len(lines)} rows have no result yet."] if missing else []
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
    """Which distilled rows gain NDS, in one sentence; empty while no row has a gain."""
    rows = [line for line in lines if line.key.role == "student" and not line.key.split]
    known = [line for line in rows if not math.isnan(line.gains["NDS"].mean.value)]
    if not known:
        return ""
    better, worse = ([line for line in rows if line.gains["NDS"].verdict == side] for side in (BETTER, WORSE))
    if not any(line.gains["NDS"].verdict for line in rows):
        text = f"Too few seeds and scenes to test whether any of {len(rows)} distilled rows gains NDS"
    elif better:
        verb = "gains" if len(better) == 1 else "gain"
        text = f"{len(better)} of {len(rows)} distilled rows {verb} NDS significantly (Holm, 95 %): {_named(better)}"
    else:
        text = f"None of {len(rows)} distilled rows gains NDS significantly (Holm, 95 %)"
    if worse:
        text += f"; {len(worse)} {'loses' if len(worse) == 1 else 'lose'}: {_named(worse)}"
    best = max(known, key=lambda line: line.gains["NDS"].mean.value)
    gain = best.gains["NDS"]
    size = f"{gain.mean.value:+.1f} pp {interval_text(gain.low, gain.high)}".rstrip()
    text += f"; largest gain: {best.name} {size}; {len(study.seeds)} seed{'s' * (len(study.seeds) > 1)}"
    covers = len(study.seeds) == 1 and not math.isnan(gain.low)
    return f"{text}{', so intervals cover the choice of validation scenes only' if covers else ''}."


def _named(lines: Sequence[Line]) -> str:
    more = f" and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
    return ", ".join(line.name for line in lines[:NAMED]) + more
