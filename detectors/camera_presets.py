"""Camera detectors of the papers at full size, and where each value of theirs comes from."""

from detectors.detector import DetectorSpec
from detectors.encoders.bev_trunk import ResNetFpnTrunkSpec, ResNetUpTrunkSpec
from detectors.encoders.camera import CameraSpec
from detectors.encoders.depth_net import CameraAwareDepthSpec, PlainDepthSpec
from detectors.encoders.fusion import FusionSpec
from detectors.encoders.image import ImageSpec
from detectors.encoders.image_neck import FpnSpec, SecondFpnSpec
from detectors.encoders.radar_pillars import RadarPillarSpec
from detectors.encoders.resnet import ResNetSpec
from detectors.geometry.boxes import CLASSES
from detectors.geometry.grid import BevGrid
from detectors.heads.center import BOX_CODE, CenterHeadSpec, TaskDecodingSpec

BD = "BD"
"""HuangJunJie2017/BEVDet@1bacecb, configs/bevdet/bevdet-r50.py and the modules that it names."""
BDP = "BDp"
"""Megvii-BaseDetection/BEVDepth@d78c7b5, exps/nuscenes and layers/backbones/base_lss_fpn.py."""
UD = "UD"
"""megvii-research/CVPR2023-UniDistill@32f02b4, base_nuscenes_cfg.py and the camera experiments."""
BF = "BF"
"""mit-han-lab/bevfusion@326653d, configs/nuscenes/det."""
X3KD = "X3KD"
"""Klingner et al., CVPR 2023: image sizes, backbones, two keyframes; what its body says of the rest is not known."""
TORCHVISION = "torchvision"
"""torchvision's resnet50 and resnet101."""
OURS = "ours"

RESNET_50 = ResNetSpec(stem_width=64, widths=(256, 512, 1024, 2048), depths=(3, 4, 6, 3), block="bottleneck")
RESNET_101 = RESNET_50.model_copy(update={"depths": (3, 4, 23, 3)})
_FROZEN_STEM = {"frozen_stem": True}

_GRID = BevGrid(x_range=(-51.2, 51.2), y_range=(-51.2, 51.2), z_range=(-5.0, 3.0), cell=0.8)


def _code_weights(velocity: float) -> tuple[float, ...]:
    return tuple(velocity if name.startswith("velocity") else 1.0 for name in BOX_CODE)


def _head(velocity_weight: float, decoding: TaskDecodingSpec) -> CenterHeadSpec:
    """CenterPoint's head as mmdetection3d has it."""
    return CenterHeadSpec(
        width=64,
        branches="separate",
        average="task",
        prior=0.1,
        box_weight=0.25,
        min_overlap=0.1,
        min_radius_cells=2,
        code_weights=_code_weights(velocity_weight),
        decoding=decoding,
    )


_SCALES = {
    "truck": 0.7,
    "construction_vehicle": 0.7,
    "bus": 0.4,
    "trailer": 0.55,
    "barrier": 1.1,
    "pedestrian": 4.5,
    "traffic_cone": 9.0,
}
_BEVDET_R50 = DetectorSpec(
    grid=_GRID.model_copy(update={"z_range": (-10.0, 10.0)}),
    bev_frame="lidar",
    camera=CameraSpec(
        image_size=(256, 704),
        image=ImageSpec(backbone=RESNET_50, channels=512, neck=FpnSpec()),
        depth_range=(1.0, 60.0),
        depth_bins=59,
        channels=64,
        depth_net=PlainDepthSpec(),
        frustum="lift_splat",
    ),
    neck=ResNetUpTrunkSpec(widths=(128, 256, 512), depths=(2, 2, 2), strides=(2, 2, 2), channels=256),
    head=_head(
        velocity_weight=0.2,
        decoding=TaskDecodingSpec(
            score_threshold=0.1,
            before=1000,
            after=83,
            nms=("rotated", "rotated", "rotated", "circle", "rotated", "rotated"),
            overlap=(0.2, 0.2, 0.2, 0.2, 0.2, 0.5),
            scale=tuple(_SCALES.get(name, 1.0) for name in CLASSES),
        ),
    ),
)


def _bevdepth(
    backbone: ResNetSpec = RESNET_50,
    image_size: tuple[int, int] = (256, 704),
    keyframes: int = 1,
    depth_weight: float = 3.0,
    aggregation: bool = False,
) -> DetectorSpec:
    return DetectorSpec(
        grid=_GRID,
        camera=CameraSpec(
            image_size=image_size,
            image=ImageSpec(
                backbone=backbone.model_copy(update=_FROZEN_STEM), channels=512, neck=SecondFpnSpec(stride=16)
            ),
            depth_range=(2.0, 58.0),
            depth_bins=112,
            channels=80,
            keyframes=keyframes,
            keyframe_join="concatenation",
            history_gradient=False,
            depth_net=CameraAwareDepthSpec(width=512),
            depth_weight=depth_weight,
            aggregation=aggregation,
            frustum="lift_splat",
        ),
        neck=ResNetFpnTrunkSpec(
            stem_width=160, widths=(160, 320, 640), depths=(2, 2, 2), strides=(1, 2, 2), up_width=64
        ),
        head=_head(
            velocity_weight=0.5 if keyframes == 1 else 1.0,
            decoding=TaskDecodingSpec(
                score_threshold=0.1,
                before=1000,
                after=83,
                nms=("circle", "circle", "circle", "circle", "circle", "circle"),
            ),
        ),
    )


def _x3kd(backbone: ResNetSpec, image_size: tuple[int, int]) -> DetectorSpec:
    """BEVDepth's network with two keyframes; X3KD finds that supervision of depths adds little, and has none."""
    return _bevdepth(backbone, image_size, keyframes=2, depth_weight=0.0)


_X3KD_R50 = _x3kd(RESNET_50, (256, 704))

UNIDISTILL_GRID = BevGrid(x_range=(-54.0, 54.0), y_range=(-54.0, 54.0), z_range=(-5.0, 3.0), cell=0.6)
UNIDISTILL_CAMERA = CameraSpec(
    image_size=(256, 704),
    image=ImageSpec(backbone=RESNET_50.model_copy(update=_FROZEN_STEM), channels=512, neck=SecondFpnSpec(stride=16)),
    depth_range=(2.0, 58.0),
    depth_bins=112,
    channels=256,
    depth_net=PlainDepthSpec(),
    frustum="lift_splat",
)
"""The camera of UniDistill's detectors: 25,663,920 parameters."""

CAMERA_PRESETS = {
    "bevdet_r50": _BEVDET_R50,
    "bevdepth_r50": _bevdepth(),
    "bevdepth_r50_2key": _bevdepth(keyframes=2),
    "bevdepth_r50_2key_da": _bevdepth(keyframes=2, aggregation=True),
    "bevdepth_r50_4key": _bevdepth(keyframes=4),
    "bevdepth_r50_512x1408": _bevdepth(image_size=(512, 1408), keyframes=2),
    "x3kd_r50": _X3KD_R50,
    "x3kd_r101_640x1600": _x3kd(RESNET_101, (640, 1600)),
    "x3kd_camera_radar": _X3KD_R50.model_copy(
        update={
            "radar": RadarPillarSpec(),
            # As wide as the camera's map, so that the trunk is that of the camera alone.
            "fusion": FusionSpec(channels=160, kernel=3, normed=False),
        }
    ),
}
"""Detectors with a camera by name."""

_BEVDET_SOURCES = {
    "grid": BD,
    "bev_frame": BD,
    "camera": BD,
    "camera.image.backbone": TORCHVISION,
    "camera.image.backbone.frozen_stem": BD,
    "neck": BD,
    "head": BD,
    "head.score_threshold": OURS,
    "head.max_boxes": OURS,
    "head.nms": OURS,
    "head.nms_radius": OURS,
    "head.nms_overlap": OURS,
}
_BEVDEPTH_SOURCES = {
    **dict.fromkeys(("grid", "bev_frame", "camera", "neck", "head"), BDP),
    "camera.image.backbone": TORCHVISION,
    "camera.image.backbone.frozen_stem": BDP,
    **{field: OURS for field, source in _BEVDET_SOURCES.items() if source == OURS},
}
_X3KD_SOURCES = {
    # BEVDepth's wherever the paper's body, which is not known here, would have to say.
    **_BEVDEPTH_SOURCES,
    "camera.image_size": X3KD,
    "camera.image.backbone": X3KD,
    "camera.keyframes": X3KD,
    "camera.depth_weight": X3KD,
}
CAMERA_SOURCES = {
    "bevdet_r50": _BEVDET_SOURCES,
    **{name: _BEVDEPTH_SOURCES for name in CAMERA_PRESETS if name.startswith("bevdepth")},
    **{name: _X3KD_SOURCES for name in CAMERA_PRESETS if name.startswith("x3kd")},
    "x3kd_camera_radar": {**_X3KD_SOURCES, "radar": BF, "fusion": OURS},
}
"""Of each preset, the source of each field and of all below it that are not named themselves."""
