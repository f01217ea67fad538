"""Two detectors whose true difference is known: truths and boxes drawn scene by scene, in columns."""

import numpy as np
from nuscenes.eval.common.config import config_factory

from harness.evaluate.columns import Annotations, BoxColumns
from tests.harness.evaluate.sets import split_of

# As uneven as nuScenes: the rarest class has one truth in a hundred.
SHARES = np.array([0.40, 0.08, 0.05, 0.04, 0.02, 0.20, 0.03, 0.01, 0.07, 0.10])
SAMPLES_OF_A_SCENE = 5
TRUTHS_OF_A_SCENE = 20
APART = 20.0
"""Metres between truths: no box can find another one's."""
SKILL = (0.6, 0.9)
"""Of the detectors: log odds of finding a truth of middling difficulty."""


def simulate(scenes, rng):
    """The split, its truths, and the boxes of two detectors.

    Scenes differ in how many truths they have and in how hard they are, for both detectors and for each; truths differ
    in how hard they are for both.
    """
    split, truth = _truths(scenes, rng)
    hard = rng.normal(size=scenes)
    scene = split.scene[truth.sample]
    difficulty = 0.8 * hard[scene] + 0.8 * rng.normal(size=len(truth))
    return split, truth, [_detected(truth, split, difficulty, skill, rng) for skill in SKILL]


def _truths(scenes, rng):
    split = split_of(np.arange(scenes * SAMPLES_OF_A_SCENE) // SAMPLES_OF_A_SCENE)
    count = rng.poisson(TRUTHS_OF_A_SCENE * rng.gamma(2.0, 0.5, size=scenes))
    scene = np.repeat(np.arange(scenes), count)
    n = len(scene)
    boxes = BoxColumns(
        sample=np.sort(scene * SAMPLES_OF_A_SCENE + rng.integers(SAMPLES_OF_A_SCENE, size=n)),
        label=rng.choice(len(SHARES), size=n, p=SHARES),
        center=np.stack([APART * np.arange(n), np.zeros(n), np.zeros(n)], axis=1),
        size=rng.uniform(0.5, 5.0, (n, 3)),
        yaw=rng.uniform(-np.pi, np.pi, n),
        velocity=rng.normal(size=(n, 2)),
        attribute=rng.integers(8, size=n),
        score=np.full(n, -1.0),
    )
    return split, Annotations.of(boxes, np.full(n, 5), np.full(n, 4))


def _detected(truth, split, difficulty, skill, rng):
    scenes = int(split.scene.max()) + 1
    mood = rng.normal(size=scenes)  # how this detector copes with each scene
    scene = split.scene[truth.sample]
    ease = skill - difficulty + 0.4 * mood[scene]
    hit = (rng.random(len(truth)) < 1 / (1 + np.exp(-ease))).nonzero()[0]
    false = rng.poisson(8 * np.exp(0.3 * mood - 0.5 * skill))
    wrong = np.repeat(np.arange(scenes), false)
    k = len(wrong)
    spread = 0.5 * np.exp(-0.3 * ease[hit])
    return BoxColumns(
        sample=np.concatenate(
            [truth.sample[hit], wrong * SAMPLES_OF_A_SCENE + rng.integers(SAMPLES_OF_A_SCENE, size=k)]
        ),
        label=np.concatenate([truth.label[hit], rng.choice(len(SHARES), size=k, p=SHARES)]),
        center=np.concatenate(
            [
                truth.center[hit] + spread[:, None] * rng.normal(size=(len(hit), 3)),
                np.stack([-APART * (1 + np.arange(k)), np.zeros(k), np.zeros(k)], axis=1),
            ]
        ),
        size=np.concatenate([truth.size[hit] * np.exp(0.2 * rng.normal(size=(len(hit), 3))), np.ones((k, 3))]),
        yaw=np.concatenate([truth.yaw[hit] + 0.6 * spread * rng.normal(size=len(hit)), np.zeros(k)]),
        velocity=np.concatenate(
            [truth.velocity[hit] + spread[:, None] * rng.normal(size=(len(hit), 2)), np.zeros((k, 2))]
        ),
        attribute=np.concatenate(
            [np.where(rng.random(len(hit)) < 0.7, truth.attribute[hit], 0), np.zeros(k, dtype=np.int64)]
        ),
        score=1 / (1 + np.exp(-np.concatenate([ease[hit] + rng.normal(size=len(hit)), -0.5 + rng.normal(size=k)]))),
    )


def config():
    """The devkit's, without ranges: where the boxes are has no meaning here."""
    found = config_factory("detection_cvpr_2019")
    found.class_range = dict.fromkeys(found.class_range, 1e9)
    return found
