"""Fusion: joins the BEV maps of several sensors to one."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from detectors.conv_block import conv_norm_relu
from detectors.spec import Spec


class FusionSpec(Spec):
    """Each map normalised on its own, all of them concatenated and convolved (BEVFusion's way)."""

    channels: int = Field(ge=1)
    """Channels of the fused map."""
    kernel: Literal[1, 3] = 3
    """Kernel size of the convolution, in cells."""

    def build(self, in_channels: Sequence[int]) -> "Fusion":
        """The module with fresh weights, for maps of these widths."""
        return Fusion(self, in_channels)


class Fusion(nn.Module):
    """Maps of several sensors to one of the same size."""

    def __init__(self, spec: FusionSpec, in_channels: Sequence[int]) -> None:
        super().__init__()
        # Sums of splatted features and voxel features differ in scale; unnormalised, one sensor would drown the other.
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in in_channels)
        self.mix = conv_norm_relu(sum(in_channels), spec.channels, spec.kernel)

    def forward(self, maps: Sequence[Float[Tensor, "b _ y x"]]) -> Float[Tensor, "b c y x"]:
        """The fused map."""
        normed = [norm(bev) for norm, bev in zip(self.norms, maps, strict=True)]
        result: Tensor = self.mix(torch.cat(normed, dim=1).contiguous(memory_format=torch.channels_last))
        return result
