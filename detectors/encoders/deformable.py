"""Deformable convolution: a convolution that reads where its input tells it to, in plain torch."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

SIDE = 3
"""Of the kernel."""


class DeformableConv(nn.Module):
    """A 3x3 convolution whose nine taps are moved by offsets that another one reads from the same map.

    Deformable convolution (Dai et al., ICCV 2017) without the second version's modulation: mmcv's ``DCN``, by whose
    names and order its weights go. Without a bias, at a stride of 1; one set of offsets serves all groups.
    """

    def __init__(self, inputs: int, outputs: int, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, SIDE, SIDE))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        # Down and right of each tap, in cells, tap after tap: at first a plain convolution.
        self.conv_offset = nn.Conv2d(inputs, 2 * SIDE * SIDE, SIDE, padding=SIDE // 2)
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "views c_in h w"]) -> Float[Tensor, "views c h w"]:
        """The map; beyond its edges the input is zero, and between its cells it is interpolated."""
        return deformed(x, self.conv_offset(x), self.weight, self.groups)


def deformed(
    x: Float[Tensor, "views c_in h w"],
    offset: Float[Tensor, "views twice_taps h w"],
    weight: Float[Tensor, "c c_group side side"],
    groups: int,
) -> Float[Tensor, "views c h w"]:
    """A convolution of the values at the moved taps.

    Args:
        x: The map.
        offset: How far down and how far right each tap moves, in cells, ordered (tap, down or right).
        weight: Of the convolution, `groups` of the input's channels apart.
        groups: Of channels.
    """
    h, w = x.shape[-2:]
    side = weight.shape[-1]
    reach = torch.arange(side, device=x.device, dtype=x.dtype) - side // 2
    tap = torch.cartesian_prod(reach, reach)
    down, right = rearrange(offset, "v (tap yx) h w -> yx v tap h w", yx=2)
    row = down + rearrange(tap[:, 0], "tap -> tap 1 1") + torch.arange(h, device=x.device, dtype=x.dtype)[:, None]
    column = right + rearrange(tap[:, 1], "tap -> tap 1 1") + torch.arange(w, device=x.device, dtype=x.dtype)
    # The middle of the first cell is at -1 + 1 / w: sizes of 1 divide by nothing.
    at = torch.stack([(2 * column + 1) / w - 1, (2 * row + 1) / h - 1], dim=-1)
    read = F.grid_sample(x, rearrange(at, "v tap h w xy -> v (tap h) w xy"), padding_mode="zeros", align_corners=False)
    columns = rearrange(read, "v c (tap h) w -> v (c tap) h w", h=h)
    return F.conv2d(columns, rearrange(weight, "c c_group down right -> c (c_group down right) 1 1"), groups=groups)
