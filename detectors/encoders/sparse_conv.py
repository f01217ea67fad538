"""Sparse 3D convolution: one interface over occupied sites, by spconv on CUDA and in plain torch elsewhere.

A convolution is a table of (input row, output row) pairs for each kernel offset. Tables depend on the sites alone, so
the layers of one resolution share one. Weights have spconv's KRSC layout (out, kz, ky, kx, in).
"""

import importlib
import importlib.util
import math
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from types import ModuleType
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from detectors.checks import check_indices, checking

Triple = tuple[int, int, int]
"""One number each for z, y and x."""


@dataclass(frozen=True)
class Sites:
    """The occupied cells of a batch of 3D grids."""

    index: Int[Tensor, "v 4"]
    """Sample, z, y, x: unique and in lexicographic order."""
    shape: Triple
    """Cells of one sample."""

    def __len__(self) -> int:
        """Occupied cells of the whole batch."""
        return len(self.index)


@dataclass(frozen=True)
class ConvTable:
    """Which input row meets which output row under which kernel offset."""

    sites: Sites
    """Of the output."""
    kernel: Triple
    rows: tuple[tuple[Tensor, Tensor], ...]
    """Input and output rows for each kernel offset, offsets in the order of the weight's (kz ky kx). Within an offset
    no output row and no input row appears twice."""

    def check(self, inputs: int) -> None:
        """Raise IndexError if the table is not one of so many input rows: it was made for other sites."""
        for rows_in, rows_out in self.rows:
            check_indices("sparse convolution, input rows", rows_in, inputs)
            check_indices("sparse convolution, output rows", rows_out, len(self.sites))

    @cached_property
    def padded(self) -> tuple[Int32[Tensor, "two offsets pairs"], Int32[Tensor, " offsets"]]:
        """The same pairs and their number under each offset as spconv wants them: of one length, filled up by -1."""
        sides = zip(*self.rows, strict=True)
        ins, outs = (pad_sequence(list(side), batch_first=True, padding_value=-1) for side in sides)
        counts = torch.tensor([len(rows_in) for rows_in, _ in self.rows], dtype=torch.int32, device=ins.device)
        return torch.stack([ins, outs]).int(), counts


def submanifold_table(sites: Sites, kernel: Triple) -> ConvTable:
    """Pairs of a convolution whose output sites are its input sites; raises ValueError for an even kernel extent."""
    if not all(extent % 2 for extent in kernel):
        raise ValueError(f"kernel {kernel} has no centre")
    half = tuple(extent // 2 for extent in kernel)
    # Keys on a grid with a margin of half a kernel: no offset leads from one row or sample into the next.
    padded = tuple(cells + 2 * margin for cells, margin in zip(sites.shape, half, strict=True))
    steps = (padded[0] * padded[1] * padded[2], padded[1] * padded[2], padded[2], 1)
    keys = (sites.index * sites.index.new_tensor(steps)).sum(dim=1)

    # A pair under an offset is the reverse of a pair under the opposite one: look up only the first half of them. Keys
    # are sorted and a step along x is 1, so that one search serves a whole line of offsets along x.
    lines = list(product(*(range(-margin, margin + 1) for margin in half[:2])))[: kernel[0] * kernel[1] // 2 + 1]
    shifts = keys.new_tensor([z * steps[1] + y * steps[2] - half[2] for z, y in lines])
    wanted = rearrange(keys, "v -> 1 v") + rearrange(shifts, "line -> line 1")
    position = torch.searchsorted(keys, wanted)
    candidates, hit = [], []
    for _ in range(kernel[2]):
        candidates.append(position.clamp(max=max(len(keys) - 1, 0)))
        hit.append(keys[candidates[-1]] == wanted)
        position, wanted = position + hit[-1], wanted + 1
    before = _pairs(torch.stack(candidates, dim=1), torch.stack(hit, dim=1), math.prod(kernel) // 2)

    every = torch.arange(len(keys), device=keys.device)
    after = [(rows_out, rows_in) for rows_in, rows_out in reversed(before)]
    return ConvTable(sites, kernel, (*before, (every, every), *after))


def _pairs(
    candidates: Int[Tensor, "line kx v"], hit: Bool[Tensor, "line kx v"], offsets: int
) -> list[tuple[Tensor, Tensor]]:
    """Input and output rows of the first so many kernel offsets."""
    candidates, hit = (rearrange(table, "line kx v -> (line kx) v")[:offsets] for table in (candidates, hit))
    counts = hit.sum(dim=1).tolist()
    return list(zip(candidates[hit].split(counts), hit.nonzero()[:, 1].split(counts), strict=True))


def strided_table(sites: Sites, kernel: Triple, stride: Triple, padding: Triple) -> ConvTable:
    """Pairs of a convolution that is defined wherever its window holds an input site."""
    device = sites.index.device
    shape = tuple(
        (cells + 2 * pad - extent) // step + 1
        for cells, extent, step, pad in zip(sites.shape, kernel, stride, padding, strict=True)
    )
    # Along each axis on its own: the output cell that sees an input site under a kernel offset, if there is one.
    cells, fits = [], []
    for axis in range(3):
        shifted = sites.index[:, axis + 1] + padding[axis] - torch.arange(kernel[axis], device=device)[:, None]
        cell = shifted.div(stride[axis], rounding_mode="floor")
        cells.append(cell)
        fits.append((cell * stride[axis] == shifted) & (cell >= 0) & (cell < shape[axis]))
    fit = fits[0][:, None, None] & fits[1][:, None] & fits[2]
    row = sites.index[:, 0] * shape[0] + cells[0][:, None, None]
    key = (row * shape[1] + cells[1][:, None]) * shape[2] + cells[2]

    occupied, rows_out = torch.unique(key[fit], return_inverse=True)
    fit = rearrange(fit, "kz ky kx v -> (kz ky kx) v")
    counts = fit.sum(dim=1).tolist()
    rows = zip(fit.nonzero()[:, 1].split(counts), rows_out.split(counts), strict=True)
    index = torch.stack(torch.unravel_index(occupied, (_samples(sites), *shape)), dim=1)
    return ConvTable(Sites(index, (shape[0], shape[1], shape[2])), kernel, tuple(rows))


def _samples(sites: Sites) -> int:
    """A bound of the sample numbers, enough to take keys apart again."""
    return int(sites.index[-1, 0]) + 1 if len(sites) else 1


class SparseConv(nn.Module):
    """A 3D convolution without bias over sites; its table says where and how."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Triple) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(out_channels, *kernel, in_channels))
        # A site has far fewer occupied neighbours than kernel offsets, so the full fan-in would start too small.
        fan_in = in_channels * math.prod(kernel) ** 0.5
        nn.init.normal_(self.weight, std=math.sqrt(2 / fan_in))

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
            return spconv_sums(library, features, self.weight, table)
        weight = rearrange(self.weight, "o kz ky kx i -> (kz ky kx) i o")
        result: Tensor = _GatherMatmulAdd.apply(features, weight.to(features.dtype), table.rows, len(table.sites))
        return result


SPCONV_LAST = (9, 0)
"""The last compute capability that spconv's kernels are built for."""


def spconv_is_for_cuda() -> bool:
    """Whether spconv is there, and not as its build for CPUs, which may have been installed over one for CUDA."""
    if importlib.util.find_spec("spconv") is None:
        return False
    return not importlib.import_module("spconv.cppconstants").CPU_ONLY_BUILD


@cache
def cuda_library() -> ModuleType | None:
    """spconv, or spconv-triton, which has the same interface; None where neither is there for this GPU."""
    if spconv_is_for_cuda() and torch.cuda.get_device_capability() <= SPCONV_LAST:
        return importlib.import_module("spconv.pytorch")
    if importlib.util.find_spec("spconv_triton"):
        return importlib.import_module("spconv_triton.pytorch")
    return None


def spconv_sums(
    library: ModuleType,
    features: Float[Tensor, "v_in c_in"],
    weight: Float[Tensor, "c_out kz ky kx c_in"],
    table: ConvTable,
) -> Float[Tensor, "v_out c_out"]:
    """The convolution by spconv's own kernels, on our pairs, so that output rows come in our order.

    In float32: under autocast spconv would compute in float16, whatever type was asked for. Not for spconv's build for
    CPUs, which computes something else every time on two or more threads and cannot go backward.
    """
    pairs, counts = table.padded
    if not len(table.sites) or not pairs.shape[2]:  # spconv refuses to convolve nothing
        return features.new_zeros(len(table.sites), weight.shape[0]) + 0 * (features.sum() + weight.sum()).to(features)
    with torch.autocast(features.device.type, enabled=False):
        result: Tensor = library.functional.indice_conv(
            features.float(), weight.float(), pairs, counts, len(table.sites), library.ConvAlgo.Native
        )
    return result.to(features.dtype)


class _GatherMatmulAdd(torch.autograd.Function):
    """Sum over offsets of gather, matmul, index_add; written as one step so that autograd keeps no gathered rows.

    Sums run in float32 whatever the features are, and in a fixed order. On a CPU `index_select` is three times as fast
    as indexing.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, rows: tuple[tuple[Tensor, Tensor], ...], sites: int
    ) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.rows = rows
        total = features.new_zeros(sites, weight.shape[2], dtype=_sum_dtype(features))
        for kernel, (rows_in, rows_out) in zip(weight, rows, strict=True):
            if len(rows_in):
                total.index_add_(0, rows_out, (features.index_select(0, rows_in) @ kernel).to(total.dtype))
        return total.to(features.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        grad = grads[0].to(features.dtype)
        grad_features = torch.zeros_like(features, dtype=_sum_dtype(features))
        grad_weight = torch.zeros_like(weight)
        for i, (rows_in, rows_out) in enumerate(ctx.rows):
            if len(rows_in):
                grad_here = grad.index_select(0, rows_out)
                grad_weight[i] = features.index_select(0, rows_in).T @ grad_here
                if ctx.needs_input_grad[0]:
                    grad_features.index_add_(0, rows_in, (grad_here @ weight[i].T).to(grad_features.dtype))
        return grad_features.to(features.dtype), grad_weight, None, None


def _sum_dtype(features: Tensor) -> torch.dtype:
    return torch.promote_types(features.dtype, torch.float32)
