"""SECOND's BEV neck: stages of 3x3 convolutions, each brought to one resolution, and all of them concatenated."""

from typing import Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from detectors.conv_block import SECOND_NORM, NormSpec, conv_norm_relu
from detectors.encoders.second_fpn import resampled
from detectors.spec import Spec


class SecondNeckSpec(Spec):
    """SECOND's backbone and its feature pyramid (Yan et al., 2018), as CenterPoint and UniDistill have them."""

    kind: Literal["second"] = "second"
    widths: tuple[PositiveInt, ...] = Field(min_length=1)
    """Channels of each stage."""
    strides: tuple[PositiveInt, ...]
    """Of the first convolution of each stage."""
    convs: tuple[PositiveInt, ...]
    """3x3 convolutions of each stage, the strided one included."""
    up_widths: tuple[PositiveInt, ...]
    """Channels to which each stage is brought."""
    up_factors: tuple[float, ...]
    """How many times as many rows and columns each stage gets: a whole number, or one divided by a whole number."""
    norm: NormSpec = SECOND_NORM
    """Of every batch norm."""

    @model_validator(mode="after")
    def _stages_meet(self) -> Self:
        stages = len(self.widths)
        for name in ("strides", "convs", "up_widths", "up_factors"):
            if len(getattr(self, name)) != stages:
                raise ValueError(f"{len(getattr(self, name))} {name} for {stages} widths")
        if any(factor <= 0 or (factor % 1 and (1 / factor) % 1) for factor in self.up_factors):
            raise ValueError(f"up_factors {list(self.up_factors)} are neither whole numbers nor 1 divided by one")
        if len(set(self._output_strides())) > 1:
            strides = ", ".join(f"{stride:g}" for stride in self._output_strides())
            raise ValueError(f"the stages end at different strides: {strides}; change up_factors or strides")
        return self

    def _output_strides(self) -> list[float]:
        reached, strides = 1, []
        for stride, factor in zip(self.strides, self.up_factors, strict=True):
            reached *= stride
            strides.append(reached / factor)
        return strides

    @property
    def stride(self) -> float:
        """Cells of the low-level map in a cell of the refined one, along x and along y."""
        return self._output_strides()[0]

    @property
    def out_channels(self) -> int:
        """Channels of the refined map."""
        return sum(self.up_widths)

    def build(self, in_channels: int) -> "SecondNeck":
        """The neck with fresh weights."""
        return SecondNeck(self, in_channels)


class SecondNeck(nn.Module):
    """Low-level BEV map to high-level BEV map; `blocks` are the stages, `deblocks` bring them to one resolution."""

    def __init__(self, spec: SecondNeckSpec, in_channels: int) -> None:
        super().__init__()
        self.stride = spec.stride
        self.blocks, self.deblocks = nn.ModuleList(), nn.ModuleList()
        stages = zip(spec.widths, spec.strides, spec.convs, spec.up_widths, spec.up_factors, strict=True)
        for width, stride, convs, up_width, factor in stages:
            layers: list[nn.Module] = []
            for i in range(convs):
                layers += conv_norm_relu(width if i else in_channels, width, 3, 1 if i else stride, spec.norm)
            self.blocks.append(nn.Sequential(*layers))
            self.deblocks.append(resampled(width, up_width, factor, spec.norm))
            in_channels = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, bev_low: Float[Tensor, "b c_low y_in x_in"]) -> Float[Tensor, "b c_high y x"]:
        """The refined map."""
        # A number of cells that a stride does not divide leaves later stages a row or column over.
        rows, columns = (-(-cells // self.stride) for cells in bev_low.shape[-2:])
        level, maps = bev_low.contiguous(memory_format=torch.channels_last), []
        for block, deblock in zip(self.blocks, self.deblocks, strict=True):
            level = block(level)
            maps.append(deblock(level)[..., : int(rows), : int(columns)])
        return torch.cat(maps, dim=1)
