"""ResNet: the image backbone of residual blocks, with torchvision's names of weights."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt, model_validator
from torch import Tensor

from detectors.spec import Spec

LEVEL_STRIDES = (4, 8, 16, 32)
"""Image pixels per feature of the four levels of a backbone."""


class ResNetSpec(Spec):
    """A ResNet (He et al., 2016)."""

    later = frozenset({"block", "frozen_stem"})

    kind: Literal["resnet"] = "resnet"
    stem_width: PositiveInt
    widths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    """Channels at strides 4, 8, 16 and 32."""
    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    """Blocks of each of them."""
    block: Literal["basic", "bottleneck"] = "basic"
    """Two 3x3 convolutions, or one on a quarter of the channels between two 1x1 convolutions (ResNet-50 and deeper)."""
    frozen_stem: bool = False
    """Whether the first convolution and its norm stay as they begin: for pretrained weights, as in BEVDepth."""

    @model_validator(mode="after")
    def _bottlenecks_have_channels(self) -> Self:
        if self.block == "bottleneck" and any(width % 4 for width in self.widths):
            raise ValueError(f"widths {self.widths} of bottleneck blocks are not in whole multiples of 4")
        return self

    def build(self, strides: Sequence[int] = (8, 16, 32)) -> "ResNet":
        """The backbone with fresh weights; its maps are those at these strides, of 4, 8, 16 and 32."""
        return ResNet(self, strides)


@dataclass(frozen=True)
class ImageLevels:
    """Maps of images at several resolutions."""

    feature_maps: tuple[Tensor, ...]
    """``[views, c, h, w]`` at each stride that was asked for; transformers' backbones call them so."""


class ResNet(nn.Module):
    """Images to maps at several strides."""

    def __init__(self, spec: ResNetSpec, strides: Sequence[int] = (8, 16, 32)) -> None:
        super().__init__()
        self.frozen_stem = spec.frozen_stem
        self.levels = [LEVEL_STRIDES.index(stride) for stride in strides]
        self.channels = [spec.widths[level] for level in self.levels]
        self.conv1 = nn.Conv2d(3, spec.stem_width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(spec.stem_width)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _layer(spec, 0, spec.stem_width, stride=1)
        self.layer2 = _layer(spec, 1, spec.widths[0], stride=2)
        self.layer3 = _layer(spec, 2, spec.widths[1], stride=2)
        self.layer4 = _layer(spec, 3, spec.widths[2], stride=2)
        # Drawn again when all are made, and that twice: what a seed draws is what it drew for transformers' ResNet.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight)
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if spec.frozen_stem:
            self.conv1.requires_grad_(False)
            self.bn1.requires_grad_(False).eval()
        self.register_load_state_dict_pre_hook(_take_former_names)

    def train(self, mode: bool = True) -> Self:
        """Train or evaluate; the statistics of a frozen stem stay as they are."""
        super().train(mode)
        if self.frozen_stem:
            self.bn1.eval()
        return self

    def forward(self, images: Float[Tensor, "views 3 h_in w_in"]) -> ImageLevels:
        """The maps of normalised images."""
        level, maps = self.maxpool(F.relu(self.bn1(self.conv1(images)), inplace=True)), []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4)[: 1 + max(self.levels)]:
            level = layer(level)
            maps.append(level)
        return ImageLevels(tuple(maps[number] for number in self.levels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, inputs: int, outputs: int, stride: int, downsample: nn.Module | None = None) -> None:
        super().__init__()
        # First, as the draws of a seed have it.
        self.downsample = downsample or _shortcut(inputs, outputs, stride)
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs, 1)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Float[Tensor, "views c_in h_in w_in"]) -> Float[Tensor, "views c h w"]:
        """The refined map."""
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        outer = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(inner)).add_(outer), inplace=True)


class Bottleneck(nn.Module):
    """A 3x3 convolution on a quarter of the channels, between two 1x1 convolutions, beside the identity."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = outputs // 4
        self.downsample = _shortcut(inputs, outputs, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, x: Float[Tensor, "views c_in h_in w_in"]) -> Float[Tensor, "views c h w"]:
        """The refined map."""
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        inner = F.relu(self.bn2(self.conv2(inner)), inplace=True)
        outer = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn3(self.conv3(inner)).add_(outer), inplace=True)


def _layer(spec: ResNetSpec, level: int, inputs: int, stride: int) -> nn.Sequential:
    """The blocks of one resolution; the first has the stride."""
    block = BasicBlock if spec.block == "basic" else Bottleneck
    width = spec.widths[level]
    first = block(inputs, width, stride)
    return nn.Sequential(first, *(block(width, width, 1) for _ in range(spec.depths[level] - 1)))


def _conv3x3(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if inputs == outputs and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


_FORMER = re.compile(
    r"(?:embedder\.embedder|encoder\.stages\.(?P<level>\d)\.layers\.(?P<block>\d+)"
    r"\.(?:shortcut|layer\.(?P<number>\d)))\.(?P<kind>convolution|normalization)\."
)


def current_name(name: str) -> str:
    """The name of a tensor, also of one that was stored when the backbone was transformers' ResNet."""

    def present(match: re.Match[str]) -> str:
        level, block, number, kind = match.group("level", "block", "number", "kind")
        short = "conv" if kind == "convolution" else "bn"
        if level is None:
            return f"{short}1."
        inside = f"{short}{int(number) + 1}" if number is not None else f"downsample.{int(short == 'bn')}"
        return f"layer{int(level) + 1}.{block}.{inside}."

    return _FORMER.sub(present, name)


def _take_former_names(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    """Rename, in a state that is about to be loaded, what has a former name."""
    for name in [name for name in state if name.startswith(prefix)]:
        if (current := current_name(name)) != name:
            state[current] = state.pop(name)
