"""Named detector specs that a study may use and change. `crossbev presets` lists them."""

from detectors.detector import DetectorSpec
from detectors.encoders.bev_neck import BevNeckSpec
from detectors.encoders.camera import CameraSpec
from detectors.encoders.fusion import FusionSpec
from detectors.encoders.image import ImageSpec, SwinSpec
from detectors.encoders.lidar import LidarSpec
from detectors.encoders.radar import RadarSpec
from detectors.encoders.resnet import ResNetSpec
from detectors.geometry.grid import BevGrid
from detectors.heads.center import CenterHeadSpec
from detectors.heads.instance_mask import InstanceMaskSpec
from detectors.names import named
from detectors.segmenter import SegmenterSpec

# The tiny detectors train in minutes on one core; teacher and student differ in their encoders alone.
_TINY_GRID = BevGrid(x_range=(-16.0, 16.0), y_range=(-16.0, 16.0), z_range=(-3.0, 5.0), cell=0.8)
_TINY_LOW_CHANNELS = 64
_TINY_NECK = BevNeckSpec(fine_width=32, coarse_width=80, coarse_depth=3)
_TINY_HEAD = CenterHeadSpec(width=40)
# The neck mixes neighbours well enough; a larger kernel would cost as much as all of it.
_TINY_FUSION = FusionSpec(channels=_TINY_LOW_CHANNELS, kernel=1)

_TINY_CAMERA = CameraSpec(
    image_size=(80, 224),
    image=ImageSpec(backbone=ResNetSpec(stem_width=16, widths=(24, 48, 96, 128), depths=(1, 1, 1, 1)), channels=64),
    # To the corners of the grid.
    depth_range=(1.0, 23.0),
    depth_bins=44,
    channels=_TINY_LOW_CHANNELS,
)
_TINY_LIDAR = LidarSpec(
    sweeps=2, voxels_per_cell=2, height_bins=16, widths=(16, 32, 48), depths=(1, 2, 1), channels=_TINY_LOW_CHANNELS
)
_TINY_RADAR = RadarSpec(sweeps=3, width=32, depth=2, channels=_TINY_LOW_CHANNELS)


def _tiny(
    camera: CameraSpec | None = None, lidar: LidarSpec | None = None, radar: RadarSpec | None = None
) -> DetectorSpec:
    sensors = sum(encoder is not None for encoder in (camera, lidar, radar))
    return DetectorSpec(
        grid=_TINY_GRID,
        camera=camera,
        lidar=lidar,
        radar=radar,
        fusion=_TINY_FUSION if sensors > 1 else None,
        neck=_TINY_NECK,
        head=_TINY_HEAD,
    )


PRESETS = {
    "tiny_camera": _tiny(camera=_TINY_CAMERA),
    "tiny_lidar": _tiny(lidar=_TINY_LIDAR),
    "tiny_radar": _tiny(radar=_TINY_RADAR),
    "tiny_camera_lidar": _tiny(camera=_TINY_CAMERA, lidar=_TINY_LIDAR),
    "tiny_camera_radar": _tiny(camera=_TINY_CAMERA, radar=_TINY_RADAR),
}

ENTRY_POINTS = "crossbev.presets"
"""The group of entry points in which an installed package offers detectors by a short name."""


def preset(name: str) -> DetectorSpec:
    """The detector that a study names: a key of PRESETS, an entry point of ENTRY_POINTS, or ``package.module:SPEC``.

    Raises:
        ValueError: There is none of that name; the message says what is allowed.
    """
    return named("preset", name, PRESETS, ENTRY_POINTS, lambda value: isinstance(value, DetectorSpec), "a DetectorSpec")


_TINY_MASKS = InstanceMaskSpec(width=64)
SEGMENTERS = {
    "tiny_segmenter": SegmenterSpec(
        image_size=(160, 288),
        image=ImageSpec(backbone=ResNetSpec(stem_width=16, widths=(24, 48, 96, 128), depths=(1, 1, 1, 1)), channels=64),
        head=_TINY_MASKS,
    ),
    "tiny_segmenter_swin": SegmenterSpec(
        image_size=(160, 288),
        image=ImageSpec(
            backbone=SwinSpec(width=24, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=5, drop_path=0.0), channels=64
        ),
        head=_TINY_MASKS,
    ),
}
"""Image teachers; their images are larger than the tiny cameras', as X3KD's are."""
