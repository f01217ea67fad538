"""Pointwise convolutions with a stride, computed so that oneDNN's fault does not touch them.

For few input channels, a 1x1 convolution with a stride over channels-last maps computes its weight gradient past the
end of oneDNN's scratch memory: the gradient is wrong, or the process crashes somewhere else. Below 8 channels that is
so with AVX2, below 16 with AVX-512 (uxlfoundation/oneDNN#6035; seen with oneDNN 3.12 in torch 2.13.0 and 2.14.1).
"""

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

SAFE_CHANNELS = 16
"""From so many input channels on, the library's own computation is right on every processor."""


class StridedPointwise(nn.Conv2d):
    """A 1x1 convolution that picks every n-th pixel first: the same sums, without the strided kernel."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of `input` (b c h w)."""
        rows, columns = self.stride
        return F.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias, groups=self.groups)


def is_unsafe(module: nn.Module) -> bool:
    """Whether a convolution may take the faulty path."""
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.padding == (0, 0)
        and module.in_channels < SAFE_CHANNELS
    )


def replace_unsafe(model: nn.Module) -> None:
    """Replace, in place, each unsafe convolution below `model`; names, weights and random state stay as they are."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if is_unsafe(child):
                setattr(parent, name, _safe(child))


def _safe(conv: nn.Module) -> StridedPointwise:
    assert isinstance(conv, nn.Conv2d)
    rows, columns = conv.stride
    safe = StridedPointwise(
        conv.in_channels, conv.out_channels, 1, (rows, columns), groups=conv.groups, bias=False, device="meta"
    )
    safe.weight, safe.bias = conv.weight, conv.bias
    return safe
