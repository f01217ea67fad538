"""Sparse 3D convolution: one interface over occupied sites, by spconv on CUDA and in plain torch elsewhere.

A convolution goes along a table of (input row, output row) pairs for each kernel offset. Weights have spconv's KRSC
layout (out, kz, ky, kx, in).
"""

import math
from types import ModuleType
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from detectors.checks import checking
from detectors.conv_block import TORCH_NORM, NormSpec
from detectors.encoders.sparse_library import allows_tf32, cuda_library, let_multiply_in_tf32
from detectors.encoders.sparse_tables import ConvTable, Triple


class SparseConv(nn.Module):
    """A 3D convolution over sites; its table says where and how."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Triple, bias: bool = False) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(out_channels, *kernel, in_channels))
        # A site has far fewer occupied neighbours than kernel offsets, so the full fan-in would start too small.
        fan_in = in_channels * math.prod(kernel) ** 0.5
        nn.init.normal_(self.weight, std=math.sqrt(2 / fan_in))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, features: Float[Tensor, "v_in c_in"], table: ConvTable) -> Float[Tensor, "v_out c_out"]:
        """Features at the table's output sites; raises ValueError for the table of another kernel."""
        if table.kernel != self.kernel:
            raise ValueError(f"table of a {table.kernel} kernel for a {self.kernel} one")
        if checking():
            table.check(len(features))
        device = features.device.type
        if torch.is_autocast_enabled(device):
            features = features.to(torch.get_autocast_dtype(device))
        library = cuda_library() if device == "cuda" else None
        if library is not None:
            result = spconv_sums(library, features, self.weight, table)
        else:
            weight = rearrange(self.weight, "o kz ky kx i -> (kz ky kx) i o")
            result = _GatherMatmulAdd.apply(features, weight.to(features.dtype), table)
        return result if self.bias is None else result + self.bias.to(result.dtype)


def norm_rows(norm: nn.BatchNorm1d, features: Float[Tensor, "v c"]) -> Float[Tensor, "v c"]:
    """A batch norm over rows, of which there may be few.

    One row has no variance and none has no mean: such a batch uses, and leaves, the running statistics.
    """
    if len(features) > 1:
        normed: Tensor = norm(features)
        return normed
    return nn.functional.batch_norm(
        features, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
    )


class SparseUnit(nn.Module):
    """Sparse convolution, batch norm over voxels, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Triple, norm: NormSpec = TORCH_NORM) -> None:
        super().__init__()
        self.conv = SparseConv(in_channels, out_channels, kernel)
        self.norm = norm.build_rows(out_channels)

    def forward(self, features: Float[Tensor, "v_in c_in"], table: ConvTable) -> Float[Tensor, "v_out c_out"]:
        """Features at the table's output sites."""
        return torch.relu(norm_rows(self.norm, self.conv(features, table)))


def spconv_sums(
    library: ModuleType,
    features: Float[Tensor, "v_in c_in"],
    weight: Float[Tensor, "c_out kz ky kx c_in"],
    table: ConvTable,
) -> Float[Tensor, "v_out c_out"]:
    """The convolution by spconv's own kernels, on our pairs, so that output rows come in our order.

    Under autocast spconv would compute in float16, whatever type was asked for, and lose what float16 cannot hold. It
    is given float32 instead, and may multiply in TF32 where that is asked for: of bfloat16 features TF32 loses nothing.
    Not for spconv's build for CPUs, which computes something else every time on two or more
    threads and cannot go backward.
    """
    pairs, counts = table.padded
    if not len(table.sites) or not pairs.shape[2]:  # spconv refuses to convolve nothing
        return features.new_zeros(len(table.sites), weight.shape[0]) + 0 * (features.sum() + weight.sum()).to(features)
    let_multiply_in_tf32(library, allows_tf32(features.dtype))
    with torch.autocast(features.device.type, enabled=False):
        result: Tensor = library.functional.indice_conv(
            features.float(), weight.float(), pairs, counts, len(table.sites), library.ConvAlgo.Native
        )
    return result.to(features.dtype)


class _GatherMatmulAdd(torch.autograd.Function):
    """Gather, a matmul for each offset, add up; written as one step so that autograd keeps no gathered rows.

    Sums run in float32 at least whatever the features are, and in a fixed order. On a CPU `index_select` is three times
    as fast as indexing, and one for all offsets faster than one for each.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, table: ConvTable) -> Tensor:
        weight = weight.contiguous()
        ctx.save_for_backward(features, weight)
        ctx.table = table
        gathered = features.index_select(0, table.rows_in)
        terms = gathered.new_empty(len(gathered), weight.shape[2])
        for kernel, rows, result in zip(weight, gathered.split(table.counts), terms.split(table.counts), strict=True):
            torch.mm(rows, kernel, out=result)
        return _sums(terms, table.rows_out, table.counts, len(table.sites))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (features, weight), table = ctx.saved_tensors, ctx.table
        gathered = features.index_select(0, table.rows_in)
        grad = grads[0].to(features.dtype).index_select(0, table.rows_out)
        grad_weight = torch.empty_like(weight)
        parts = gathered.split(table.counts), grad.split(table.counts)
        for kernel, rows, grad_here, result in zip(weight, *parts, grad_weight, strict=True):
            torch.mm(rows.T, grad_here, out=result)
            if ctx.needs_input_grad[0]:
                torch.mm(grad_here, kernel.T, out=rows)  # in place of what has been read
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None
        return _sums(gathered, table.rows_in, table.counts, len(features)), grad_weight, None


def _sums(
    terms: Float[Tensor, "pairs c"], rows: Int[Tensor, " pairs"], counts: tuple[int, ...], number: int
) -> Float[Tensor, "{number} c"]:
    """So many rows, each the sum of the terms whose row it is, in the order of the terms."""
    total = terms.new_zeros(number, terms.shape[1], dtype=torch.promote_types(terms.dtype, torch.float32))
    if terms.device.type == "cpu":
        from detectors.encoders import sparse_loops

        # The library's own addition takes more than twice as long.
        sparse_loops.add_rows(total.numpy(), rows.numpy(), terms.to(total.dtype).numpy())
    else:
        # Offset by offset, each of which names no row twice: the order of the sum stays the same.
        for chosen, summands in zip(rows.split(counts), terms.split(counts), strict=True):
            total.index_add_(0, chosen, summands.to(total.dtype))
    return total.to(terms.dtype)
