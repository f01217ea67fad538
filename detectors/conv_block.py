"""The default convolution block for BEV maps and images."""

from torch import nn

from detectors.winograd import Conv3x3


def conv_norm_relu(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A 2D convolution without bias, batch norm and ReLU; at a stride of 1 and an odd kernel the map keeps its size."""
    if kernel == 3 and stride == 1:
        conv: nn.Conv2d = Conv3x3(inputs, outputs)
    else:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
