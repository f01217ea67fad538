"""Depth nets: features of an image to logits of its depth bins and to the context that is lifted along them."""

from typing import Annotated, Literal

import torch
import torch.nn as nn
from einops import rearrange, repeat
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from detectors.batch import CameraViews
from detectors.conv_block import conv_norm_relu
from detectors.encoders.deformable import DeformableConv
from detectors.encoders.resnet import BasicBlock
from detectors.precision import unrounded
from detectors.spec import Spec

CALIBRATION = 27
"""Numbers that say of a view how its camera hangs and how its image was changed."""


class PlainDepthSpec(Spec):
    """One 1x1 convolution, as in Lift-Splat (Philion and Fidler, 2020), BEVDet and UniDistill."""

    kind: Literal["plain"] = "plain"

    def build(self, inputs: int, bins: int, channels: int) -> "PlainDepthNet":
        """The net of so many input channels, depth bins and channels of context."""
        return PlainDepthNet(inputs, bins + channels, 1)


class CameraAwareDepthSpec(Spec):
    """BEVDepth's depth net (Li et al., AAAI 2023), whose channels the calibration of the camera weighs."""

    kind: Literal["camera_aware"] = "camera_aware"
    width: PositiveInt = 512
    """Channels inside."""
    blocks: int = Field(default=3, ge=0)
    """Residual blocks of the depth branch."""
    dilations: tuple[PositiveInt, ...] = (6, 12, 18)
    """Of the 3x3 convolutions of its atrous spatial pyramid; without any there is no pyramid."""
    deformable: bool = True
    """Whether a deformable convolution ends the depth branch."""
    groups: PositiveInt = 4
    """Of the deformable convolution."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Of the pyramid's result."""

    def build(self, inputs: int, bins: int, channels: int) -> "CameraAwareDepthNet":
        """The net of so many input channels, depth bins and channels of context."""
        return CameraAwareDepthNet(self, inputs, bins, channels)


DepthNetSpec = Annotated[PlainDepthSpec | CameraAwareDepthSpec, Field(discriminator="kind")]
"""Either of them."""


class PlainDepthNet(nn.Conv2d):
    """A 1x1 convolution: depth logits first, then what is lifted."""

    def forward(self, input: Tensor, calibration: Tensor | None = None) -> Tensor:
        """Depth logits and context, one after the other along the channels; no calibration is looked at."""
        return super().forward(input)


class CameraAwareDepthNet(nn.Module):
    """Depth logits and context, each from features that are weighed by what a view's calibration says.

    It computes in float32 at least, also under autocast, as BEVDepth's does.
    """

    def __init__(self, spec: CameraAwareDepthSpec, inputs: int, bins: int, channels: int) -> None:
        super().__init__()
        width = spec.width
        self.reduce_conv = conv_norm_relu(inputs, width, bias=True)
        self.bn = nn.BatchNorm1d(CALIBRATION)
        self.depth_mlp, self.depth_se = _mlp(width), ChannelGate(width)
        self.context_mlp, self.context_se = _mlp(width), ChannelGate(width)
        refine: list[nn.Module] = [BasicBlock(width, width, 1) for _ in range(spec.blocks)]
        if spec.dilations:
            refine.append(AtrousPyramid(width, spec.dilations, spec.dropout))
        if spec.deformable:
            refine.append(DeformableConv(width, width, spec.groups))
        self.depth_conv = nn.Sequential(*refine, nn.Conv2d(width, bins, 1))
        self.context_conv = nn.Conv2d(width, channels, 1)

    def forward(
        self, input: Float[Tensor, "views c_in h w"], calibration: Float[Tensor, "views numbers"]
    ) -> Float[Tensor, "views c h w"]:
        """Depth logits and context, one after the other along the channels.

        Args:
            input: Features of the images.
            calibration: `calibration_numbers` of their views.
        """
        dtype = self.context_conv.weight.dtype
        with unrounded(input):
            features = self.reduce_conv(input.to(dtype))
            numbers = self.bn(calibration.to(dtype))
            context = self.context_conv(self.context_se(features, self.context_mlp(numbers)))
            depth = self.depth_conv(self.depth_se(features, self.depth_mlp(numbers)))
            return torch.cat([depth, context], dim=1)


class ChannelGate(nn.Module):
    """Channels weighed by what two 1x1 convolutions make of numbers (Hu et al., 2018, without its pooling)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(width, width, 1)
        self.conv_expand = nn.Conv2d(width, width, 1)

    def forward(
        self, features: Float[Tensor, "views c h w"], numbers: Float[Tensor, "views c"]
    ) -> Float[Tensor, "views c h w"]:
        """The weighed features."""
        inner = torch.relu(self.conv_reduce(rearrange(numbers, "v c -> v c 1 1")))
        return features * torch.sigmoid(self.conv_expand(inner))


class AtrousPyramid(nn.Module):
    """DeepLab's atrous spatial pyramid (Chen et al., 2017): views of the map from near to far, and of all of it."""

    def __init__(self, width: int, dilations: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_norm_relu(width, width, 1)])
        self.branches.extend(_dilated(width, dilation) for dilation in dilations)
        self.pooled = conv_norm_relu(width, width, 1)
        self.merge = conv_norm_relu((len(dilations) + 2) * width, width, 1)
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Float[Tensor, "views c h w"]) -> Float[Tensor, "views c h w"]:
        """The map with its surroundings."""
        mean = self.pooled(x.mean(dim=(2, 3), keepdim=True)).expand_as(x)
        result: Tensor = self.dropout(self.merge(torch.cat([*(branch(x) for branch in self.branches), mean], dim=1)))
        return result


def calibration_numbers(views: CameraViews, keyframes: int = 1) -> Float[Tensor, "b n numbers"]:
    """The 27 numbers that BEVDepth's depth net knows of each view.

    They are the focal lengths and the principal point of the camera's own images (4), how the input was made of them
    (6), how the BEV frame was augmented (5), and where the camera hangs in the BEV frame before that (12). Cameras of
    earlier keyframes count as hanging where they hang now: how the car moved says nothing of depths in an image.

    Args:
        views: Of a batch.
        keyframes: The views of each follow those of the newest.
    """
    changed, moved = views.from_file, views.moved
    with unrounded(changed):
        camera = torch.linalg.inv_ex(changed).inverse @ views.intrinsics
        newest = views.ego_from_camera.chunk(keyframes, dim=1)[0]
        mount = torch.linalg.inv_ex(moved).inverse @ repeat(
            newest, "b n i j -> b (keyframes n) i j", keyframes=keyframes
        )
    lens = [camera[..., row, column] for row, column in ((0, 0), (1, 1), (0, 2), (1, 2))]
    image = [changed[..., row, column] for row in (0, 1) for column in (0, 1, 2)]
    world = [moved[..., row, column] for row, column in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 2))]
    hung = [mount[..., row, column] for row in (0, 1, 2) for column in (0, 1, 2, 3)]
    return torch.stack([*lens, *image, *world, *hung], dim=-1)


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(CALIBRATION, width), nn.ReLU(inplace=True), nn.Linear(width, width))


def _dilated(width: int, dilation: int) -> nn.Sequential:
    conv = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
