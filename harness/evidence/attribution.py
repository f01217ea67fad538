"""Attribution: estimates the effect of each loss, as far as the design of a study separates the losses.

With v(S) the metric of the arm that uses the set S of losses (a warm start counts as one; v of the empty set is the
baseline's), of n losses of which every set is an arm (a full factorial):

- the main effect of i is the mean of v(S + i) - v(S) over all sets S without i;
- the interaction of i and j is the mean of v(S + i + j) - v(S + i) - v(S + j) + v(S) over all sets S without both: what
  the one gains more when the other is present;
- the Shapley value of i (Shapley, 1953) is the mean gain of adding i, over all orders in which the n could be added;
  the values of all add up to the gain of the whole.

Where losses do not interact, main effect and Shapley value are the same. A design with fewer arms tells what adding
losses to others does, between arms with none in between, and no more. All are contrasts between arms, with the
intervals of `harness.evidence.statistics`.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Literal

from harness.evidence.statistics import Blocks, Effect

Losses = frozenset[str]
Contrast = dict[str, float]
Kind = Literal["main effect", "interaction", "Shapley value", "added"]
Name = tuple[Kind, tuple[str, ...], tuple[str, ...] | None]
"""Kind, what, and to what, as in `Part`."""


@dataclass(frozen=True)
class Part:
    """The effect of one loss, or of two together."""

    kind: Kind
    what: tuple[str, ...]
    """One loss, two that interact, or all that are added."""
    to: tuple[str, ...] | None
    """The losses to which something is added; None for other kinds."""
    effect: Effect


def attribute(arms: Mapping[Losses, str], order: tuple[str, ...], blocks: Blocks) -> list[Part]:
    """The effects that a study's arms separate, on one path.

    Args:
        arms: The sets of losses that were trained, with the empty one, to their names in `blocks`.
        order: All losses, in the order in which they are shown.
        blocks: One metric of the student.
    """
    contrasts = factorial(arms, order) if is_factorial(arms, order) else additions(arms, order)
    return [Part(kind, what, to, blocks.effect(contrast)) for (kind, what, to), contrast in contrasts.items()]


def is_factorial(arms: Mapping[Losses, str], order: tuple[str, ...]) -> bool:
    """Whether every set of two or more losses was trained."""
    sets = (frozenset(chosen) for size in range(len(order) + 1) for chosen in combinations(order, size))
    return len(order) > 1 and all(chosen in arms for chosen in sets)


def additions(arms: Mapping[Losses, str], order: tuple[str, ...]) -> dict[Name, Contrast]:
    """Effects of adding losses to others, for all pairs of arms without an arm in between."""

    def ordered(losses: Losses) -> tuple[str, ...]:
        return tuple(name for name in order if name in losses)

    contrasts: dict[Name, Contrast] = {}
    some = [losses for losses in arms if losses]
    for before in sorted(some, key=lambda losses: (len(losses), [order.index(name) for name in ordered(losses)])):
        larger = [after for after in arms if before < after]
        for after in sorted(larger, key=lambda losses: [order.index(name) for name in ordered(losses - before)]):
            if not any(between < after for between in larger):
                contrast: Contrast = {arms[after]: 1.0}
                # 0 where the two are the same trainings, which other values by path can make them.
                contrast[arms[before]] = contrast.get(arms[before], 0.0) - 1.0
                contrasts["added", ordered(after - before), ordered(before)] = contrast
    return contrasts


def factorial(arms: Mapping[Losses, str], order: tuple[str, ...]) -> dict[Name, Contrast]:
    """Main effects, interactions of two and Shapley values, as contrasts between the arms of a full factorial."""
    n = len(order)
    contrasts: dict[Name, Contrast] = {}
    for loss in order:
        without = [chosen for chosen in arms if loss not in chosen]
        contrasts["main effect", (loss,), None] = _steps(arms, loss, dict.fromkeys(without, 0.5 ** (n - 1)))
    for loss in order:
        # 1 / n for each size of what is there before, shared by the sets of that size.
        shares = {chosen: 1 / (n * comb(n - 1, len(chosen))) for chosen in arms if loss not in chosen}
        contrasts["Shapley value", (loss,), None] = _steps(arms, loss, shares)
    for one, other in combinations(order, 2):
        without = [chosen for chosen in arms if not chosen & {one, other}]
        weight = 0.5 ** (n - 2)
        steps = {chosen | {other}: weight for chosen in without} | dict.fromkeys(without, -weight)
        contrasts["interaction", (one, other), None] = _steps(arms, one, steps)
    return contrasts


def _steps(arms: Mapping[Losses, str], loss: str, weights: Mapping[Losses, float]) -> Contrast:
    """The weighted sum of what adding a loss to each of some sets gains."""
    contrast: Contrast = defaultdict(float)
    for before, weight in weights.items():
        # Two sets may be the same trainings, where losses of one kind have the same fields on a path.
        contrast[arms[before | {loss}]] += weight
        contrast[arms[before]] -= weight
    return dict(contrast)
