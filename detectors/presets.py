"""Named detector specs: what a study calls by name and may override."""

from detectors.detector import DetectorSpec
from detectors.encoders.bev_neck import BevNeckSpec
from detectors.encoders.camera import CameraSpec
from detectors.encoders.image import ImageSpec
from detectors.encoders.lidar import LidarSpec
from detectors.geometry.grid import BevGrid
from detectors.heads.center import CenterHeadSpec

# The tiny detectors train in minutes on one core; teacher and student differ in their encoders alone.
_TINY_GRID = BevGrid(x_range=(-25.6, 25.6), y_range=(-25.6, 25.6), z_range=(-3.0, 5.0), cell=0.8)
_TINY_LOW_CHANNELS = 64
_TINY_NECK = BevNeckSpec(fine_width=48, coarse_width=96, coarse_depth=3)
_TINY_HEAD = CenterHeadSpec(width=48)

PRESETS = {
    "tiny_camera": DetectorSpec(
        grid=_TINY_GRID,
        camera=CameraSpec(
            image_size=(64, 176),
            image=ImageSpec(stem_width=32, widths=(32, 64, 96, 128), depths=(1, 1, 1, 1), channels=64),
            # To the corners of the grid.
            depth_range=(1.0, 36.0),
            depth_bins=35,
            channels=_TINY_LOW_CHANNELS,
        ),
        neck=_TINY_NECK,
        head=_TINY_HEAD,
    ),
    "tiny_lidar": DetectorSpec(
        grid=_TINY_GRID,
        lidar=LidarSpec(
            voxels_per_cell=2, height_bins=16, widths=(16, 32, 48), depths=(1, 2, 1), channels=_TINY_LOW_CHANNELS
        ),
        neck=_TINY_NECK,
        head=_TINY_HEAD,
    ),
}
