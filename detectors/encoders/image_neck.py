"""Image necks: levels of an image backbone into one map, by a sum from coarse to fine or by concatenation."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from detectors.conv_block import conv_norm_relu
from detectors.encoders.resnet import LEVEL_STRIDES
from detectors.encoders.second_fpn import resampled
from detectors.spec import Spec


class PyramidSpec(Spec):
    """The tiny detectors' pyramid: the three coarser levels, each by a 1x1 convolution, summed, then a block."""

    kind: Literal["pyramid"] = "pyramid"
    strides: ClassVar[tuple[int, ...]] = (8, 16, 32)
    """Of the levels that it reads."""

    @property
    def stride(self) -> int:
        """Image pixels per feature, along h and along w."""
        return 8

    @property
    def multiple(self) -> int:
        """What the sides of an image must be whole multiples of."""
        return 8

    def lateral(self, widths: Sequence[int], channels: int) -> nn.ModuleList:
        """What each level goes through before they are merged."""
        return nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)

    def merge(self, levels: Sequence[Tensor]) -> Tensor:
        """All levels as one map."""
        return _top_down(levels)

    def smooth(self, channels: int) -> nn.Module:
        """What the merged map goes through."""
        return conv_norm_relu(channels, channels)


class FpnSpec(Spec):
    """BEVDet's feature pyramid: the levels at strides 16 and 32, summed, then a 3x3 convolution at the finer one.

    Convolutions have a bias, and neither norm nor ReLU follows (BEVDet's FPNForBEVDet; Lin et al., 2017).
    """

    kind: Literal["fpn"] = "fpn"
    strides: ClassVar[tuple[int, ...]] = (16, 32)

    @property
    def stride(self) -> int:
        """As in `PyramidSpec`."""
        return 16

    @property
    def multiple(self) -> int:
        """As in `PyramidSpec`."""
        return 16

    def lateral(self, widths: Sequence[int], channels: int) -> nn.ModuleList:
        """As in `PyramidSpec`."""
        return nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)

    def merge(self, levels: Sequence[Tensor]) -> Tensor:
        """As in `PyramidSpec`."""
        return _top_down(levels)

    def smooth(self, channels: int) -> nn.Module:
        """As in `PyramidSpec`."""
        return nn.Conv2d(channels, channels, 3, padding=1)


class SecondFpnSpec(Spec):
    """SECOND's pyramid on all four levels of an image backbone, a quarter of the channels of each (BEVDepth)."""

    kind: Literal["second_fpn"] = "second_fpn"
    strides: ClassVar[tuple[int, ...]] = LEVEL_STRIDES
    stride: Literal[4, 8, 16, 32] = 16
    """Image pixels per feature, along h and along w."""

    @property
    def multiple(self) -> int:
        """As in `PyramidSpec`."""
        return 32

    def lateral(self, widths: Sequence[int], channels: int) -> nn.ModuleList:
        """As in `PyramidSpec`."""
        part = channels // len(widths)
        return nn.ModuleList(
            resampled(width, part, stride / self.stride) for width, stride in zip(widths, self.strides, strict=True)
        )

    def merge(self, levels: Sequence[Tensor]) -> Tensor:
        """As in `PyramidSpec`."""
        return torch.cat(list(levels), dim=1)

    def smooth(self, channels: int) -> nn.Module:
        """As in `PyramidSpec`; nothing is left to do."""
        return nn.Identity()


ImageNeckSpec = Annotated[PyramidSpec | FpnSpec | SecondFpnSpec, Field(discriminator="kind")]
"""Any of them."""


def _top_down(levels: Sequence[Tensor]) -> Tensor:
    """The sum of all levels at the resolution of the finest, each coarser one repeated."""
    *finer, top = levels
    for level in reversed(finer):
        top = level + F.interpolate(top, size=level.shape[-2:], mode="nearest")
    return top
