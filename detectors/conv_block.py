"""The default convolution block for BEV maps and images."""

from torch import nn


def conv_norm_relu(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A 2D convolution without bias, batch norm and ReLU; at a stride of 1 and an odd kernel the map keeps its size."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
