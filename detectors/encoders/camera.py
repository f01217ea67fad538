"""Camera encoder: images to features, features to depths, both to a BEV map."""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from einops import pack, rearrange, unpack
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from detectors.batch import CameraViews
from detectors.conv_block import conv_norm_relu
from detectors.encoders.depth_aggregation import DepthAggregation
from detectors.encoders.depth_net import CameraAwareDepthNet, DepthNetSpec, PlainDepthSpec, calibration_numbers
from detectors.encoders.image import ImageSpec
from detectors.encoders.view_transform import splat, splat_frustum
from detectors.geometry.grid import BevGrid
from detectors.geometry.lift import Frustum, LiftGeometry, LiftPlan
from detectors.precision import unrounded
from detectors.spec import Spec


class CameraSpec(Spec):
    """An image encoder and the depth bins along which its features are lifted."""

    later = frozenset(
        {"keyframes", "keyframe_join", "history_gradient", "depth_net", "depth_weight", "aggregation", "frustum"}
    )

    image_size: tuple[int, int]
    """Height and width of the input images, whole multiples of what the image neck asks for."""
    image: ImageSpec
    depth_range: tuple[float, float]
    """Along the optical axis, metres."""
    depth_bins: int = Field(ge=1)
    channels: int
    """Channels of the BEV map, or where keyframes are concatenated, of the map of each."""
    keyframes: int = Field(default=1, ge=1, le=8)
    """The newest and the ones before it: their features are lifted into the present BEV frame, each keyframe's into a
    map of its own, and the maps are put together."""
    keyframe_join: Literal["convolution", "concatenation"] = "convolution"
    """How the maps of several keyframes are put together: by a convolution to as many channels as one has, or one after
    the other, as BEVDepth does."""
    history_gradient: bool = True
    """Whether what earlier keyframes show is learned from, too; BEVDepth looks at each without gradient, on its own."""
    depth_net: DepthNetSpec = PlainDepthSpec()
    """What predicts the depths, and the features that are lifted."""
    depth_weight: float = Field(default=0.0, ge=0)
    """Weight of the depth loss (`depth_supervision.py`), for which a training needs LiDAR points; 0: none."""
    aggregation: bool = False
    """Whether lifted features are refined before they are summed (`depth_aggregation.py`)."""
    frustum: Frustum = "middles"

    @model_validator(mode="after")
    def _size_and_depths_are_possible(self) -> Self:
        self.image.require_size(self.image_size)
        if not 0 < self.depth_range[0] < self.depth_range[1]:
            raise ValueError(f"depth_range {self.depth_range} is not positive and increasing")
        return self

    @property
    def out_channels(self) -> int:
        """Channels of the BEV map."""
        return self.channels * (self.keyframes if self.keyframe_join == "concatenation" else 1)

    def lift(self, grid: BevGrid) -> LiftGeometry:
        """Where its features may land."""
        (height, width), stride = self.image_size, self.image.stride
        return LiftGeometry(
            grid=grid,
            feature_size=(height // stride, width // stride),
            stride=stride,
            depth_range=self.depth_range,
            depth_bins=self.depth_bins,
            keyframes=self.keyframes,
            frustum=self.frustum,
        )

    def build(self, grid: BevGrid) -> "CameraEncoder":
        """The encoder with fresh weights."""
        return CameraEncoder(self, grid)


@dataclass(frozen=True)
class CameraMaps:
    """What the camera encoder knows before and after the view transform."""

    image_features: Float[Tensor, "b n c_image h w"]
    depth: Float[Tensor, "b n d h w"]
    bev: Float[Tensor, "b c y x"]


class CameraEncoder(nn.Module):
    """Views to a BEV map; a cell that no ray crosses is exactly zero."""

    def __init__(self, spec: CameraSpec, grid: BevGrid) -> None:
        super().__init__()
        self.geometry = spec.lift(grid)
        self.image = spec.image.build()
        # Depth logits first, then what is lifted.
        self.lift = spec.depth_net.build(spec.image.channels, spec.depth_bins, spec.channels)
        self.split = [spec.depth_bins, spec.channels]
        self.aggregation = DepthAggregation(spec.channels) if spec.aggregation else None
        # As BEVDepth and X3KD's student join two keyframes. They warp the older map by the ego motion; a view's pose
        # has that motion in it, so that here every map is in the present frame as soon as it is made, and exactly so.
        joined = spec.keyframes * spec.channels
        convolved = spec.keyframes > 1 and spec.keyframe_join == "convolution"
        self.join = conv_norm_relu(joined, spec.channels) if convolved else None
        self.history_gradient = spec.history_gradient

    def forward(self, views: CameraViews, plan: LiftPlan | None = None) -> CameraMaps:
        """All maps of a batch of views; without its plan, which the loader makes ahead for a CPU, it is made here."""
        plan = plan or self._plan(views)
        keyframes, grid = self.geometry.keyframes, self.geometry.grid
        aware = isinstance(self.lift, CameraAwareDepthNet)
        numbers = calibration_numbers(views, keyframes) if aware else None
        lift = self._lifted if self.history_gradient else self._lifted_in_turn
        features, depth, lifted = lift(views.images, numbers)
        maps = splat(lifted, depth, plan, grid) if self.aggregation is None else splat_frustum(lifted, plan, grid)
        bev = rearrange(maps, "(b keyframes) c y x -> b (keyframes c) y x", keyframes=keyframes)
        return CameraMaps(features, depth, bev if self.join is None else self.join(bev))

    def _lifted_in_turn(self, images: Tensor, calibration: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """`_lifted`, the newest keyframe first and by itself, then each earlier one without gradient."""
        count = self.geometry.keyframes
        numbers = [None] * count if calibration is None else calibration.chunk(count, dim=1)
        newest, *earlier = zip(images.chunk(count, dim=1), numbers, strict=True)
        maps = [self._lifted(*newest)]
        with torch.no_grad():
            maps += [self._lifted(*each) for each in earlier]
        features, depth, lifted = (torch.cat(each, dim=1) for each in zip(*maps, strict=True))
        return features, depth, lifted

    def _lifted(self, images: Tensor, calibration: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Image features, probabilities of depth bins, and what is lifted: ``[b, n, ..., h, w]`` each.

        What is lifted are features of the images or, where they are refined along depth, of the frustum.
        """
        views, packed = pack([images], "* c h w")
        features = self.image(views)
        numbers = None if calibration is None else rearrange(calibration, "b n numbers -> (b n) numbers")
        depth_logits, context = self.lift(features, numbers).split(self.split, dim=1)
        with unrounded(depth_logits):
            depth = torch.softmax(depth_logits.to(torch.promote_types(depth_logits.dtype, torch.float32)), dim=1)
        features, depth, context = (unpack(maps, packed, "* c h w")[0] for maps in (features, depth, context))
        return features, depth, context if self.aggregation is None else self.aggregation(context, depth)

    def _plan(self, views: CameraViews) -> LiftPlan:
        if self.geometry not in views.plans:
            views.plans[self.geometry] = self.geometry.batch_plan(views.intrinsics, views.ego_from_camera)
        return views.plans[self.geometry]
