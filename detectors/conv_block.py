"""The default convolution block for BEV maps and images."""

from pydantic import Field
from torch import nn

from detectors.spec import Spec


class NormSpec(Spec):
    """Constants of a batch norm."""

    eps: float = Field(default=1e-5, gt=0)
    """Added to the variance."""
    momentum: float = Field(default=0.1, gt=0, le=1)
    """Share of a batch in the running statistics."""

    def build(self, channels: int) -> nn.BatchNorm2d:
        """The norm of maps."""
        return nn.BatchNorm2d(channels, self.eps, self.momentum)

    def build_rows(self, channels: int) -> nn.BatchNorm1d:
        """The norm of rows, such as voxels."""
        return nn.BatchNorm1d(channels, self.eps, self.momentum)


TORCH_NORM = NormSpec()
"""torch's defaults."""
SECOND_NORM = NormSpec(eps=1e-3, momentum=0.01)
"""Those of SECOND and of all LiDAR networks after it."""


def conv_norm_relu(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, norm: NormSpec = TORCH_NORM, bias: bool = False
) -> nn.Sequential:
    """A 2D convolution, batch norm and ReLU; at a stride of 1 and an odd kernel the map keeps its size.

    A bias does nothing before a batch norm, but some published weights have one.
    """
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)
    return nn.Sequential(conv, norm.build(outputs), nn.ReLU(inplace=True))
