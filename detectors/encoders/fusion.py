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
    """All maps concatenated and convolved: BEVFusion's way, and those of others with their gates."""

    later = frozenset({"normed", "gate"})

    channels: int = Field(ge=1)
    """Channels of the fused map."""
    kernel: Literal[1, 3] = 3
    """Kernel size of the convolution, in cells."""
    normed: bool = True
    """Whether each map first has a batch norm of its own; not so in the papers' networks."""
    gate: Literal["none", "channel", "cell"] = "none"
    """By what maps are multiplied: nothing; a weight of each channel, from the means of all channels over the map
    (UniDistill); a weight of each channel in each cell, from a 3x3 convolution of all maps (CRKD)."""

    def build(self, in_channels: Sequence[int]) -> "Fusion":
        """The module with fresh weights, for maps of these widths."""
        return Fusion(self, in_channels)


class Fusion(nn.Module):
    """Maps of several sensors to one of the same size."""

    def __init__(self, spec: FusionSpec, in_channels: Sequence[int]) -> None:
        super().__init__()
        # Sums of splatted features and voxel features differ in scale; unnormalised, one sensor would drown the other.
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(channels) if spec.normed else nn.Identity() for channels in in_channels
        )
        together = sum(in_channels)
        self.gate: nn.Module | None = None
        match spec.gate:
            case "channel":
                self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(together, together, 1), nn.Sigmoid())
            case "cell":
                # CRKD has a convolution for the gate of each sensor; this is all of them in one.
                self.gate = nn.Sequential(nn.Conv2d(together, together, 3, padding=1), nn.Sigmoid())
        self.mix = conv_norm_relu(together, spec.channels, spec.kernel)

    def forward(self, maps: Sequence[Float[Tensor, "b _ y x"]]) -> Float[Tensor, "b c y x"]:
        """The fused map."""
        normed = [norm(bev) for norm, bev in zip(self.norms, maps, strict=True)]
        together = torch.cat(normed, dim=1).contiguous(memory_format=torch.channels_last)
        result: Tensor = self.mix(together if self.gate is None else together * self.gate(together))
        return result
