"""Sample and Batch: the input of a detector, and Inputs: the sensors that a detector needs."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from detectors.asynchronous import sent
from detectors.geometry.boxes import Boxes, pad_boxes
from detectors.geometry.grid import BevFrame
from detectors.geometry.lift import LiftGeometry, LiftPlan, join_plans

RADAR_STATES = {"dyn_prop": 8, "ambig_state": 5, "invalid_state": 18, "pdh0": 8}
"""Names in nuScenes' files of the states of a RADAR return, in their order, and how many values each has, from 0 on."""


@dataclass(frozen=True)
class Inputs:
    """What a detector reads of a sample; a sensor that is not mentioned is not read."""

    bev_frame: BevFrame = "ego"
    """The frame that everything of a sample is given in."""
    image_size: tuple[int, int] | None = None
    """Height and width that images are resized and cropped to; None without cameras."""
    lifts: frozenset[LiftGeometry] = frozenset()
    """How the detector carries those images into BEV; these plans come with the sample."""
    keyframes: int = 1
    """Of the cameras: the newest, and the ones before it."""
    lidar_sweeps: int = 0
    """The keyframe's, and the ones before it."""
    lidar_pool: int = 0
    """So many nearest sweeps before the keyframe's come with a sample, of which a training draws those that it sees; 0:
    only as many as `lidar_sweeps` says."""
    lidar_fill: bool = False
    """Whether the oldest sweep is repeated where a scene has too few."""
    lidar_near: bool = False
    """Whether returns within a metre of the sensor stay, of sweeps before the keyframe's."""
    lidar_for_loss: bool = False
    """Whether a loss wants the returns of the LiDAR's keyframe, which the detector itself may not read."""
    radar_sweeps: int = 0
    """Of each RADAR."""
    radar_states: bool = False
    """Whether RADAR returns come with their states (RADAR_STATES), the doubtful ones among them, too."""

    @property
    def sensors(self) -> frozenset[str]:
        """Any of "camera", "lidar", "radar"."""
        asked = {"camera": self.image_size is not None, "lidar": self.lidar_sweeps > 0, "radar": self.radar_sweeps > 0}
        return frozenset(sensor for sensor, wanted in asked.items() if wanted)

    @property
    def lidar_read(self) -> int:
        """Sweeps of the LiDAR that come with a sample."""
        return max(self.lidar_sweeps, int(self.lidar_for_loss), self.lidar_pool and 1 + self.lidar_pool)

    def read_for(self, device: torch.device) -> Self:
        """What a sample has to bring to a device: a GPU makes the plans of lifts itself, in a millisecond."""
        return self if device.type != "cuda" else replace(self, lifts=frozenset())

    def carried_by(self, other: Self) -> Self:
        """The same sensors in the frame of another detector's batches; plans of lifts hold in one frame alone."""
        return replace(self, bev_frame=other.bev_frame, lifts=frozenset())

    def joined(self, other: Self) -> Self:
        """What two detectors need of shared batches; raises ValueError where they want one sensor in two ways."""
        if self.bev_frame != other.bev_frame:
            raise ValueError(f"one detector needs bev_frame {self.bev_frame}, the other {other.bev_frame}")
        values: dict[str, Any] = {
            "bev_frame": self.bev_frame,
            "lifts": self.lifts | other.lifts,  # a batch may carry several plans
            "lidar_for_loss": self.lidar_for_loss or other.lidar_for_loss,
            # One that is trained shows its teacher the sweeps that were drawn for it.
            "lidar_pool": max(self.lidar_pool, other.lidar_pool),
        }
        # Some say nothing of a sensor that is not read.
        of = {
            **{name: name for name in ("image_size", "lidar_sweeps", "radar_sweeps")},
            "keyframes": "image_size",
            "lidar_fill": "lidar_sweeps",
            "lidar_near": "lidar_sweeps",
            "radar_states": "radar_sweeps",
        }
        for name, reads in of.items():
            wanted = [getattr(each, name) for each in (self, other) if getattr(each, reads)]
            if len(set(wanted)) > 1:
                raise ValueError(f"one detector needs {name} {wanted[0]}, the other {wanted[1]}")
            if wanted:
                values[name] = wanted[0]
        return type(self)(**values)


@dataclass(frozen=True)
class CameraViews:
    """The images of one sample (no leading axis) or of a batch (leading axis b), n cameras each."""

    images: UInt8[Tensor, "*b n 3 h w"]
    """RGB, resized and cropped to the detector's input, not normalised."""
    intrinsics: Float[Tensor, "*b n 3 3"]
    """Pixels (column, row, 1) of that input from the camera frame (x right, y down, z forward)."""
    ego_from_camera: Float[Tensor, "*b n 4 4"]
    """BEV frame from the camera frame at the camera's own time: ego motion between the two is included.

    Under augmentation it may also scale and mirror.
    """
    age: Float[Tensor, "*b n"]
    """Seconds from the image to the sample's time; views of earlier keyframes follow those of the newest."""
    from_file: Float[Tensor, "*b n 3 3"] = None  # type: ignore[assignment]
    """Pixels of the input from pixels of the file: how it was resized, cropped and turned. Not given: it was not."""
    moved: Float[Tensor, "*b n 4 4"] = None  # type: ignore[assignment]
    """What augmentation did to the BEV frame: what was at a place p is at ``moved @ p``. Not given: nothing."""

    def __post_init__(self) -> None:
        """Fill in what was not given."""
        for name, like in (("from_file", self.intrinsics), ("moved", self.ego_from_camera)):
            if getattr(self, name) is None:
                same = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device).expand_as(like)
                object.__setattr__(self, name, same)

    @cached_property
    def plans(self) -> dict[LiftGeometry, LiftPlan]:
        """Plans of these views that did not come with the batch, so that detectors that look at it share them."""
        return {}

    def __getitem__(self, index: Any) -> Self:
        """Index every field."""
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device | str) -> Self:
        """The same views on another device."""
        return type(self)(**{f.name: sent(getattr(self, f.name), device) for f in fields(self)})


@dataclass(frozen=True)
class Instances:
    """Instance masks of images (leading axes: those of the images); a pixel belongs to one instance at most."""

    owner: UInt8[Tensor, "*b h w"]
    """One more than the index of the instance that a pixel shows; 0 where it shows none."""
    label: Int[Tensor, "*b m"]
    """Index into CLASSES; -1 for padding."""
    score: Float[Tensor, "*b m"]
    """How sure the teacher is of it, in [0, 1]; 1 for an annotation."""
    count: int | None = None
    """Of all images together, padding left out; None: nobody has counted them."""

    def to(self, device: torch.device | str) -> Self:
        """The same instances on another device."""
        count = self.count
        if count is None and self.label.device.type == "cpu":
            # On a GPU the host would have to wait for the count.
            count = int((self.label >= 0).sum())
        return type(self)(sent(self.owner, device), sent(self.label, device), sent(self.score, device), count)

    def padded(self, count: int) -> Self:
        """The same with room for so many instances an image."""
        more = (0, count - self.label.shape[-1])
        return type(self)(self.owner, F.pad(self.label, more, value=-1), F.pad(self.score, more), self.count)


@dataclass(frozen=True)
class BoxFacts:
    """What is annotated about each box of a sample besides its geometry."""

    attribute: Int[Tensor, " k"]
    """Index into ATTRIBUTES; -1 without one."""
    visibility: Int[Tensor, " k"]
    """nuScenes' level: 1 (up to 40 % visible in the images), 2 (60 %), 3 (80 %), 4; 0 where it is not known."""
    lidar_points: Int[Tensor, " k"]
    """Returns in the box, of the keyframe."""
    radar_points: Int[Tensor, " k"]

    def __getitem__(self, index: Tensor) -> Self:
        """Index or mask every field."""
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True)
class Frames:
    """The BEV frame of one sample (no leading axis) or of each of a batch (leading axis b), among other frames."""

    bev_frame: BevFrame
    """Which frame it was before augmentation."""
    lidar_from_ego: Float[Tensor, "*b 4 4"]
    """From the ego frame to LIDAR_TOP's, both at the time of the LiDAR keyframe: the sensor's mount."""
    moved: Float[Tensor, "*b 4 4"]
    """What augmentation did: a place p of the BEV frame is at ``moved @ p`` since."""

    def to(self, device: torch.device | str) -> Self:
        """The same frames on another device."""
        return replace(self, lidar_from_ego=sent(self.lidar_from_ego, device), moved=sent(self.moved, device))


@dataclass(frozen=True)
class Sample:
    """One keyframe. Sensors that were not asked for are None."""

    token: str
    views: CameraViews | None
    lidar: Float[Tensor, "p 5"] | None
    """LiDAR returns in the BEV frame: x, y, z (m), intensity in [0, 1], age (s)."""
    radar: Float[Tensor, "r _"] | None
    """RADAR returns in the BEV frame: x, y, z (m), RCS (dBsm), velocity along x and y (m/s), age (s); and RADAR_STATES
    if they were asked for.

    The velocity is the measured radial one, with the ego motion taken out.
    """
    boxes: Boxes
    """Annotations in the BEV frame."""
    facts: BoxFacts | None = None
    """Of the same boxes; None where they were not annotated."""
    lifts: Mapping[LiftGeometry, LiftPlan] = field(default_factory=dict)
    """How these views fall into BEV, as far as it is known already."""
    instances: Instances | None = None
    """What an image teacher sees in the views; leading axis n. None where nobody asked it."""
    frames: Frames | None = None
    """Where the BEV frame of this sample lies; None where nobody asks."""


@dataclass(frozen=True)
class Points:
    """Returns of a sensor in a batch, those of all samples one after the other."""

    values: Float[Tensor, "p c"]
    """Columns as in `Sample`."""
    sample: Int[Tensor, " p"]
    """Which sample a return belongs to."""
    lengths: tuple[int, ...] | None = None
    """Returns of each sample; None: nobody has counted them."""

    @cached_property
    def derived(self) -> dict[Hashable, Any]:
        """What encoders work out from the points alone, so that those that look at the same batch share it."""
        return {}

    def to(self, device: torch.device | str) -> Self:
        """The same points on another device."""
        lengths = self.lengths
        if lengths is None and self.sample.device.type == "cpu":
            # On a GPU the host would have to wait for the count.
            lengths = tuple(self.sample.bincount().tolist())
        return type(self)(sent(self.values, device), sent(self.sample, device), lengths)

    def of_samples(self, count: int) -> list[Float[Tensor, "_ c"]]:
        """The returns of each of so many samples."""
        lengths = self.lengths or tuple(self.sample.bincount().tolist())
        return list(self.values.split((*lengths, *(0,) * (count - len(lengths)))))


@dataclass(frozen=True)
class Batch:
    """b samples, collated."""

    tokens: tuple[str, ...]
    views: CameraViews | None
    lidar: Points | None
    radar: Points | None
    boxes: Boxes
    """Annotations, padded to ``[b, k]``."""
    is_box: Bool[Tensor, "b k"]
    """False where ``boxes`` is padding."""
    lifts: Mapping[LiftGeometry, LiftPlan] = field(default_factory=dict)
    """Plans for all samples."""
    instances: Instances | None = None
    """Leading axes b n, padded."""
    draws: tuple[int, ...] = ()
    """Seed of each sample's augmentation; empty if nobody drew any."""
    frames: Frames | None = None
    """Leading axis b."""

    def __len__(self) -> int:
        """Samples in the batch."""
        return len(self.tokens)

    def require(self, sensors: frozenset[str]) -> None:
        """Raise ValueError where one of these sensors is not in the batch."""
        carried = {"camera": self.views, "lidar": self.lidar, "radar": self.radar}
        missing = sorted(sensor for sensor in sensors if carried[sensor] is None)
        if missing:
            raise ValueError(f"the batch has no {' and no '.join(missing)}")

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        return replace(
            self,
            views=self.views and self.views.to(device),
            lidar=self.lidar and self.lidar.to(device),
            radar=self.radar and self.radar.to(device),
            boxes=self.boxes.to(device),
            is_box=sent(self.is_box, device),
            lifts={geometry: plan.to(device) for geometry, plan in self.lifts.items()},
            instances=self.instances and self.instances.to(device),
            frames=self.frames and self.frames.to(device),
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples to a batch; all of them carry the same sensors, or it raises ValueError naming one that does not."""
    for sensor in ("views", "lidar", "radar", "instances", "frames"):
        for sample in samples:
            if (getattr(sample, sensor) is None) != (getattr(samples[0], sensor) is None):
                raise ValueError(f"only one of the samples {samples[0].token} and {sample.token} has {sensor}")
    views = [sample.views for sample in samples if sample.views is not None]
    for sample, seen in zip(samples, views, strict=False):
        if seen.images.shape != views[0].images.shape:
            raise ValueError(
                f"sample {sample.token} has {_shape(seen)}, sample {samples[0].token} has {_shape(views[0])}: "
                "all samples of a batch need the same number and size of images"
            )
    boxes, is_box = pad_boxes([sample.boxes for sample in samples])
    return Batch(
        tokens=tuple(sample.token for sample in samples),
        views=CameraViews(**{f.name: torch.stack([getattr(v, f.name) for v in views]) for f in fields(CameraViews)})
        if views
        else None,
        lidar=_points([sample.lidar for sample in samples]),
        radar=_points([sample.radar for sample in samples]),
        boxes=boxes,
        is_box=is_box,
        lifts={which: join_plans([sample.lifts[which] for sample in samples]) for which in samples[0].lifts},
        instances=stack_instances([sample.instances for sample in samples if sample.instances is not None]),
        frames=_stack_frames([sample.frames for sample in samples if sample.frames is not None]),
    )


def _stack_frames(each: Sequence[Frames]) -> Frames | None:
    if not each:
        return None
    matrices = (torch.stack([getattr(one, name) for one in each]) for name in ("lidar_from_ego", "moved"))
    return Frames(each[0].bev_frame, *matrices)


def stack_instances(each: Sequence[Instances]) -> Instances | None:
    """Instances of images of one size, stacked and padded to the most there are; None of nothing."""
    if not each:
        return None
    most = max(one.label.shape[-1] for one in each)
    padded = [one.padded(most) for one in each]
    owner, label, score = (torch.stack([getattr(one, name) for one in padded]) for name in ("owner", "label", "score"))
    return Instances(owner, label, score)


def _shape(views: CameraViews) -> str:
    n, _, h, w = views.images.shape
    return f"{n} images of {h}x{w} pixels"


def _points(clouds: list[Tensor | None]) -> Points | None:
    present = [cloud for cloud in clouds if cloud is not None]
    if not present:
        return None
    sample = torch.cat([torch.full((len(cloud),), i) for i, cloud in enumerate(present)])
    return Points(torch.cat(present), sample, tuple(map(len, present)))


@dataclass(frozen=True)
class ImageBatch:
    """v annotated images for a segmenter, of one size."""

    tokens: tuple[str, ...]
    images: UInt8[Tensor, "v 3 h w"]
    """RGB, not normalised."""
    instances: Instances
    """Leading axis v."""

    def __len__(self) -> int:
        """Images in the batch."""
        return len(self.tokens)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        return replace(self, images=sent(self.images, device), instances=self.instances.to(device))
