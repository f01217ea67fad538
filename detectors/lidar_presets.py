"""Detectors of the papers with a LiDAR, a RADAR or several sensors, at full size, and where their values come from."""

from detectors.camera_presets import BF, OURS, RESNET_50, TORCHVISION, UD, UNIDISTILL_CAMERA, UNIDISTILL_GRID
from detectors.detector import DetectorSpec
from detectors.encoders.bev_trunk import ResNetUpTrunkSpec
from detectors.encoders.camera import CameraSpec
from detectors.encoders.depth_net import PlainDepthSpec
from detectors.encoders.fusion import FusionSpec
from detectors.encoders.image import ImageSpec, SwinSpec
from detectors.encoders.image_neck import SecondFpnSpec
from detectors.encoders.pillars import PillarSpec
from detectors.encoders.radar_pillars import RadarPillarSpec
from detectors.encoders.second_neck import SecondNeckSpec
from detectors.encoders.voxel_net import VoxelNetSpec
from detectors.geometry.grid import BevGrid
from detectors.heads.center import BOX_CODE, CenterHeadSpec, TaskDecodingSpec
from detectors.sweeps import SweepSpec

MM = "MM"
"""open-mmlab/mmdetection3d@fe25f7a (v1.4), configs/centerpoint and what they inherit."""
CP = "CP"
"""tianweiy/CenterPoint@3cf7d87, configs/nusc/voxelnet."""

# Of the ten sweeps before a keyframe that its files name, nine.
_DRAWN = SweepSpec(pool=10)

_NEAR = BevGrid(x_range=(-51.2, 51.2), y_range=(-51.2, 51.2), z_range=(-5.0, 3.0), cell=0.8)
_FAR = UNIDISTILL_GRID

_SECOND = SecondNeckSpec(widths=(128, 256), strides=(1, 2), convs=(6, 6), up_widths=(256, 256), up_factors=(1.0, 2.0))
_SECOND_OF_PILLARS = SecondNeckSpec(
    widths=(64, 128, 256), strides=(2, 2, 2), convs=(4, 6, 6), up_widths=(128, 128, 128), up_factors=(0.5, 1.0, 2.0)
)
# A bias of -2.19 before a sigmoid is a probability of 0.1.
_CENTERPOINT_HEAD = CenterHeadSpec(
    width=64,
    branches="separate",
    average="task",
    prior=0.1,
    box_weight=0.25,
    min_overlap=0.1,
    min_radius_cells=2,
    max_boxes=500,
    decoding=TaskDecodingSpec(score_threshold=0.1, before=1000, after=83),
)
_VELOCITY_COUNTS_FULLY = {"code_weights": (1.0,) * len(BOX_CODE)}

# Its configuration has a weight of 0.25 for boxes, which its head does not read: the weights are learned.
_UNIDISTILL_HEAD = CenterHeadSpec(
    width=64,
    branches="separate",
    bias=True,
    iou=True,
    targets="nearest",
    average="task",
    learned_weights=True,
    heatmap_weight=1.0,
    box_weight=1.0,
    overlap_weight=5.0,
    prior=0.1,
    max_boxes=500,
    decoding=TaskDecodingSpec(
        score_threshold=0.1,
        iou_power=0.65,
        before=1500,
        after=100,
        overlap=(0.1, 0.1, 0.1, 0.1, 0.1, 0.1),
    ),
)
_UNIDISTILL_LIDAR = VoxelNetSpec(most_voxels=(120_000, 160_000), bias=True, earlier=SweepSpec(fill=True, near=True))

_RADAR = RadarPillarSpec()
_RADAR_TRUNK = ResNetUpTrunkSpec(widths=(128, 256, 512), depths=(2, 2, 2), strides=(2, 2, 2), channels=256)
_RADAR_HEAD = _CENTERPOINT_HEAD.model_copy(update=_VELOCITY_COUNTS_FULLY)

LIDAR_PRESETS = {
    "centerpoint_pillar02": DetectorSpec(
        grid=_NEAR, bev_frame="lidar", lidar=PillarSpec(earlier=_DRAWN), neck=_SECOND_OF_PILLARS, head=_CENTERPOINT_HEAD
    ),
    "centerpoint_voxel01": DetectorSpec(
        grid=_NEAR, bev_frame="lidar", lidar=VoxelNetSpec(earlier=_DRAWN), neck=_SECOND, head=_CENTERPOINT_HEAD
    ),
    "centerpoint_voxel0075": DetectorSpec(
        grid=_FAR,
        bev_frame="lidar",
        lidar=VoxelNetSpec(most_voxels=(120_000, 160_000), earlier=_DRAWN),
        neck=_SECOND,
        head=_CENTERPOINT_HEAD,
    ),
    "unidistill_camera": DetectorSpec(
        grid=UNIDISTILL_GRID, bev_frame="lidar", camera=UNIDISTILL_CAMERA, neck=_SECOND, head=_UNIDISTILL_HEAD
    ),
    "unidistill_lidar": DetectorSpec(
        grid=UNIDISTILL_GRID, bev_frame="lidar", lidar=_UNIDISTILL_LIDAR, neck=_SECOND, head=_UNIDISTILL_HEAD
    ),
    "unidistill_camera_lidar": DetectorSpec(
        grid=UNIDISTILL_GRID,
        bev_frame="lidar",
        camera=UNIDISTILL_CAMERA,
        lidar=_UNIDISTILL_LIDAR,
        fusion=FusionSpec(channels=256, kernel=3, normed=False, gate="channel"),
        neck=_SECOND,
        head=_UNIDISTILL_HEAD,
    ),
    # With CenterPoint's head: BEVFusion's own has queries instead of heatmaps.
    "bevfusion_camera_lidar": DetectorSpec(
        grid=_FAR,
        bev_frame="lidar",
        camera=CameraSpec(
            image_size=(256, 704),
            image=ImageSpec(
                backbone=SwinSpec(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7, drop_path=0.2),
                channels=256,
            ),
            depth_range=(1.0, 60.0),
            depth_bins=118,
            channels=80,
            depth_net=PlainDepthSpec(),
            frustum="lift_splat",
        ),
        lidar=VoxelNetSpec(most_voxels=(120_000, 160_000)),
        fusion=FusionSpec(channels=256, kernel=3, normed=False),
        neck=_SECOND,
        head=_CENTERPOINT_HEAD,
    ),
    "radar_pillar": DetectorSpec(grid=_NEAR, bev_frame="lidar", radar=_RADAR, neck=_RADAR_TRUNK, head=_RADAR_HEAD),
    "camera_radar": DetectorSpec(
        grid=_NEAR.model_copy(update={"z_range": (-10.0, 10.0)}),
        bev_frame="lidar",
        camera=CameraSpec(
            image_size=(256, 704),
            image=ImageSpec(backbone=RESNET_50, channels=512, neck=SecondFpnSpec(stride=16)),
            depth_range=(1.0, 60.0),
            depth_bins=59,
            channels=64,
            depth_net=PlainDepthSpec(),
            frustum="lift_splat",
        ),
        radar=_RADAR,
        fusion=FusionSpec(channels=64, kernel=3, normed=False),
        neck=_RADAR_TRUNK,
        head=_RADAR_HEAD,
    ),
}
"""Detectors by name."""

_BY_CLASS = {f"head.{field}": OURS for field in ("score_threshold", "nms", "nms_radius", "nms_overlap")}
"""Fields that decoding task by task does not read."""
_CENTERPOINT = {**dict.fromkeys(("grid", "bev_frame", "lidar", "neck", "head"), MM), **_BY_CLASS}
_UNIDISTILL = {**dict.fromkeys(("grid", "bev_frame", "camera", "lidar", "fusion", "neck", "head"), UD), **_BY_CLASS}
_UNIDISTILL |= {"head.min_overlap": OURS, "head.min_radius_cells": OURS, "camera.image.backbone": TORCHVISION}
_RADARS = {
    **dict.fromkeys(("grid", "bev_frame", "camera", "radar", "fusion", "head"), BF),
    **_BY_CLASS,
    "camera.image.backbone": TORCHVISION,
    "camera.frustum": OURS,
    "neck": OURS,
}

LIDAR_SOURCES = {
    "centerpoint_pillar02": _CENTERPOINT,
    "centerpoint_voxel01": _CENTERPOINT,
    "centerpoint_voxel0075": {**_CENTERPOINT, "lidar.most_voxels": CP},
    "unidistill_camera": _UNIDISTILL,
    "unidistill_lidar": _UNIDISTILL,
    "unidistill_camera_lidar": _UNIDISTILL,
    "bevfusion_camera_lidar": {
        **dict.fromkeys(("grid", "bev_frame", "camera", "lidar", "fusion", "neck"), BF),
        # BEVFusion joins LiDAR depths to its image features, and halves the resolution of the camera's BEV map.
        "camera.depth_net": OURS,
        "camera.image": OURS,
        "camera.image.backbone": BF,
        "camera.frustum": OURS,
        "head": MM,
        **_BY_CLASS,
    },
    "radar_pillar": _RADARS,
    "camera_radar": _RADARS,
}
"""Of each preset, the source of each field and of all below it that are not named themselves."""
