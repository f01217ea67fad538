"""Computes the statistics of a study's outcomes: gains with 95 % CI, p values and verdicts, and attribution."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.evidence.attribution import Losses, Part, attribute
from harness.evidence.line import HEADLINE_METRICS, Gain, Key, Mean, Outcome, by_key
from harness.evidence.statistics import Blocks, Effect, Spread, holm
from harness.study.papers import Metric, PublishedGain
from harness.study.spec import StudySpec

ALPHA = 0.05
BETTER, WORSE = "significant (better)", "significant (worse)"
"""Verdicts on a gain that is significant after Holm's correction."""


@dataclass(frozen=True)
class Group:
    """The comparable arms of one student on one split: they have a result for every seed and started alike."""

    model: str
    split: str
    names: dict[Key, str]
    """The name of each line in the blocks. Lines of the same trainings share a name."""
    baselines: dict[Key, str]
    """The name of each line's baseline in the blocks."""
    blocks: dict[Metric, Blocks]
    """Blocks of mAP and of NDS, in points."""

    def contrast(self, key: Key) -> dict[str, float] | None:
        """Contrast of a line and its baseline; None if one is missing or both are the same trainings."""
        name, baseline = self.names.get(key), self.baselines.get(key)
        if name is None or baseline is None or name == baseline or baseline not in self.names.values():
            return None
        return {name: 1.0, baseline: -1.0}

    def gain(self, key: Key, metric: Metric) -> Effect:
        """The gain of a line over its baseline."""
        contrast = self.contrast(key)
        return Effect.unknown() if contrast is None else self.blocks[metric].effect(contrast)

    def detectable(self, metric: Metric) -> float:
        """The minimum detectable effect (MDE) of this study at 80 % power, in pp; NaN if unknown."""
        spreads = [self.gain(key, metric).spread for key in self.baselines if self.contrast(key)]
        if not spreads:
            return math.nan
        # What seeds leave over is pooled as it is; scenes differ from arm to arm.
        scenes = float(np.mean([spread.scenes for spread in spreads]))
        return Spread(spreads[0].seeds, spreads[0].seed_freedom, scenes, spreads[0].scene_freedom).detectable()


def groups(trained: Sequence[Outcome]) -> list[Group]:
    """Return one group for each student and each split on which it is scored."""
    students = [outcome for outcome in trained if outcome.key.role in ("baseline", "control", "student")]
    return [_group(part) for part in by_key(students, lambda outcome: (outcome.key.model, outcome.key.split))]


def _group(trained: Sequence[Outcome]) -> Group:
    names: dict[Key, str] = {}
    baselines: dict[Key, str] = {}
    arms: dict[str, list[Outcome]] = {}
    for seeds in by_key(trained, lambda outcome: outcome.key):
        # What began otherwise is no part of a seed's block: its difference from the others is not the arm's alone.
        if any(outcome.missing or outcome.unpaired or math.isnan(outcome.metrics["NDS"]) for outcome in seeds):
            continue
        key, name = seeds[0].key, "+".join(outcome.job for outcome in seeds)
        names[key] = name
        arms[name] = seeds
        if key.role != "baseline":
            baselines[key] = "+".join(outcome.baseline for outcome in seeds)
    # Arms with other seeds, as a search confirms them, are no rows of one table.
    usual = max(map(len, arms.values()), default=0)
    arms = {name: seeds for name, seeds in arms.items() if len(seeds) == usual}
    names = {key: name for key, name in names.items() if name in arms}
    draws = [outcome.draws for seeds in arms.values() for outcome in seeds]
    drawn = [each for each in draws if each is not None]
    # The same scenes as often, and as many draws of them: else nothing can be subtracted.
    alike = len(drawn) == len(draws) and len({(each.scenes, len(each.values["NDS"])) for each in drawn}) == 1
    scenes = drawn[0].scenes if alike else 0
    blocks = {metric: _blocks(arms, metric, scenes, alike) for metric in HEADLINE_METRICS if arms}
    return Group(trained[0].key.model, trained[0].key.split, names, baselines, blocks)


def _blocks(arms: Mapping[str, Sequence[Outcome]], metric: Metric, scenes: int, has_draws: bool) -> Blocks:
    values = {name: [outcome.metrics[metric] for outcome in seeds] for name, seeds in arms.items()}
    if not has_draws:
        return Blocks(values)
    drawn = {name: [outcome.draws.values[metric] for outcome in seeds if outcome.draws] for name, seeds in arms.items()}
    return Blocks(values, {name: np.stack(rows) for name, rows in drawn.items()}, scenes)


def verdict(effect: Effect, adjusted: float) -> str:
    """Return the verdict on a gain at ALPHA, before and after Holm's correction; empty if its p is unknown."""
    if math.isnan(effect.p):
        return ""
    if adjusted < ALPHA:
        return BETTER if effect.value > 0 else WORSE
    return "significant before correction" if effect.p < ALPHA else "not significant"


def foremost(published: Mapping[str, PublishedGain]) -> tuple[str, PublishedGain | None]:
    """Return the published gain to compare with, and its paper: the first that was read for certain, else the first."""
    return next(
        (item for item in published.items() if item[1].mark == "read"), next(iter(published.items()), ("", None))
    )


def agreement(effect: Effect, published: PublishedGain | None, metric: Metric) -> str:
    """Compare our gain with a published one; empty if that was not read for certain or ours has no interval."""
    if published is None or published.mark != "read" or math.isnan(effect.low):
        return ""
    direction = published.direction(metric)
    if direction is None:
        return ""
    if effect.low <= 0 <= effect.high:
        return "inconclusive"
    if (effect.value > 0) != (direction == "up"):
        return "opposite sign"
    gain = published.points(metric)
    is_inside = gain is not None and effect.low <= gain <= effect.high
    return "same sign, inside our 95 % CI" if is_inside else "same sign"


def gains(compared: Sequence[Group], published: Mapping[Key, PublishedGain]) -> dict[Key, dict[Metric, Gain]]:
    """Return the gains of each line that has a baseline, with statistics; NaN if results are missing or unpaired.

    p values are adjusted for all gains of the table except those on further splits, which are not results.

    Args:
        compared: `groups` of a study.
        published: What a paper reports for a line.
    """
    effects: dict[tuple[Key, Metric], tuple[Effect, float]] = {}
    for group in compared:
        smallest = {metric: group.detectable(metric) for metric in HEADLINE_METRICS}
        effects |= {(key, m): (group.gain(key, m), smallest[m]) for key in group.baselines for m in HEADLINE_METRICS}
    adjusted = holm([math.nan if key.split else effect.p for (key, _), (effect, _) in effects.items()])
    by_line: dict[Key, dict[Metric, Gain]] = {}
    for ((key, metric), (effect, detectable)), p in zip(effects.items(), adjusted, strict=True):
        by_line.setdefault(key, {})[metric] = Gain(
            Mean(effect.value, math.nan),
            effect.scenes,
            *(effect.low, effect.high, effect.p, p, detectable),
            "" if key.split else verdict(effect, p),
            agreement(effect, published.get(key), metric),
        )
    return by_line


def unlike(compared: Sequence[Group]) -> list[str]:
    """Return a warning for each arm whose seeds vary more than those of the student's other arms."""
    lines = []
    for group in compared:
        for metric, blocks in group.blocks.items():
            for name, p in blocks.unlike().items():
                of = next(key for key, called in group.names.items() if called == name)
                what = f"{of.path or group.model} {of.arm}" + (f" on {group.split}" if group.split else "")
                so = "its 95 % CI is too short and those of the others are too long"
                if of.role == "baseline":
                    so = "the 95 % CIs of all gains over it are too short"
                lines.append(
                    f"{what}: its seeds vary more in {metric} than those of other arms (F test, p {p:.1g}), so {so}."
                )
    return lines


@dataclass(frozen=True)
class Ascribed:
    """An effect of losses on one path, in one metric."""

    path: str
    metric: Metric
    part: Part
    holm: float
    """p adjusted for all parts of the study; NaN for a Shapley value."""


def attributions(compared: Sequence[Group], study: StudySpec) -> list[Ascribed]:
    """Return the effects of losses on every path whose arms separate two or more losses, with Holm-adjusted p.

    Shapley values are nearly the same contrasts as main effects. They are not tested, because further tests would only
    reduce the power of the others.
    """
    order = tuple(dict.fromkeys(name for names in study.arms.values() for name in names))
    parts = [
        (path, metric, part)
        for group in compared
        if not group.split and len(order) > 1
        for path, arms in _arms_by_path(group, study).items()
        for metric, blocks in group.blocks.items()
        for part in attribute(arms, order, blocks)
    ]
    adjusted = holm([math.nan if part.kind == "Shapley value" else part.effect.p for _, _, part in parts])
    return [Ascribed(*each, p) for each, p in zip(parts, adjusted, strict=True)]


def _arms_by_path(group: Group, study: StudySpec) -> dict[str, dict[Losses, str]]:
    """Map every set of losses on every path to its name in the blocks; the empty set is the baseline."""
    by_path: dict[str, dict[Losses, str]] = {}
    for key, name in group.names.items():
        if key.role == "student":
            arms = by_path.setdefault(key.path, {})
            arms[frozenset(study.arms[key.arm])] = name
            if group.baselines[key] in group.names.values():
                arms[frozenset()] = group.baselines[key]
    return by_path
