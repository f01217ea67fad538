"""Small variants of the papers' networks with random weights, and their checkpoints in each program's layout."""

from dataclasses import dataclass

import pytest
import torch

from detectors.camera_presets import CAMERA_PRESETS
from detectors.encoders.depth_net import CameraAwareDepthSpec
from detectors.encoders.resnet import ResNetSpec
from detectors.geometry.grid import BevGrid
from detectors.lidar_presets import LIDAR_PRESETS
from harness.imports.rules import exported
from harness.imports.sources import RAW_INTENSITY, SOURCES
from harness.study.changes import changed

GRID = BevGrid(x_range=(-6.4, 6.4), y_range=(-8.0, 8.0), z_range=(-5.0, 3.0), cell=0.8)
RESNET = ResNetSpec(stem_width=4, widths=(8, 12, 16, 20), depths=(1, 2, 1, 1), block="bottleneck")
_GROUND = {"grid": GRID}
_SECOND = {"neck.widths": (6, 8), "neck.convs": (2, 3), "neck.up_widths": (8, 8), "head.width": 5}
_VOXELS = {"lidar.widths": (3, 4, 6, 8), "lidar.column_width": 8, "lidar.sweeps": 1}
_IMAGES = {"camera.image_size": (64, 96), "camera.image.backbone": RESNET, "camera.depth_range": (1.0, 9.0)}
_DEPTHS = {"camera.depth_bins": 8, "head.width": 5}


def small(name):
    """A preset with few channels, on a small grid."""
    full = {**CAMERA_PRESETS, **LIDAR_PRESETS}[name]
    match name:
        case "centerpoint_pillar02":
            changes = {
                "lidar.widths": (6, 4),
                "neck.widths": (4, 6, 8),
                "neck.convs": (2, 2, 3),
                "neck.up_widths": (4, 6, 6),
                "lidar.sweeps": 1,
                "head.width": 5,
            }
        case "centerpoint_voxel0075" | "unidistill_lidar":
            changes = _VOXELS | _SECOND
        case "unidistill_camera_lidar":
            # Equal widths of both sensors' maps, as there.
            changes = _VOXELS | _SECOND | _IMAGES | _DEPTHS
            changes |= {"camera.channels": 16, "camera.image.channels": 16, "fusion.channels": 6}
        case "bevdet_r50":
            changes = _IMAGES | _DEPTHS | {"camera.channels": 5, "camera.image.channels": 6}
            changes |= {"neck.widths": (6, 8, 10), "neck.channels": 7}
        case _:
            changes = _IMAGES | _DEPTHS | {"camera.channels": 5, "camera.image.channels": 16}
            changes |= {"camera.depth_net": CameraAwareDepthSpec(width=8), "neck.stem_width": 6}
            changes |= {"neck.widths": (6, 8, 10), "neck.up_width": 4}
    return changed(full, _GROUND | changes)


@dataclass(frozen=True)
class Case:
    """A detector, and the program in whose layout its weights are written."""

    program: str
    preset: str
    spconv: int = 2

    @property
    def spec(self):
        frame = SOURCES[self.program].frames[0]
        return small(self.preset).model_copy(update={"bev_frame": frame})

    def rules(self, boxes=None, intensity=RAW_INTENSITY):
        source = SOURCES[self.program]
        return source.rules(self.spec, boxes or source.boxes, intensity)

    def detector(self, seed=0):
        """Random weights and statistics; what is scaled on its way survives it to the last bit."""
        torch.manual_seed(seed)
        detector = self.spec.build().eval()
        with torch.no_grad():
            for name, tensor in detector.state_dict().items():
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 2.0)
                elif tensor.is_floating_point():
                    # Few digits, so that 255 times it, or a sum with as few, is exact.
                    tensor.copy_((torch.randn_like(tensor) * 64).round() / 64)
            for name, axis in (("lidar.stem.conv.weight", -1), ("lidar.points.linears.0.weight", 1)):
                if (tensor := detector.state_dict().get(name)) is not None:
                    tensor.select(axis, 3).mul_(RAW_INTENSITY)
        return detector

    def state(self, detector):
        return exported(self.rules(), detector.state_dict(), self.spconv)


CASES = [
    Case("mmdet3d", "centerpoint_pillar02"),
    Case("mmdet3d", "centerpoint_voxel0075"),
    Case("mmdet3d", "centerpoint_voxel0075", spconv=1),
    Case("det3d", "centerpoint_pillar02"),
    Case("det3d", "centerpoint_voxel0075", spconv=1),
    Case("openpcdet", "centerpoint_pillar02"),
    Case("openpcdet", "centerpoint_voxel0075"),
    Case("bevdet", "bevdet_r50"),
    Case("bevdepth", "bevdepth_r50"),
    Case("bevdepth", "bevdepth_r50_2key_da"),
    Case("unidistill", "unidistill_lidar"),
    Case("unidistill", "unidistill_camera_lidar"),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case.program}-{case.preset}-spconv{case.spconv}")
def case(request):
    return request.param


@pytest.fixture
def save(tmp_path):
    """``save(content)``: a file of torch.save."""

    def make(content, name="weights.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return make
