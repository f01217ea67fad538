"""A detector that is whole can learn four samples by heart; one with a wrong axis, target or gradient cannot.

Two detectors by ``-m slow``; all of them by ``pytest tests/harness/train/test_overfit.py -m ""``.
"""

from pathlib import Path

import pytest

from detectors.presets import TINY_PRESETS
from harness.data.root import NuScenesRoot
from harness.jobs.worker import run
from harness.runs.folder import RunFolder
from harness.world import nuscenes
from harness.world.nuscenes import SWEEPS, Preset, synthesize

TRIED = ("tiny_camera", "tiny_lidar")


@pytest.fixture(scope="module")
def four_samples(tmp_path_factory):
    """A root whose training split is four samples, in which there is something of every class."""
    out: Path = tmp_path_factory.mktemp("four") / "world"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(nuscenes.PRESETS, "smoke", Preset(train=2, tune=0, val=0, keyframes=2, sweeps=SWEEPS))
        synthesize(out, "smoke", seed=0)
    return NuScenesRoot(out, "v1.0-synthetic")


@pytest.mark.parametrize(
    "preset",
    [
        pytest.param(name, marks=pytest.mark.slow if name in TRIED else pytest.mark.exhaustive)
        for name in sorted(TINY_PRESETS)
    ],
)
def test_four_samples_are_learned_by_heart(four_samples, order_on, tmp_path, preset):
    tokens = four_samples.tokens("synthetic_train")
    assert len(tokens) == 4
    schedule = {"steps": 400, "batch_size": 4, "lr": 5e-3, "augment": {"mirror_probability": 0.0}}
    order = order_on(four_samples, preset, schedule, eval_split="synthetic_train")
    folder = RunFolder(tmp_path / preset)
    folder.write("job.json", order.model_dump(mode="json"))
    metrics = run(order, folder, lambda: False).metrics
    assert metrics["mAP"] > 0.95, metrics
