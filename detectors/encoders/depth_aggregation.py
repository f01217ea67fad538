"""Depth aggregation: lifted features are refined along an image's width and along depth before they are summed."""

from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from detectors.conv_block import conv_norm_relu
from detectors.precision import unrounded


class DepthAggregation(nn.Module):
    """BEVDepth's depth refinement (Li et al., AAAI 2023, section 4.3; its repository's DepthAggregation).

    Three convolutions over width and depth and one more, row by row of the image. With it, the frustum is built in
    memory. It computes in float32 at least, also under autocast.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce_conv = conv_norm_relu(channels, channels)
        self.conv = nn.Sequential(*conv_norm_relu(channels, channels), *conv_norm_relu(channels, channels))
        self.out_conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(
        self, features: Float[Tensor, "b n c h w"], depth: Float[Tensor, "b n d h w"]
    ) -> Float[Tensor, "b n c d h w"]:
        """The frustum of features, each weighed by the probability of its depth and refined."""
        b, n = features.shape[:2]
        dtype = self.out_conv.weight.dtype
        with unrounded(features):
            frustum = einsum(features.to(dtype), depth.to(dtype), "b n c h w, b n d h w -> b n h c w d")
            rows = self.reduce_conv(rearrange(frustum, "b n h c w d -> (b n h) c w d"))
            rows = self.out_conv(self.conv(rows) + rows)
        return rearrange(rows, "(b n h) c w d -> b n c d h w", b=b, n=n)
