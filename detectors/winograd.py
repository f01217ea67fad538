"""Winograd's convolution: 3x3 with a quarter of the multiplications, for training on a processor (Lavin & Gray, 2016).

Tiles of 4 x 4 results, F(4x4, 3x3): 36 products in place of 144. oneDNN has it for no float32 training.

Sums are rounded otherwise than the library's, to about five digits in single precision. What is exactly zero or exactly
copied by a convolution may be off by as much here, so it is for convolutions whose results are normalised.
"""

from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

LEAST_CHANNELS = 32
"""With fewer, what goes to the domain and back takes longer than the products that it saves."""

# From pixels, weights and results to Winograd's domain: the paper's B^T, G and A. Of the weights for both axes at once.
_PIXELS = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=np.float64,
)
_SIDE = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
_WEIGHTS = np.kron(_SIDE, _SIDE) / 24**2
_RESULTS = np.array(
    [[1, 0, 0, 0], [1, 1, 1, 1], [1, -1, 1, -1], [1, 2, 4, 8], [1, -2, 4, -8], [0, 0, 0, 1]], dtype=np.float64
)


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution that keeps the size of its map; where it trains on one thread, by Winograd's algorithm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of `input` (b c h w)."""
        # There is a bias where a norm was folded into it.
        if self.bias is not None or not pays(input, self.weight):
            return super().forward(input)
        result: Tensor = _Winograd.apply(input, self.weight)
        return result


def pays(maps: Tensor, weight: Tensor) -> bool:
    """Whether it is faster: with gradients, which save the most, and on one thread, as the loops run on one alone."""
    return (
        torch.is_grad_enabled()
        and weight.requires_grad
        and maps.device.type == "cpu"
        and maps.dtype == weight.dtype
        and maps.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and torch.get_num_threads() == 1
        and min(weight.shape[:2]) >= LEAST_CHANNELS
    )


class _Winograd(torch.autograd.Function):
    """The convolution, and its gradients in Winograd's domain."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        pixels = _spread(maps.detach(), _PIXELS, pad=1)
        taps = _to_domain(weight.detach())
        ctx.save_for_backward(pixels, taps)
        ctx.shape = maps.shape
        return _collect(torch.bmm(pixels, taps), _RESULTS, 0, maps.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        pixels, taps = ctx.saved_tensors
        of_products = _spread(grads[0], _RESULTS, pad=0)
        of_maps = of_weight = None
        if ctx.needs_input_grad[0]:
            of_maps = _collect(torch.bmm(of_products, taps.mT), _PIXELS, 1, ctx.shape)
        if ctx.needs_input_grad[1]:
            of_weight = _from_domain(torch.bmm(pixels.mT, of_products))
        return of_maps, of_weight


def _to_domain(weight: Tensor) -> Tensor:
    """Weights ``[c_out, c_in, 3, 3]`` as 36 matrices ``[c_in, c_out]``."""
    flat = rearrange(weight, "c_out c_in i j -> (i j) (c_in c_out)")
    return rearrange(
        torch.from_numpy(_WEIGHTS).to(weight.dtype) @ flat, "n (c_in c_out) -> n c_in c_out", c_out=len(weight)
    )


def _from_domain(taps: Tensor) -> Tensor:
    """The transpose of `_to_domain`, for gradients."""
    flat = torch.from_numpy(_WEIGHTS).to(taps.dtype).mT @ rearrange(taps, "n c_in c_out -> n (c_in c_out)")
    return rearrange(flat, "(i j) (c_in c_out) -> c_out c_in i j", i=3, c_out=taps.shape[2])


def _spread(maps: Tensor, matrix: np.ndarray, pad: int) -> Tensor:
    # Imported where it is needed: numba takes half a second.
    from detectors.winograd_loops import spread

    b, c, h, w = maps.shape
    rows = rearrange(maps, "b c h w -> b h (w c)").contiguous()
    numbers = maps.new_empty(36, b * -(-h // 4) * -(-w // 4), c)
    spread(rows.numpy(), matrix.astype(rows.numpy().dtype), pad, c, numbers.numpy())
    return numbers


def _collect(numbers: Tensor, matrix: np.ndarray, pad: int, shape: torch.Size) -> Tensor:
    from detectors.winograd_loops import collect

    b, _, h, w = shape
    c = numbers.shape[2]
    rows = numbers.new_zeros(b, h, w * c)
    collect(numbers.numpy(), matrix.astype(rows.numpy().dtype), pad, c, rows.numpy())
    return rearrange(rows, "b h (w c) -> b c h w", c=c)
