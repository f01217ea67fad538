"""A camera with every part of the papers' cameras trains and is scored, alone and with a teacher that has a LiDAR."""

import math
import shutil

import pytest
import torch

from detectors.encoders.bev_trunk import ResNetFpnTrunkSpec
from detectors.encoders.depth_net import CameraAwareDepthSpec
from detectors.encoders.image_neck import SecondFpnSpec
from detectors.presets import PRESETS
from harness.data.root import LIDAR, NuScenesRoot
from harness.errors import InputError
from harness.jobs.detector import DetectorKind
from harness.jobs.worker import run
from harness.runs.folder import RunFolder
from harness.train.checkpoint import save_model

TINY = PRESETS["tiny_camera"]


@pytest.fixture(scope="module")
def camera_spec():
    image = TINY.camera.image.model_copy(
        update={
            "neck": SecondFpnSpec(),
            "backbone": TINY.camera.image.backbone.model_copy(update={"frozen_stem": True}),
        }
    )
    parts = {
        "image_size": (64, 160),
        "image": image,
        "keyframes": 2,
        "keyframe_join": "concatenation",
        "history_gradient": False,
        "depth_net": CameraAwareDepthSpec(width=16, blocks=1, dilations=(2,)),
        "depth_weight": 3.0,
        "frustum": "lift_splat",
        "channels": 32,
    }
    return TINY.model_copy(
        update={
            "camera": TINY.camera.model_copy(update=parts),
            "neck": ResNetFpnTrunkSpec(stem_width=16, widths=(16, 24), depths=(1, 1), strides=(1, 2), up_width=16),
        }
    )


@pytest.fixture
def job(order, camera_spec):
    spec = order("tiny_camera").spec
    return spec.model_copy(update={"detector": type(camera_spec).model_validate(camera_spec.model_dump())})


def _trained(order, path):
    folder = RunFolder(path)
    folder.write("job.json", order.model_dump(mode="json"))
    return folder, run(order, folder, lambda: False)


@pytest.mark.slow
def test_it_trains_by_itself_and_its_log_has_its_depth_loss(order, job, tmp_path):
    folder, result = _trained(order(spec=job), tmp_path / "alone")
    steps = folder.steps()
    assert len(steps) == 4
    assert all(math.isfinite(step["raw/lidar_depth"]) and step["raw/lidar_depth"] > 0 for step in steps)
    assert all(step["weighted/lidar_depth"] == pytest.approx(3 * step["raw/lidar_depth"]) for step in steps)
    assert 0 <= result.metrics["mAP"] <= 1


@pytest.mark.slow
def test_a_teacher_with_several_sweeps_shares_its_batches(order, job, tmp_path):
    torch.manual_seed(0)
    save_model(tmp_path / "teacher.safetensors", PRESETS["tiny_lidar"].build())
    losses = {"feature": {"weight": 1.0, "adapter": "conv3x3"}, "depth": {"weight": 1.0}}
    taught = job.model_copy(update={"teacher": "a teacher", "losses": losses})
    given = {"teacher_spec": order().spec, "teacher_weights": tmp_path / "teacher.safetensors"}
    folder, _ = _trained(order(spec=taught, **given), tmp_path / "taught")
    steps = folder.steps()
    # Its own depth loss and the one that is distilled are two terms.
    assert all(step[f"raw/{name}"] > 0 for step in steps for name in ("lidar_depth", "depth", "feature"))


def test_returns_that_only_the_training_wants_are_looked_for_in_its_split_alone(smoke_root, smoke_path, job, tmp_path):
    copy = tmp_path / "root"
    shutil.copytree(smoke_path, copy)
    root = NuScenesRoot(copy, "v1.0-synthetic")
    trained_on, scored = (
        root.path / root.sweeps(root.tokens(split)[0], LIDAR, 1)[0]["filename"]
        for split in (job.data.train_split, job.data.eval_split)
    )
    scored.unlink()
    DetectorKind().check([(job, None)], root)
    trained_on.unlink()
    with pytest.raises(InputError, match=trained_on.name):
        DetectorKind().check([(job, None)], root)
