"""Image encoder: a residual backbone and a feature pyramid, per camera view."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import ResNetBackbone, ResNetConfig

from detectors.spec import Spec

STRIDE = 8
"""Image pixels per feature, along h and along w."""

# ImageNet statistics of RGB in [0, 1]: what pretrained backbones expect.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class ImageSpec(Spec):
    """A ResNet of basic blocks and the width of the pyramid on its levels at strides 8, 16 and 32."""

    stem_width: int
    widths: tuple[int, int, int, int]
    """Channels at strides 4, 8, 16 and 32."""
    depths: tuple[int, int, int, int]
    """Blocks of each of them."""
    channels: int
    """Of the pyramid's output."""

    def build(self) -> "ImageEncoder":
        """The encoder with fresh weights."""
        return ImageEncoder(self)


class ImageEncoder(nn.Module):
    """Images to features at a stride of 8 pixels."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.backbone = ResNetBackbone(
            ResNetConfig(
                embedding_size=spec.stem_width,
                hidden_sizes=list(spec.widths),
                depths=list(spec.depths),
                layer_type="basic",
                out_features=["stage2", "stage3", "stage4"],
            )
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, spec.channels, 1) for width in spec.widths[1:])
        self.smooth = nn.Sequential(
            nn.Conv2d(spec.channels, spec.channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(spec.channels),
            nn.ReLU(),
        )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(_STD)[:, None, None], persistent=False)

    def forward(self, images: UInt8[Tensor, "views 3 h_in w_in"]) -> Float[Tensor, "views c h w"]:
        """Features of RGB images with values from 0 to 255."""
        normalised = (images.to(self.mean.dtype) - self.mean) / self.std
        levels = self.backbone(normalised.contiguous(memory_format=torch.channels_last)).feature_maps
        fine, *coarser = (lateral(level) for lateral, level in zip(self.lateral, levels, strict=True))
        top = coarser[-1]
        for level in (*reversed(coarser[:-1]), fine):
            top = level + F.interpolate(top, size=level.shape[-2:], mode="nearest")
        result: Tensor = self.smooth(top)
        return result
