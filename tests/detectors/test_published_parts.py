"""Small detectors of the parts of published networks run, learn and decode, each on its own and fused."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from detectors.batch import Points
from detectors.detector import DetectorSpec
from detectors.encoders.bev_neck import BevNeckSpec
from detectors.encoders.fusion import FusionSpec
from detectors.encoders.pillars import PillarSpec
from detectors.encoders.radar_pillars import RadarPillarSpec
from detectors.encoders.second_neck import SecondNeckSpec
from detectors.encoders.voxel_net import VoxelNetSpec
from detectors.folding import folded
from detectors.geometry.boxes import CLASSES
from detectors.heads.center import CenterHeadSpec, TaskDecodingSpec

VOXELS = VoxelNetSpec(voxels_per_cell=2, height_bins=16, widths=(4, 6), blocks=1, column_width=2, bias=True)
PILLARS = PillarSpec(pillars_per_cell=4, most_points=3, widths=(6,))
RADAR = RadarPillarSpec(widths=(8, 6))
NECK = SecondNeckSpec(widths=(6, 8), strides=(1, 2), convs=(1, 2), up_widths=(4, 4), up_factors=(1.0, 2.0))
NECK_OF_PILLARS = SecondNeckSpec(
    widths=(6, 8, 8), strides=(2, 2, 2), convs=(1, 1, 1), up_widths=(4, 4, 4), up_factors=(0.5, 1.0, 2.0)
)
CENTERPOINT = CenterHeadSpec(width=8, branches="separate", average="task", prior=0.1, decoding=TaskDecodingSpec())
UNIDISTILL = CenterHeadSpec(
    width=8,
    branches="separate",
    bias=True,
    iou=True,
    targets="nearest",
    average="task",
    learned_weights=True,
    box_weight=1.0,
    overlap_weight=5.0,
    max_boxes=500,
    decoding=TaskDecodingSpec(iou_power=0.65, after=100, overlap=(0.1,) * 6, score_threshold=0.01),
)
CASES = {
    "voxels": {"lidar": VOXELS, "neck": NECK, "head": CENTERPOINT},
    "pillars": {"lidar": PILLARS, "neck": NECK_OF_PILLARS, "head": CENTERPOINT},
    "radar": {"radar": RADAR, "neck": NECK, "head": CENTERPOINT},
    "unidistill": {"lidar": VOXELS, "neck": NECK, "head": UNIDISTILL},
    "channel gate": {
        "lidar": VOXELS,
        "radar": RADAR,
        "fusion": FusionSpec(channels=5, normed=False, gate="channel"),
        "neck": NECK,
        "head": UNIDISTILL,
    },
    "cell gate": {
        "lidar": VOXELS,
        "radar": RADAR,
        "fusion": FusionSpec(channels=5, normed=False, gate="cell"),
        "neck": BevNeckSpec(fine_width=4, coarse_width=6),
        "head": CENTERPOINT,
    },
}


@pytest.fixture(params=CASES)
def spec(request, grid):
    return DetectorSpec(grid=grid, **CASES[request.param])


@pytest.fixture
def batch(tiny_batch):
    """RADAR returns with states."""
    values = tiny_batch.radar.values
    return replace(
        tiny_batch, radar=Points(torch.cat([values, torch.ones(len(values), 4)], dim=1), tiny_batch.radar.sample)
    )


def test_every_parameter_learns(spec, batch):
    torch.manual_seed(0)
    detector = spec.build().train()
    output = detector(batch)
    assert output.bev_low.shape == (
        2,
        spec.low_channels,
        *(side * spec.low_per_cell for side in output.bev_high.shape[2:]),
    )
    assert output.bev_high.shape == (2, spec.high_channels, spec.grid.rows, spec.grid.columns)
    terms = detector.loss(output, batch).terms
    assert terms.keys() == spec.loss_weights.keys()
    sum(weight * terms[name] for name, weight in spec.loss_weights.items()).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    # The heatmap's loss alone reaches every part below the head.
    assert all(each.grad.any() for each in detector.neck.parameters() if each.dim() > 1)


def test_boxes_come_best_first_and_on_the_grid(spec, batch):
    torch.manual_seed(0)
    detector = spec.build().eval()
    with torch.no_grad():
        decoded = detector.decode(detector(batch))
    assert len(decoded) == 2
    for boxes in decoded:
        assert len(boxes) <= spec.head.max_boxes
        assert (boxes.score.diff() <= 0).all()
        assert ((boxes.label >= 0) & (boxes.label < len(CLASSES))).all()


def test_samples_do_not_see_one_another(spec, batch, make_batch):
    torch.manual_seed(0)
    detector = spec.build().eval()
    second = batch.lidar.sample == 1
    changed = replace(
        batch,
        lidar=Points(batch.lidar.values + 0.3 * second[:, None] * torch.tensor([1.0, 1, 0, 0, 0]), batch.lidar.sample),
    )
    with torch.no_grad():
        one, other = (detector(each).head.heatmap for each in (batch, changed))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1]) == (spec.lidar is None)


def test_norms_are_folded_without_a_trace(spec, batch):
    torch.manual_seed(0)
    detector = spec.build().train()
    detector(batch)  # statistics that say something
    with torch.no_grad():
        one, other = (model(batch).head for model in (detector.eval(), folded(detector)))
    assert_close(other.heatmap, one.heatmap, atol=1e-4, rtol=1e-4)
    assert_close(other.boxes, one.boxes, atol=1e-4, rtol=1e-4)
    assert not any(type(each) is torch.nn.BatchNorm2d for each in folded(detector).head.modules())


def test_specs_survive_their_json(spec):
    again = DetectorSpec.model_validate_json(spec.model_dump_json())
    assert again == spec


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"lidar": PILLARS, "neck": NECK}, "the neck has a stride of 1; maps before it have 4 in a cell"),
        ({"lidar": VOXELS, "neck": NECK_OF_PILLARS}, "the neck has a stride of 4; maps before it have 1 in a cell"),
        (
            {"lidar": PILLARS, "radar": RADAR, "fusion": FusionSpec(channels=5), "neck": NECK_OF_PILLARS},
            "lidar.pillars_per_cell is 4; maps to be fused need 1",
        ),
        ({"lidar": {"kind": "voxelnet"}, "neck": NECK}, "voxelnet"),
    ],
)
def test_parts_that_do_not_fit_are_refused(grid, parts, words):
    with pytest.raises(ValidationError, match=words):
        DetectorSpec(grid=grid, head=CENTERPOINT, **parts)
