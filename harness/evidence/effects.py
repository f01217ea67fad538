"""From the rows of a study to what is sure about them: gains with intervals, p values and verdicts, and attribution."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.evidence.attribution import Losses, Part, attribute
from harness.evidence.line import HEADLINE_METRICS, Gain, Key, Mean
from harness.evidence.statistics import Blocks, Effect, Spread, holm
from harness.study.papers import Metric, PublishedGain
from harness.study.spec import StudySpec

KEYS = Key._fields
"""Columns by which rows belong to a line."""
ALPHA = 0.05


@dataclass(frozen=True)
class Group:
    """The arms of one student on one split that have a result for every seed, and began alike: what can be compared."""

    model: str
    split: str
    names: dict[Key, str]
    """What a line of the table is called in the blocks: by its trainings, as two lines may be of the same ones."""
    baselines: dict[Key, str]
    """Likewise of each line's baseline; of a line that began as its baseline did."""
    blocks: dict[Metric, Blocks]
    """Of mAP and NDS, in points."""

    def contrast(self, key: Key) -> dict[str, float] | None:
        """A line less its baseline; None where the two are not there, or are the same trainings."""
        own, baseline = self.names.get(key), self.baselines.get(key)
        if own is None or baseline is None or own == baseline or baseline not in self.names.values():
            return None
        return {own: 1.0, baseline: -1.0}

    def gain(self, key: Key, metric: Metric) -> Effect:
        """Of a line over its baseline."""
        contrast = self.contrast(key)
        return Effect.unknown() if contrast is None else self.blocks[metric].effect(contrast)

    def detectable(self, metric: Metric) -> float:
        """The smallest gain that this study could have seen, in points; NaN where nothing is known."""
        spreads = [self.gain(key, metric).spread for key in self.baselines if self.contrast(key)]
        if not spreads:
            return math.nan
        # What seeds leave over is pooled as it is; scenes differ from arm to arm.
        scenes = float(np.mean([spread.scenes for spread in spreads]))
        return Spread(spreads[0].seeds, spreads[0].seed_freedom, scenes, spreads[0].scene_freedom).detectable()


def groups(frame: pd.DataFrame) -> list[Group]:
    """The students of `results_frame`, each on each split on which it is scored."""
    students = frame[frame["role"].isin(["baseline", "control", "student"])]
    parts = students.groupby(["model", "split"], sort=False)
    return [_group(str(model), str(split), rows) for (model, split), rows in parts]


def _group(model: str, split: str, rows: pd.DataFrame) -> Group:
    names: dict[Key, str] = {}
    baselines: dict[Key, str] = {}
    found: dict[str, list[dict[Hashable, Any]]] = {}
    for values_of_keys, line in rows.groupby(list(KEYS), sort=False):
        key, trainings = Key(*map(str, values_of_keys)), line.to_dict("records")
        if any(training["missing"] or math.isnan(training["NDS"]) for training in trainings):
            continue
        # What began otherwise is no part of a seed's block: its difference from the others is not the arm's alone.
        if any(training["unpaired"] for training in trainings):
            continue
        name = "+".join(training["job"] for training in trainings)
        names[key] = name
        found[name] = trainings
        if not any(training["role"] == "baseline" for training in trainings):
            baselines[key] = "+".join(str(training["baseline"]) for training in trainings)
    # Arms with other seeds, as a search confirms them, are no rows of one table.
    usual = max((len(trainings) for trainings in found.values()), default=0)
    found = {name: trainings for name, trainings in found.items() if len(trainings) == usual}
    names = {key: name for key, name in names.items() if name in found}
    known = [training["draws"] for trainings in found.values() for training in trainings]
    # The same scenes as often, and as many draws of them: else nothing can be subtracted.
    kinds = {pair and (pair[1], len(pair[0]["NDS"])) for pair in known}
    whole = len(kinds) == 1 and None not in kinds
    blocks: dict[Metric, Blocks] = {}
    for metric in HEADLINE_METRICS if found else ():
        values = {name: [training[metric] for training in trainings] for name, trainings in found.items()}
        draws = None
        if whole:
            draws = {
                name: np.stack([training["draws"][0][metric] for training in trainings])
                for name, trainings in found.items()
            }
        blocks[metric] = Blocks(values, draws, known[0][1] if whole else 0)
    return Group(model, split, names, baselines, blocks)


def verdict(effect: Effect, adjusted: float) -> str:
    """What may be said of a gain; empty where nothing is known of its error.

    It is higher or lower if that holds after all gains of the table were looked at; what is below 5 % by itself, and
    not then, may be one of the twenty. Of one seed all of it is about two models, and never about a loss.
    """
    if math.isnan(effect.p):
        return ""
    side = "higher" if effect.value > 0 else "lower"
    alone = f"{side}, looked at alone" if effect.p < ALPHA else "not told apart"
    said = side if adjusted < ALPHA else alone
    return said if effect.seeds > 1 else f"{said}, these two models"


def foremost(published: Mapping[str, PublishedGain]) -> tuple[str, PublishedGain | None]:
    """Of what papers report for a line, by their names: the first that was read for certain, else the first."""
    return next(
        (item for item in published.items() if item[1].mark == "read"), next(iter(published.items()), ("", None))
    )


def agreement(effect: Effect, published: PublishedGain | None, metric: Metric) -> str:
    """What ours says of a published gain; nothing where that is not read for certain, or ours has no interval."""
    if published is None or published.mark != "read" or math.isnan(effect.low):
        return ""
    direction = published.direction(metric)
    if direction is None:
        return ""
    if effect.low <= 0 <= effect.high:
        return "no evidence"
    if (effect.value > 0) != (direction == "up"):
        return "opposite"
    gain = published.points(metric)
    if gain is None:
        return "same direction"
    return "same sign, its gain inside our interval" if effect.low <= gain <= effect.high else "same sign"


def gains(frame: pd.DataFrame, published: Mapping[Key, PublishedGain]) -> dict[Key, dict[Metric, Gain]]:
    """What is sure about the gains of each line that has a baseline, NaN where results are missing or unpaired.

    p values are adjusted for all gains of the table but those on further splits, which are no result.

    Args:
        frame: `results_frame`.
        published: What a paper reports for a line.
    """
    effects: dict[tuple[Key, Metric], tuple[Effect, float]] = {}
    for group in groups(frame):
        smallest = {metric: group.detectable(metric) for metric in HEADLINE_METRICS}
        effects |= {(key, m): (group.gain(key, m), smallest[m]) for key in group.baselines for m in HEADLINE_METRICS}
    adjusted = holm([math.nan if key.split else effect.p for (key, _), (effect, _) in effects.items()])
    found: dict[Key, dict[Metric, Gain]] = {}
    for ((key, metric), (effect, detectable)), p in zip(effects.items(), adjusted, strict=True):
        found.setdefault(key, {})[metric] = Gain(
            Mean(effect.value, math.nan),
            effect.scenes,
            *(effect.low, effect.high, effect.p, p, detectable),
            "" if key.split else verdict(effect, p),
            agreement(effect, published.get(key), metric),
        )
    return found


def unlike(frame: pd.DataFrame) -> list[str]:
    """A line for each arm whose seeds spread more than the others of its student: which intervals are too short."""
    lines = []
    for group in groups(frame):
        for metric, blocks in group.blocks.items():
            for name, p in blocks.unlike().items():
                of = next(key for key, own in group.names.items() if own == name)
                what = f"{of.path or group.model} {of.arm}" + (f" on {group.split}" if group.split else "")
                so = "its interval is too short, the others' too long"
                if of.role == "baseline":
                    so = "the intervals of all gains over it are too short"
                lines.append(
                    f"{what}: its seeds spread more than those of the other arms in {metric} (F test, p {p:.1g}); {so}."
                )
    return lines


@dataclass(frozen=True)
class Attribution:
    """What is ascribed to the losses of a path, in mAP and NDS."""

    path: str
    parts: dict[Metric, list[Part]]
    """By metric, in one order."""


def attributions(frame: pd.DataFrame, study: StudySpec) -> list[Attribution]:
    """Of every path whose arms tell two losses or more apart."""
    found = []
    order = tuple(dict.fromkeys(name for names in study.arms.values() for name in names))
    for group in groups(frame):
        if group.split or len(order) < 2:
            continue
        paths = dict.fromkeys(key.path for key in group.names if key.role == "student")
        for path in paths:
            arms: dict[Losses, str] = {}
            for key, name in group.names.items():
                if (key.role, key.path) == ("student", path) and key in group.baselines:
                    arms[frozenset(study.arms[key.arm])] = name
                    arms[frozenset()] = group.baselines[key]
            known = {chosen: name for chosen, name in arms.items() if name in group.names.values()}
            parts = {metric: attribute(known, order, blocks) for metric, blocks in group.blocks.items()}
            if any(parts.values()):
                found.append(Attribution(path, parts))
    return found


def attribution_frame(found: Sequence[Attribution]) -> pd.DataFrame:
    """One row for each effect and metric, p adjusted after Holm for all of them but Shapley values.

    These are all but the same contrasts as main effects; to ask twice would only make every answer harder to hear.

    Columns: path, kind, what, to (of what is added), metric, effect, low, high (95 %, points), p, holm.
    """
    parts = [(each.path, metric, part) for each in found for metric, parts in each.parts.items() for part in parts]
    rows = [
        {"path": path, "kind": part.kind, "what": "+".join(part.what), "to": "+".join(part.to or ()), "metric": metric}
        | {"effect": part.effect.value, "low": part.effect.low, "high": part.effect.high, "p": part.effect.p}
        for path, metric, part in parts
    ]
    columns = ["path", "kind", "what", "to", "metric", "effect", "low", "high", "p"]
    frame = pd.DataFrame(rows, columns=columns)
    asked = frame["p"].where(frame["kind"] != "Shapley value")
    return frame.assign(holm=holm(asked.astype(float).tolist()))
