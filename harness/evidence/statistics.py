"""Confidence intervals, p values and power of differences between arms, over seeds and scenes.

**What is estimated.** The gain of an arm over its baseline, or any contrast between arms of one student, in the mean
over all seeds that might have been drawn and all scenes that might have been recorded. Teachers, schedule and data are
part of the question: nothing here speaks of other ones. Seeds and scenes are crossed random effects: a contrast of seed
s in scene c is

    mean + seed(s) + scene(c) + rest(s, c),

and its mean over S seeds and C scenes has the variance var(seed) / S + var(scene) / C + var(rest) / (S C).

**Seeds.** The arms of a seed begin with the same weights and see the same batches, so that a seed is a block of a
randomised block design, and what is left of mAP (or NDS) after the effects of arms and of seeds has the variance that
blocks do not explain. It is pooled over all arms of a student, which has (arms - 1) (S - 1) degrees of freedom; with
three seeds, an arm's own two would find nothing. That arms vary alike is assumed, and tested (`Blocks.unlike`).

**Scenes.** The draws of scenes (`harness.evaluate.bootstrap`) of the mean over seeds vary by var(scene) / C + var(rest)
/ (S C), of which the second part is in what seeds leave over, too; it is told from the draws of single seeds and taken
away.

**Together.** The two parts are Student-distributed with the degrees of freedom of each: intervals and p values are
those of the sum of two such variables (Behrens and Fisher), exact where one of them is zero, and
conservative otherwise. How often they are right is measured in tests/calibration.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import Float

# Not scipy.stats, whose distributions are these functions: it takes a second to import.
from scipy import optimize, special

from harness.evaluate.intervals import LEVEL, MIN_SCENES

POWER = 0.8
"""The power at which an effect counts as detectable."""


@dataclass(frozen=True)
class Spread:
    """The variance of an estimate, by what varies."""

    seeds: float
    """In units of the estimate squared; 0 of one seed, about which nothing is known."""
    seed_freedom: int
    scenes: float
    """0 of too few scenes, about which nothing is known."""
    scene_freedom: int

    @property
    def standard_error(self) -> float:
        """The standard error of the estimate; NaN where nothing of it is known."""
        return float(np.sqrt(self.seeds + self.scenes)) if self._parts else float("nan")

    @property
    def _parts(self) -> list[tuple[float, int]]:
        """Scale and degrees of freedom of each part that is there, the larger one first."""
        parts = [(self.seeds, self.seed_freedom), (self.scenes, self.scene_freedom)]
        return sorted(((float(np.sqrt(part)), freedom) for part, freedom in parts if part > 0), reverse=True)

    def p(self, value: float) -> float:
        """Two-sided: how often chance alone gives an estimate at least as far from 0; NaN where that is not known."""
        if not self._parts or np.isnan(value):
            return float("nan")
        (scale, freedom), *others = self._parts
        if not others:
            return float(2 * special.stdtr(freedom, -abs(value) / scale))
        # P(|X + Y| > v) of two symmetric variables is the mean over Y of 2 P(X > v - Y).
        weight, shift = _grid(others[0][1])
        tails = special.stdtr(freedom, (others[0][0] * shift - abs(value)) / scale)
        return float(min(1.0, 2 * weight @ tails))

    @cached_property
    def reach(self) -> float:
        """From the estimate to the ends of its 95 % interval."""
        if not self._parts:
            return float("nan")
        widest = 3 * sum(scale * special.stdtrit(freedom, (1 + LEVEL) / 2) for scale, freedom in self._parts)
        return float(optimize.brentq(lambda value: self.p(value) - (1 - LEVEL), 0.0, widest, rtol=1e-6))

    def power(self, difference: float) -> float:
        """The probability that such a study finds a true difference with p < 5 %."""
        ends = np.stack([self._reaches - difference, self._reaches + difference]) / self.standard_error
        return float(special.ndtr(-ends).sum(axis=0).mean())

    def detectable(self) -> float:
        """The minimum detectable effect at POWER; NaN where nothing is known."""
        if not self._parts:
            return float("nan")
        widest = 20 * float(self._reaches.max())
        return float(optimize.brentq(lambda difference: self.power(difference) - POWER, 0.0, widest, rtol=1e-4))

    @cached_property
    def _reaches(self) -> Float[np.ndarray, " n"]:
        """What `reach` may be in a study, by equal chances: the spread that it sees varies, too."""
        return np.array([self._seen((number + 0.5) / 16).reach for number in range(16)])

    def _seen(self, share: float) -> "Spread":
        """What a study sees of this spread at a quantile of what it may see of the part that varies most."""
        seeds, scenes = self.seeds, self.scenes
        freedom = self.seed_freedom if seeds else self.scene_freedom
        # The quantile of chi-squared over its degrees of freedom.
        seen = 2 * special.gammaincinv(freedom / 2, share) / freedom
        seeds, scenes = (seeds * seen, scenes) if seeds else (seeds, scenes * seen)
        return Spread(seeds, self.seed_freedom, scenes, self.scene_freedom)


@cache
def _grid(freedom: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Weights, which add up to 1, and values for a mean over a Student-distributed variable."""
    # Dense in the middle and far out at the ends, for the tails of few degrees of freedom.
    values = np.sinh(np.linspace(-12.0, 12.0, 2401))
    density = (1 + values**2 / freedom) ** (-(freedom + 1) / 2)
    weight = density * np.cosh(np.arcsinh(values))
    weight /= weight.sum()
    # With many degrees of freedom most of it weighs nothing, and would take most of the time.
    weighs = weight > 1e-30
    return weight[weighs], values[weighs]


@dataclass(frozen=True)
class Effect:
    """A contrast between arms, with what is known of its error; in the units of the metric."""

    value: float
    spread: Spread
    seeds: int
    scenes: int
    """0 where they are too few to say anything about others."""

    @cached_property
    def p(self) -> float:
        """Two-sided, unadjusted; NaN where nothing is known."""
        return self.spread.p(self.value)

    @property
    def low(self) -> float:
        """The lower end of the 95 % CI."""
        return self.value - self.spread.reach

    @property
    def high(self) -> float:
        """The upper end of the 95 % CI."""
        return self.value + self.spread.reach

    @classmethod
    def unknown(cls) -> "Effect":
        """The effect of what has no result."""
        return cls(float("nan"), Spread(0.0, 0, 0.0, 0), 0, 0)


class Blocks:
    """One metric of one student on one split: what each arm reached with each seed, and in draws of scenes."""

    def __init__(
        self,
        values: Mapping[str, Sequence[float]],
        draws: Mapping[str, Float[np.ndarray, "seeds draws"]] | None = None,
        scenes: int = 0,
    ) -> None:
        """Take in the arms.

        Args:
            values: By the name of the arm, of the same seeds in the same order; no trainings under two names, else it
                would seem that nothing varies.
            draws: Likewise, in draws of the same scenes; None where they are not known.
            scenes: Of the split.
        """
        self.names = list(values)
        self._values = np.array([list(values[name]) for name in self.names], dtype=np.float64)
        known = draws is not None and scenes >= MIN_SCENES
        self._draws = np.stack([draws[name] for name in self.names]) if known and draws is not None else None
        self._scenes = scenes if known else 0

    @property
    def seeds(self) -> int:
        """How many."""
        return self._values.shape[1]

    @cached_property
    def residual(self) -> tuple[float, int]:
        """Mean square of what arms and seeds do not explain, and its degrees of freedom."""
        table = self._values
        arms, seeds = table.shape
        freedom = (arms - 1) * (seeds - 1)
        if not freedom:
            return 0.0, 0
        rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        return float((rest**2).sum() / freedom), freedom

    def effect(self, contrast: Mapping[str, float]) -> Effect:
        """A weighted sum of arms, in the mean over seeds and scenes; its weights have to add up to 0."""
        weight = np.array([contrast.get(name, 0.0) for name in self.names])
        if missing := contrast.keys() - set(self.names):
            raise KeyError(f"no arm {min(missing)!r}; there are {', '.join(self.names)}")
        if abs(weight.sum()) > 1e-9:
            raise ValueError(f"the weights of {dict(contrast)} do not add up to 0: seeds would not cancel")
        square, freedom = self.residual
        seeds = square * float(weight @ weight) / self.seeds
        scenes, _ = self.over_scenes(weight)
        spread = Spread(seeds, freedom, scenes, max(0, self._scenes - 1))
        return Effect(float((weight @ self._values).mean()), spread, self.seeds, self._scenes)

    def over_scenes(self, weight: Float[np.ndarray, " arms"]) -> tuple[float, float]:
        """Parts of the variance of a contrast's mean over seeds: var(scene) / C and var(rest) / C (0 with one seed)."""
        if self._draws is None:
            return 0.0, 0.0
        # The first draw is the split itself.
        drawn = np.einsum("a,asd->sd", weight, self._draws[:, :, 1:])
        # Draws of n scenes vary like a mean divided by n, not by n - 1.
        correction = self._scenes / (self._scenes - 1)
        together = float(drawn.mean(axis=0).var(ddof=1)) * correction
        if self.seeds == 1:
            return together, 0.0
        alone = float(drawn.var(axis=1, ddof=1).mean()) * correction
        rest = max(0.0, (alone - together) * self.seeds / (self.seeds - 1))
        return max(0.0, together - rest / self.seeds), rest

    def unlike(self, level: float = 0.01) -> dict[str, float]:
        """Arms whose seeds spread more than the others', by name, with the p value of an F test.

        The level is for all arms together. Pooled intervals are too short for such an arm.
        """
        square, freedom = self.residual
        arms, seeds = self._values.shape
        if seeds < 2 or arms < 3 or not square:
            return {}
        rest = self._values - self._values.mean(axis=0)
        rest = rest - rest.mean(axis=1, keepdims=True)
        wider = {}
        for name, residuals in zip(self.names, rest, strict=True):
            inner = float((residuals**2).sum()) / ((seeds - 1) * (1 - 1 / arms))
            others = (square * freedom - inner * (seeds - 1)) / (freedom - (seeds - 1))
            p = float(special.fdtrc(seeds - 1, freedom - (seeds - 1), inner / others)) if others > 0 else 0.0
            if p < level / arms:
                wider[name] = p
        return wider


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for being read together (Holm, 1979); NaN stays NaN and is no part of the family."""
    values = np.asarray(p, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    adjusted = np.full(len(values), np.nan)
    steps = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted.tolist()
