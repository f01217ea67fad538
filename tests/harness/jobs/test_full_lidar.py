"""A LiDAR with the parts of UniDistill's trains and is scored, and teaches a RADAR whose returns have states."""

import math

import pytest
import torch

from detectors.encoders.radar_pillars import RadarPillarSpec
from detectors.encoders.second_neck import SecondNeckSpec
from detectors.encoders.voxel_net import VoxelNetSpec
from detectors.heads.center import CenterHeadSpec, TaskDecodingSpec
from detectors.presets import PRESETS
from harness.data.loader import SampleSet, evaluation_batches
from harness.jobs.worker import run
from harness.runs.folder import RunFolder
from harness.train.checkpoint import save_model

TINY = PRESETS["tiny_lidar"]
NECK = SecondNeckSpec(widths=(16, 24), strides=(1, 2), convs=(2, 2), up_widths=(16, 16), up_factors=(1.0, 2.0))
HEAD = CenterHeadSpec(
    width=16,
    branches="separate",
    bias=True,
    iou=True,
    targets="nearest",
    average="task",
    learned_weights=True,
    box_weight=1.0,
    overlap_weight=5.0,
    prior=0.1,
    max_boxes=500,
    decoding=TaskDecodingSpec(iou_power=0.65, after=50),
)
LIDAR = TINY.model_copy(
    update={
        "lidar": VoxelNetSpec(
            sweeps=2, voxels_per_cell=2, height_bins=20, widths=(8, 16), blocks=1, column_width=4, bias=True
        ),
        "neck": NECK,
        "head": HEAD,
    }
)
RADAR = LIDAR.model_copy(update={"lidar": None, "radar": RadarPillarSpec(sweeps=2, widths=(16, 16))})


def _job(order, detector, **fields):
    spec = order("tiny_lidar").spec
    return spec.model_copy(update={"detector": type(detector).model_validate(detector.model_dump()), **fields})


def _trained(order, path):
    folder = RunFolder(path)
    folder.write("job.json", order.model_dump(mode="json"))
    return folder, run(order, folder, lambda: False)


@pytest.mark.slow
def test_it_trains_by_itself_and_its_log_has_every_term(order, tmp_path):
    folder, result = _trained(order(spec=_job(order, LIDAR)), tmp_path / "alone")
    steps = folder.steps()
    assert len(steps) == 4
    for name, weight in (("heatmap", 1), ("boxes", 1), ("iou", 1), ("overlap", 5)):
        assert all(math.isfinite(step[f"raw/{name}"]) for step in steps)
        assert all(step[f"weighted/{name}"] == pytest.approx(weight * step[f"raw/{name}"]) for step in steps)
    assert 0 <= result.metrics["mAP"] <= 1


@pytest.mark.slow
def test_it_teaches_a_radar_by_unidistill_s_losses(order, tmp_path):
    torch.manual_seed(0)
    save_model(tmp_path / "teacher.safetensors", LIDAR.build())
    losses = {"relation": {"weight": 1.0}, "response": {"weight": 1.0, "parts": "split"}}
    taught = _job(order, RADAR, teacher="a teacher", losses=losses)
    given = {"teacher_spec": _job(order, LIDAR), "teacher_weights": tmp_path / "teacher.safetensors"}
    folder, _ = _trained(order(spec=taught, **given), tmp_path / "taught")
    assert all(step[f"raw/{name}"] > 0 for step in folder.steps() for name in losses)


@pytest.mark.slow
def test_it_learns_one_batch_and_weighs_its_losses(smoke_root):
    samples = SampleSet(smoke_root, smoke_root.tokens("synthetic_val")[-2:], LIDAR.inputs)
    (batch,) = evaluation_batches(samples, batch_size=2, workers=0)
    torch.manual_seed(0)
    detector = LIDAR.build().train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = detector.loss(detector(batch), batch)
        optimizer.zero_grad()
        total = sum(LIDAR.loss_weights[name] * value for name, value in loss.terms.items())
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < 0.5 * losses[0]
    weights = detector.head.loss_weights.detach()
    assert (weights[:3] != 1).all()
    assert (weights[3:] - 1).abs().max() < 0.01  # which nothing but weight decay moves
