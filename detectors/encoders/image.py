"""Image encoder: a backbone and a feature pyramid, per camera view."""

from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from detectors.conv_block import conv_norm_relu
from detectors.encoders.pointwise import replace_unsafe
from detectors.encoders.resnet import ResNetSpec
from detectors.spec import Spec

STRIDE = 8
"""Image pixels per feature, along h and along w."""

# transformers' names of the outputs at strides 8, 16 and 32.
_LEVELS = ("stage2", "stage3", "stage4")
# ImageNet statistics of RGB in [0, 1]: what pretrained backbones expect.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class SwinSpec(Spec):
    """A Swin transformer (Liu et al., 2021)."""

    kind: Literal["swin"] = "swin"
    width: PositiveInt
    """Channels at stride 4; twice as many at each halving of the resolution."""
    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    """Blocks at strides 4, 8, 16 and 32."""
    heads: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
    """Of the attention in these blocks; each divides its stride's channels."""
    window: int = Field(default=7, ge=1)
    """Side of the squares within which features attend to one another."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Largest probability that a block is left out of a training step; from 0 it grows with depth."""

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> Self:
        for level, heads in enumerate(self.heads):
            if self.width * 2**level % heads:
                raise ValueError(f"{heads} heads do not divide the {self.width * 2**level} channels of level {level}")
        return self

    def build(self) -> nn.Module:
        """The backbone with fresh weights."""
        # Imported where it is needed: it takes seconds.
        from transformers import SwinBackbone, SwinConfig

        return SwinBackbone(
            SwinConfig(
                embed_dim=self.width,
                depths=list(self.depths),
                num_heads=list(self.heads),
                window_size=self.window,
                drop_path_rate=self.drop_path,
                out_features=list(_LEVELS),
            )
        )


class ImageSpec(Spec):
    """A backbone, and the width of the pyramid on its levels at strides 8, 16 and 32."""

    backbone: Annotated[ResNetSpec | SwinSpec, Field(discriminator="kind")]
    channels: PositiveInt
    """Channels of the pyramid's output."""

    def build(self) -> "ImageEncoder":
        """The encoder with fresh weights."""
        return ImageEncoder(self)


class ImageEncoder(nn.Module):
    """Images to features at a stride of 8 pixels."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.backbone = spec.backbone.build()
        replace_unsafe(self.backbone)
        widths: list[int] = self.backbone.channels  # type: ignore[assignment]
        self.lateral = nn.ModuleList(nn.Conv2d(width, spec.channels, 1) for width in widths)
        self.smooth = conv_norm_relu(spec.channels, spec.channels)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(_STD)[:, None, None], persistent=False)

    def forward(self, images: UInt8[Tensor, "views 3 h_in w_in"]) -> Float[Tensor, "views c h w"]:
        """Features of RGB images with values from 0 to 255."""
        normalised = torch.sub(images, self.mean).div_(self.std)
        levels = self.backbone(normalised.contiguous(memory_format=torch.channels_last)).feature_maps
        fine, *coarser = (lateral(level) for lateral, level in zip(self.lateral, levels, strict=True))
        top = coarser[-1]
        for level in (*reversed(coarser[:-1]), fine):
            top = level + F.interpolate(top, size=level.shape[-2:], mode="nearest")
        result: Tensor = self.smooth(top)
        return result
