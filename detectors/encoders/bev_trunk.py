"""BEV trunks: residual networks on a BEV map, with necks that bring their stages back to its resolution."""

from typing import Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from detectors.conv_block import SECOND_NORM, NormSpec, conv_norm_relu
from detectors.encoders.pointwise import replace_unsafe
from detectors.encoders.resnet import BasicBlock
from detectors.encoders.second_fpn import resampled
from detectors.spec import Spec


class ResNetFpnTrunkSpec(Spec):
    """BEVDepth's trunk and neck (its ResNet-18 without the max-pooling, then SECOND's pyramid)."""

    kind: Literal["resnet_fpn"] = "resnet_fpn"
    stem_width: PositiveInt
    """Channels of the 7x7 convolution at the start, whose stride is 2."""
    widths: tuple[PositiveInt, ...] = Field(min_length=1)
    """Channels of each stage."""
    depths: tuple[PositiveInt, ...]
    """Residual blocks of each."""
    strides: tuple[PositiveInt, ...]
    """Of the first block of each."""
    up_width: PositiveInt
    """Channels to which the map itself and the result of each stage are brought, at the map's resolution."""
    norm: NormSpec = SECOND_NORM
    """Of the batch norms of the pyramid; the stages have torch's."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        _require_as_many(self, "depths", "strides")
        return self

    @property
    def out_channels(self) -> int:
        """Channels of the refined map."""
        return self.up_width * (1 + len(self.widths))

    def build(self, in_channels: int) -> "ResNetFpnTrunk":
        """The trunk with fresh weights."""
        return ResNetFpnTrunk(self, in_channels)


class ResNetFpnTrunk(nn.Module):
    """Low-level BEV map to high-level BEV map at the same resolution; names of the stages as in a ResNet."""

    def __init__(self, spec: ResNetFpnTrunkSpec, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, spec.stem_width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(spec.stem_width)
        self.layers = nn.ModuleList()
        levels, width, shrunk = [resampled(in_channels, spec.up_width, 1.0, spec.norm)], spec.stem_width, 2.0
        for outputs, depth, stride in zip(spec.widths, spec.depths, spec.strides, strict=True):
            self.layers.append(_stage(width, outputs, depth, stride))
            width, shrunk = outputs, shrunk * stride
            levels.append(resampled(width, spec.up_width, shrunk, spec.norm))
        self.deblocks = nn.ModuleList(levels)
        _draw(self)
        replace_unsafe(self)

    def forward(self, bev_low: Float[Tensor, "b c_low y x"]) -> Float[Tensor, "b c_high y x"]:
        """The refined map."""
        rows, columns = bev_low.shape[-2:]
        level = bev_low.contiguous(memory_format=torch.channels_last)
        maps = [level]
        level = F.relu(self.bn1(self.conv1(level)), inplace=True)
        for layer in self.layers:
            level = layer(level)
            maps.append(level)
        # A number of cells that the strides do not divide leaves coarser stages a row or column over.
        up = (deblock(each)[..., :rows, :columns] for deblock, each in zip(self.deblocks, maps, strict=True))
        return torch.cat(list(up), dim=1)


class ResNetUpTrunkSpec(Spec):
    """BEVDet's trunk and neck: residual stages, of which the last and the first are joined (its FPN_LSS)."""

    kind: Literal["resnet_up"] = "resnet_up"
    widths: tuple[PositiveInt, ...] = Field(min_length=2)
    """Channels of each stage."""
    depths: tuple[PositiveInt, ...]
    """Residual blocks of each; the first one's shortcut is a 3x3 convolution with a bias and without a norm."""
    strides: tuple[PositiveInt, ...]
    """Of the first block of each."""
    channels: PositiveInt
    """Of the refined map; between the two upsamplings there are twice as many."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        _require_as_many(self, "depths", "strides")
        return self

    @property
    def out_channels(self) -> int:
        """Channels of the refined map."""
        return self.channels

    def build(self, in_channels: int) -> "ResNetUpTrunk":
        """The trunk with fresh weights."""
        return ResNetUpTrunk(self, in_channels)


class ResNetUpTrunk(nn.Module):
    """Low-level BEV map to high-level BEV map at the same resolution."""

    def __init__(self, spec: ResNetUpTrunkSpec, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        width = in_channels
        for outputs, depth, stride in zip(spec.widths, spec.depths, spec.strides, strict=True):
            shortcut = nn.Conv2d(width, outputs, 3, stride, padding=1)
            self.layers.append(_stage(width, outputs, depth, stride, shortcut))
            width = outputs
        wide, channels = 2 * spec.channels, spec.channels
        joined = spec.widths[0] + spec.widths[-1]
        self.conv = nn.Sequential(*conv_norm_relu(joined, wide), *conv_norm_relu(wide, wide))
        self.up2 = nn.Sequential(*conv_norm_relu(wide, channels), nn.Conv2d(channels, channels, 1))

    def forward(self, bev_low: Float[Tensor, "b c_low y x"]) -> Float[Tensor, "b c_high y x"]:
        """The refined map; it is interpolated so that the corners of the maps meet."""
        level, maps = bev_low.contiguous(memory_format=torch.channels_last), []
        for layer in self.layers:
            level = layer(level)
            maps.append(level)
        fine, coarse = maps[0], maps[-1]
        joined = torch.cat([fine, _enlarged(coarse, fine.shape[-2:])], dim=1)
        result: Tensor = self.up2(_enlarged(self.conv(joined), bev_low.shape[-2:]))
        return result


def _enlarged(level: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(level, size=tuple(size), mode="bilinear", align_corners=True)


def _stage(inputs: int, outputs: int, depth: int, stride: int, shortcut: nn.Module | None = None) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(depth - 1)))


def _draw(trunk: nn.Module) -> None:
    """Weights as mmdet draws them: a residual block begins as the identity."""
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)


def _require_as_many(spec: Spec, *names: str) -> None:
    stages = len(spec.widths)  # type: ignore[attr-defined]
    for name in names:
        if len(getattr(spec, name)) != stages:
            raise ValueError(f"{len(getattr(spec, name))} {name} for {stages} widths")
