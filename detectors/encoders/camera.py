"""Camera encoder: images to features, features to depths, both to a BEV map."""

from dataclasses import dataclass
from typing import Self

import torch
from einops import pack, rearrange, unpack
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from detectors.batch import CameraViews
from detectors.conv_block import conv_norm_relu
from detectors.encoders.image import STRIDE, ImageSpec
from detectors.encoders.view_transform import splat
from detectors.geometry.grid import BevGrid
from detectors.geometry.lift import LiftGeometry, LiftPlan, join_plans
from detectors.spec import Spec


class CameraSpec(Spec):
    """An image encoder and the depth bins along which its features are lifted."""

    later = frozenset({"keyframes"})

    image_size: tuple[int, int]
    """Height and width of the input images, multiples of 8."""
    image: ImageSpec
    depth_range: tuple[float, float]
    """Along the optical axis, metres."""
    depth_bins: int = Field(ge=1)
    channels: int
    """Channels of the BEV map."""
    keyframes: int = Field(default=1, ge=1, le=8)
    """The newest and the ones before it: their features are lifted into the present BEV frame, each keyframe's into a
    map of its own, and the maps are put together."""

    @model_validator(mode="after")
    def _size_and_depths_are_possible(self) -> Self:
        if any(side < STRIDE or side % STRIDE for side in self.image_size):
            raise ValueError(f"image_size {self.image_size} is not in whole multiples of {STRIDE}")
        if not 0 < self.depth_range[0] < self.depth_range[1]:
            raise ValueError(f"depth_range {self.depth_range} is not positive and increasing")
        return self

    def lift(self, grid: BevGrid) -> LiftGeometry:
        """Where its features may land."""
        height, width = self.image_size
        return LiftGeometry(
            grid=grid,
            feature_size=(height // STRIDE, width // STRIDE),
            stride=STRIDE,
            depth_range=self.depth_range,
            depth_bins=self.depth_bins,
            keyframes=self.keyframes,
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
        self.lift = nn.Conv2d(spec.image.channels, spec.depth_bins + spec.channels, 1)
        self.split = [spec.depth_bins, spec.channels]
        # As BEVDepth and X3KD's student join two keyframes. They warp the older map by the ego motion; a view's pose
        # has that motion in it, so that here every map is in the present frame as soon as it is made, and exactly so.
        joined = spec.keyframes * spec.channels
        self.join = None if spec.keyframes == 1 else conv_norm_relu(joined, spec.channels)

    def forward(self, views: CameraViews, plan: LiftPlan | None = None) -> CameraMaps:
        """All maps of a batch of views; without its plan, which the loader makes ahead, it is made here."""
        images, packed = pack([views.images], "* c h w")
        features = self.image(images)
        depth_logits, context = self.lift(features).split(self.split, dim=1)
        depth = torch.softmax(depth_logits, dim=1)
        features, depth, context = (unpack(maps, packed, "* c h w")[0] for maps in (features, depth, context))
        maps = splat(context, depth, plan or self._plan(views), self.geometry.grid)
        bev = rearrange(maps, "(b keyframes) c y x -> b (keyframes c) y x", keyframes=self.geometry.keyframes)
        return CameraMaps(features, depth, bev if self.join is None else self.join(bev))

    def _plan(self, views: CameraViews) -> LiftPlan:
        plans = [self.geometry.plan(*sample) for sample in zip(views.intrinsics, views.ego_from_camera, strict=True)]
        return join_plans(plans)
