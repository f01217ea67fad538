"""DetectorSpec and Detector: sensors to BEV map to boxes, on one screen."""

from dataclasses import replace
from typing import Annotated, ClassVar, Self

from jaxtyping import Float
from pydantic import Tag, model_validator
from torch import Tensor, nn

from detectors.batch import Batch, Inputs
from detectors.encoders.bev_neck import BevNeckSpec
from detectors.encoders.bev_trunk import ResNetFpnTrunkSpec, ResNetUpTrunkSpec
from detectors.encoders.camera import CameraSpec
from detectors.encoders.depth_supervision import batch_depth_targets, depth_loss
from detectors.encoders.fusion import FusionSpec
from detectors.encoders.lidar import LidarSpec
from detectors.encoders.pillars import PillarSpec
from detectors.encoders.radar import RadarSpec
from detectors.encoders.radar_pillars import RadarPillarSpec
from detectors.encoders.second_neck import SecondNeckSpec
from detectors.encoders.voxel_net import VoxelNetSpec
from detectors.geometry.boxes import Boxes
from detectors.geometry.grid import BevFrame, BevGrid
from detectors.heads.center import CenterHeadSpec
from detectors.heads.center_loss import DetectionLoss, center_targets, detection_counts, detection_loss
from detectors.heads.decoding import decode
from detectors.outputs import DetectorOutput, SensorMaps
from detectors.shares import SAMPLES, Shares, samples_count
from detectors.spec import Spec, by_kind

Lidar = Annotated[
    Annotated[LidarSpec, Tag("(sparse)")]
    | Annotated[VoxelNetSpec, Tag("(voxel_net)")]
    | Annotated[PillarSpec, Tag("(pillars)")],
    by_kind("sparse"),
]
Radar = Annotated[Annotated[RadarSpec, Tag("(cells)")] | Annotated[RadarPillarSpec, Tag("(pillars)")], by_kind("cells")]
Neck = Annotated[
    Annotated[BevNeckSpec, Tag("(two_scale)")]
    | Annotated[SecondNeckSpec, Tag("(second)")]
    | Annotated[ResNetFpnTrunkSpec, Tag("(resnet_fpn)")]
    | Annotated[ResNetUpTrunkSpec, Tag("(resnet_up)")],
    by_kind("two_scale"),
]
"""Specs of parts; where none is named, the first of them."""


class DetectorSpec(Spec):
    """One detector: its sensors' encoders, and the neck and the head that all modalities have in common."""

    later: ClassVar[frozenset[str]] = frozenset({"bev_frame"})

    grid: BevGrid
    bev_frame: BevFrame = "ego"
    """The frame of the grid, of the points and camera poses that come in, and of the boxes that come out."""
    camera: CameraSpec | None = None
    lidar: Lidar | None = None
    radar: Radar | None = None
    fusion: FusionSpec | None = None
    """Of two or more sensors; one alone needs none."""
    neck: Neck
    head: CenterHeadSpec

    @model_validator(mode="after")
    def _sensors_and_fusion_agree(self) -> Self:
        names = sorted(self.inputs.sensors)
        if not names:
            raise ValueError("a detector needs a sensor: camera, lidar or radar")
        if (len(names) > 1) != (self.fusion is not None):
            raise ValueError(f"fusion is for detectors with two or more sensors; this one has {', '.join(names)}")
        # The neck's strides bring a finer map to the grid.
        stride = self.neck.stride if isinstance(self.neck, SecondNeckSpec) else 1
        if self.low_per_cell != stride:
            raise ValueError(f"the neck has a stride of {stride:g}; maps before it have {self.low_per_cell} in a cell")
        if self.lidar is not None and 0 < self.lidar.earlier.pool < self.lidar.sweeps - 1:
            drawn = self.lidar.sweeps - 1
            raise ValueError(f"lidar.earlier.pool is {self.lidar.earlier.pool}, from which {drawn} sweeps are drawn")
        if self.low_per_cell > 1 and len(names) > 1:
            raise ValueError(f"lidar.pillars_per_cell is {self.low_per_cell}; maps to be fused need 1")
        return self

    @property
    def low_per_cell(self) -> int:
        """Cells of the low-level map in a cell of the grid, along x and along y."""
        return self.lidar.pillars_per_cell if isinstance(self.lidar, PillarSpec) else 1

    @property
    def inputs(self) -> Inputs:
        """What a batch must carry."""
        return Inputs(
            bev_frame=self.bev_frame,
            image_size=None if self.camera is None else self.camera.image_size,
            keyframes=1 if self.camera is None else self.camera.keyframes,
            lifts=frozenset() if self.camera is None else frozenset({self.camera.lift(self.grid)}),
            lidar_sweeps=0 if self.lidar is None else self.lidar.sweeps,
            lidar_fill=self.lidar is not None and self.lidar.earlier.fill,
            lidar_near=self.lidar is not None and self.lidar.earlier.near,
            radar_sweeps=0 if self.radar is None else self.radar.sweeps,
            radar_states=self.radar is not None and self.radar.states,
        )

    @property
    def training_inputs(self) -> Inputs:
        """What a batch must carry for `Detector.loss`."""
        return replace(
            self.inputs,
            lidar_for_loss=self.camera is not None and self.camera.depth_weight > 0,
            lidar_pool=0 if self.lidar is None else self.lidar.earlier.pool,
        )

    @property
    def sensor_channels(self) -> tuple[int, ...]:
        """Channels of each sensor's BEV map: camera, LiDAR, RADAR, those there are."""
        camera = () if self.camera is None else (self.camera.out_channels,)
        return camera + tuple(encoder.channels for encoder in (self.lidar, self.radar) if encoder is not None)

    @property
    def low_channels(self) -> int:
        """Channels of `DetectorOutput.bev_low`."""
        return self.sensor_channels[0] if self.fusion is None else self.fusion.channels

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of each term of `DetectionLoss`."""
        depth_weight = 0.0 if self.camera is None else self.camera.depth_weight
        return self.head.loss_weights | ({"lidar_depth": depth_weight} if depth_weight else {})

    @property
    def high_channels(self) -> int:
        """Channels of `DetectorOutput.bev_high`."""
        return self.neck.out_channels

    def build(self) -> "Detector":
        """The detector with fresh weights from torch's global random state, which the caller seeds."""
        return Detector(self)


class Detector(nn.Module):
    """A batch to every map and the raw predictions; what these cost, and which boxes they mean."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.camera = None if spec.camera is None else spec.camera.build(spec.grid)
        self.lidar = None if spec.lidar is None else spec.lidar.build(spec.grid)
        self.radar = None if spec.radar is None else spec.radar.build(spec.grid)
        self.fusion = None if spec.fusion is None else spec.fusion.build(spec.sensor_channels)
        self.neck = spec.neck.build(spec.low_channels)
        self.head = spec.head.build(spec.high_channels)

    def forward(self, batch: Batch) -> DetectorOutput:
        """Encode each sensor, fuse, refine, predict."""
        encoded = self.encode(batch)
        bev_high = self.neck(encoded.bev_low)
        return DetectorOutput(**vars(encoded), bev_high=bev_high, head=self.head(bev_high))

    def encode(self, batch: Batch) -> SensorMaps:
        """Encode each sensor and fuse."""
        batch.require(self.spec.inputs.sensors)
        camera = None if self.camera is None else self.camera(batch.views, batch.lifts.get(self.camera.geometry))
        lidar = None if self.lidar is None else self.lidar(batch.lidar, len(batch))
        radar = None if self.radar is None else self.radar(batch.radar, len(batch))
        maps = [bev for bev in (camera and camera.bev, lidar, radar) if bev is not None]
        return SensorMaps(
            image_features=camera and camera.image_features,
            depth=camera and camera.depth,
            camera_bev=camera and camera.bev,
            lidar_bev=lidar,
            radar_bev=radar,
            bev_low=maps[0] if self.fusion is None else self.fusion(maps),
        )

    def loss(self, output: DetectorOutput, batch: Batch, shares: Shares | None = None) -> DetectionLoss:
        """What the output costs against the batch's annotations, and the camera's depths against its LiDAR returns.

        Args:
            output: Of this detector.
            batch: The batch.
            shares: Where it is a part of a batch, those of its `counts`: it is then told what it adds to the losses.
        """
        targets = center_targets(batch.boxes, batch.is_box, self.spec.head, self.spec.grid)
        weights = self.head.loss_weights
        loss = detection_loss(output.head, targets, self.spec.head, self.spec.grid, weights, shares=shares)
        if self.camera is None or not self.spec.training_inputs.lidar_for_loss:
            return loss
        batch.require(frozenset({"camera", "lidar"}))
        assert output.depth is not None
        assert batch.views is not None
        assert batch.lidar is not None
        depth = depth_loss(output.depth, batch.views, batch.lidar, self.camera.geometry)
        return replace(loss, lidar_depth=depth if shares is None else depth * shares["lidar_depth"].squeeze())

    def counts(self, batch: Batch) -> dict[str, Float[Tensor, " means"]]:
        """What `loss` divides by, by the names of its terms; and the number of samples."""
        targets = center_targets(batch.boxes, batch.is_box, self.spec.head, self.spec.grid)
        counts = {SAMPLES: samples_count(len(batch), batch.is_box.device), **detection_counts(targets, self.spec.head)}
        if self.camera is not None and self.spec.training_inputs.lidar_for_loss:
            assert batch.views is not None
            assert batch.lidar is not None
            known = batch_depth_targets(batch.views, batch.lidar, self.camera.geometry) >= 0
            counts["lidar_depth"] = known.sum().float()[None]
        return counts

    def decode(self, output: DetectorOutput) -> list[Boxes]:
        """The boxes found in each sample, best first."""
        return decode(output.head, self.spec.head, self.spec.grid)
