"""Tables of arms of which the truth is known, from a stated model of seeds and scenes.

A training of arm a and seed s scores in scene c

    block(s) + arm(a) + seed(a, s) + scene(a, c) + rest(a, s, c),

all but arm(a) drawn from normal distributions, and mAP (or NDS) is the mean over the scenes, which the bootstrap
draws. Variances are those of gains, twice those of one arm; `components.json` has them fitted to stored runs.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.evidence.statistics import Blocks, Effect, holm


@dataclass(frozen=True)
class Components:
    """Variances of a gain, in points squared, of one seed on one split: by seed, by scene / C, and the rest / C."""

    seed: float
    scene: float
    rest: float


COMPONENTS = Path(__file__).parent / "components.json"
FITTED = {name: Components(**fitted) for name, fitted in json.loads(COMPONENTS.read_text())["components"].items()}
"""Of mAP and NDS."""


@dataclass(frozen=True)
class Truth:
    """What a study would find if it had all seeds and scenes."""

    arms: int
    seeds: int
    scenes: int
    gain: float = 0.0
    """True gain of the first arm; of all others it is 0."""
    unlike: float = 1.0
    """How many times as far as the others' the seeds of the first arm spread."""


@dataclass(frozen=True)
class Rates:
    """What tables claim, at 5 %."""

    per_row: float
    """Rows of arms without an effect that are significant, unadjusted."""
    family: float
    """Tables with at least one such row after Holm's adjustment."""
    found: float
    """First rows that are significant, unadjusted."""
    tables: int


def table(components: Components, truth: Truth, draws: int, random: np.random.Generator) -> list[Effect]:
    """The gains of one table."""
    arms, seeds, scenes = 1 + truth.arms, truth.seeds, truth.scenes
    spread = {name: np.sqrt(getattr(components, name) / 2) for name in ("seed", "scene", "rest")}
    own = random.normal(0, spread["seed"], (arms, seeds, 1))
    own[1] *= truth.unlike
    scored = own + random.normal(0, spread["scene"] * np.sqrt(scenes), (arms, 1, scenes))
    scored = scored + random.normal(0, spread["rest"] * np.sqrt(scenes), (arms, seeds, scenes))
    scored = scored + random.normal(0, 1, (1, seeds, 1))
    scored[1] += truth.gain
    copies = random.multinomial(scenes, np.full(scenes, 1 / scenes), size=draws) / scenes
    drawn = np.concatenate([scored.mean(axis=2, keepdims=True), scored @ copies.T], axis=2)
    names = [f"arm {number}" for number in range(arms)]
    blocks = Blocks(
        dict(zip(names, drawn[:, :, 0].tolist(), strict=True)), dict(zip(names, drawn, strict=True)), scenes
    )
    return [blocks.effect({name: 1.0, names[0]: -1.0}) for name in names[1:]]


def rates(components: Components, truth: Truth, tables: int, draws: int, seed: int) -> Rates:
    """What so many tables of one truth claim."""
    random = np.random.default_rng(seed)
    return claims((table(components, truth, draws, random) for _ in range(tables)), bool(truth.gain))


def claims(tables, first_has_gain: bool = False) -> Rates:
    """What tables claim, given the effects of each."""
    rows, family, first, count = [], 0, 0, 0
    for effects in tables:
        p = [effect.p for effect in effects]
        without = slice(1, None) if first_has_gain else slice(None)
        rows += [value < 0.05 for value in p[without]]
        family += any(value < 0.05 for value in holm(p)[without])
        first += p[0] < 0.05
        count += 1
    return Rates(float(np.mean(rows)), family / count, first / count, count)
