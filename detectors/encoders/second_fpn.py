"""SECOND's feature pyramid: maps of several resolutions, each brought to one size and width, and concatenated."""

from torch import nn

from detectors.conv_block import SECOND_NORM, NormSpec


def resampled(inputs: int, outputs: int, factor: float, norm: NormSpec = SECOND_NORM) -> nn.Sequential:
    """A convolution that changes the resolution, batch norm and ReLU (mmdet3d's SECONDFPN; Yan et al., 2018).

    Its windows do not overlap, so that the kernel is as large as the stride. At a factor of 1 mmdet3d has a transposed
    1x1 convolution by default, whose weight is this one's with its first two axes exchanged.

    Args:
        inputs: Channels of the map.
        outputs: Channels of the result.
        factor: How many times as many rows and columns the result has: a whole number, or 1 divided by one.
        norm: Constants of the batch norm.
    """
    resize: nn.Module
    if factor > 1:
        resize = nn.ConvTranspose2d(inputs, outputs, round(factor), round(factor), bias=False)
    else:
        size = round(1 / factor)
        resize = nn.Conv2d(inputs, outputs, size, size, bias=False)
    return nn.Sequential(resize, norm.build(outputs), nn.ReLU(inplace=True))
