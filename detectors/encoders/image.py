"""Image encoder: a backbone and a neck, per camera view."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import torch
from jaxtyping import Float, UInt8
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from detectors.encoders.image_neck import ImageNeckSpec, PyramidSpec, SecondFpnSpec
from detectors.encoders.pointwise import replace_unsafe
from detectors.encoders.resnet import LEVEL_STRIDES, ResNetSpec
from detectors.spec import Spec

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

    def build(self, strides: Sequence[int] = (8, 16, 32)) -> nn.Module:
        """The backbone with fresh weights; its maps are those at these strides, of 4, 8, 16 and 32."""
        # Imported where it is needed: it takes seconds.
        from transformers import SwinBackbone, SwinConfig

        return SwinBackbone(
            SwinConfig(
                embed_dim=self.width,
                depths=list(self.depths),
                num_heads=list(self.heads),
                window_size=self.window,
                drop_path_rate=self.drop_path,
                # transformers' names of the outputs.
                out_features=[f"stage{LEVEL_STRIDES.index(stride) + 1}" for stride in strides],
            )
        )


class ImageSpec(Spec):
    """A backbone, and the neck on its levels."""

    later = frozenset({"neck"})

    backbone: Annotated[ResNetSpec | SwinSpec, Field(discriminator="kind")]
    channels: PositiveInt
    """Channels of the neck's output."""
    neck: ImageNeckSpec = PyramidSpec()

    @model_validator(mode="after")
    def _levels_share_channels(self) -> Self:
        if isinstance(self.neck, SecondFpnSpec) and self.channels % len(self.neck.strides):
            raise ValueError(f"{len(self.neck.strides)} levels cannot share {self.channels} channels")
        return self

    @property
    def stride(self) -> int:
        """Image pixels per feature, along h and along w."""
        return self.neck.stride

    def require_size(self, size: tuple[int, int]) -> None:
        """Raise ValueError for a height and width of images of which the levels do not fit on each other."""
        if any(side < self.neck.multiple or side % self.neck.multiple for side in size):
            raise ValueError(f"image_size {size} is not in whole multiples of {self.neck.multiple}")

    def build(self) -> "ImageEncoder":
        """The encoder with fresh weights."""
        return ImageEncoder(self)


class ImageEncoder(nn.Module):
    """Images to features at the neck's stride."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.backbone = spec.backbone.build(spec.neck.strides)
        replace_unsafe(self.backbone)
        self.neck = spec.neck
        widths: list[int] = self.backbone.channels  # type: ignore[assignment]
        self.lateral = spec.neck.lateral(widths, spec.channels)
        self.smooth = spec.neck.smooth(spec.channels)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(_STD)[:, None, None], persistent=False)

    def forward(self, images: UInt8[Tensor, "views 3 h_in w_in"]) -> Float[Tensor, "views c h w"]:
        """Features of RGB images with values from 0 to 255."""
        normalised = torch.sub(images, self.mean).div_(self.std)
        levels = self.backbone(normalised.contiguous(memory_format=torch.channels_last)).feature_maps
        sides = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        result: Tensor = self.smooth(self.neck.merge(sides))
        return result
