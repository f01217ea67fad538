"""The plainest synthetic scene, for tests that place things themselves."""

import numpy as np
import pytest

from harness.world.scene import Ground, Scene, Track


@pytest.fixture
def flat_scene():
    """Nothing but the ego at the origin, facing +x, on flat grey ground with the sun overhead; to be filled."""
    return Scene(
        ego=Track(0.0, 0.0, 0.0, 0.0, 0.0),
        sway=np.zeros((2, 3)),
        ground=Ground(np.zeros(1), np.zeros((1, 2)), np.zeros(1)),
        objects=(),
        scenery=(),
        light=np.array([0.0, 0.0, 1.0]),
        ambient=0.5,
        posts=np.zeros((0, 2)),
        asphalt=np.full(3, 0.4),
        sky=np.full(3, 0.7),
    )
