"""Sites of a sparse grid, and tables: which input row of a sparse convolution meets which output row.

Tables depend on the sites alone, so the layers of one resolution share one. On a CPU compiled loops make them, on other
devices sorts and searches of the library; both give the same tables.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detectors.asynchronous import constant, places, sent, unravelled
from detectors.checks import check_indices

Triple = tuple[int, int, int]
"""One number each for z, y and x."""
_LAST = torch.iinfo(torch.int64).max
"""The key of what is not there, which is sorted behind all others."""


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

    def taller(self, cells: int) -> "Sites":
        """The same in a grid with so many more cells above it."""
        depth, rows, columns = self.shape
        return Sites(self.index, (depth + cells, rows, columns))


def dense(features: Float[Tensor, "v c"], sites: Sites, samples: int) -> Float[Tensor, "{samples} c_out y x"]:
    """Features at their sites on full maps, zero elsewhere; heights become channels, those of one feature together."""
    heights, rows, columns = sites.shape
    sample, z, y, x = sites.index.unbind(dim=1)
    empty = features.new_zeros(samples * rows * columns * heights, features.shape[1])
    full = empty.index_copy(0, ((sample * rows + y) * columns + x) * heights + z, features)
    return rearrange(full, "(b y x z) c -> b (c z) y x", y=rows, x=columns, z=heights)


@dataclass(frozen=True)
class ConvTable:
    """Which input row meets which output row under which kernel offset."""

    sites: Sites
    """Of the output."""
    kernel: Triple
    rows_in: Int[Tensor, " pairs"]
    """Of the input, offset by offset in the order of the weight's (kz ky kx)."""
    rows_out: Int[Tensor, " pairs"]
    """Of the output. Within an offset no output row and no input row appears twice."""
    counts: tuple[int, ...]
    """Pairs of each offset."""

    def check(self, inputs: int) -> None:
        """Raise IndexError if the table is not one of so many input rows: it was made for other sites."""
        check_indices("sparse convolution, input rows", self.rows_in, inputs)
        check_indices("sparse convolution, output rows", self.rows_out, len(self.sites))

    @property
    def rows(self) -> list[tuple[Int[Tensor, " p"], Int[Tensor, " p"]]]:
        """Input and output rows of each offset."""
        return list(zip(self.rows_in.split(self.counts), self.rows_out.split(self.counts), strict=True))

    @cached_property
    def padded(self) -> tuple[Int32[Tensor, "two offsets pairs"], Int32[Tensor, " offsets"]]:
        """The same pairs and their number under each offset as spconv wants them: of one length, filled up by -1."""
        sides = zip(*self.rows, strict=True)
        ins, outs = (pad_sequence(list(side), batch_first=True, padding_value=-1) for side in sides)
        return torch.stack([ins, outs]).int(), sent(torch.tensor(self.counts, dtype=torch.int32), ins.device)


def submanifold_table(sites: Sites, kernel: Triple) -> ConvTable:
    """Pairs of a convolution whose output sites are its input sites; raises ValueError for an even kernel extent."""
    if not all(extent % 2 for extent in kernel):
        raise ValueError(f"kernel {kernel} has no centre")
    if sites.index.device.type != "cpu":
        return submanifold_by_search(sites, kernel)
    from detectors.encoders import sparse_loops

    rows_in, rows_out, counts = sparse_loops.neighbours(sites.index.numpy(), sites.shape, kernel)
    return ConvTable(sites, kernel, torch.from_numpy(rows_in), torch.from_numpy(rows_out), tuple(counts.tolist()))


def submanifold_by_search(sites: Sites, kernel: Triple) -> ConvTable:
    """The same as `submanifold_table`, on any device."""
    half = tuple(extent // 2 for extent in kernel)
    # Keys on a grid with a margin of half a kernel: no offset leads from one row or sample into the next.
    padded = tuple(cells + 2 * margin for cells, margin in zip(sites.shape, half, strict=True))
    steps = (padded[0] * padded[1] * padded[2], padded[1] * padded[2], padded[2], 1)
    keys = (sites.index * constant(steps, sites.index)).sum(dim=1)

    # A pair under an offset is the reverse of a pair under the opposite one: look up only the first half of them. Keys
    # are sorted and a step along x is 1, so that one search serves a whole line of offsets along x.
    lines = list(product(*(range(-margin, margin + 1) for margin in half[:2])))[: kernel[0] * kernel[1] // 2 + 1]
    shifts = constant(tuple(z * steps[1] + y * steps[2] - half[2] for z, y in lines), keys)
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
    rows_in, rows_out = zip(*before, (every, every), *after, strict=True)
    return ConvTable(sites, kernel, torch.cat(rows_in), torch.cat(rows_out), tuple(map(len, rows_in)))


def _pairs(
    candidates: Int[Tensor, "line kx v"], hit: Bool[Tensor, "line kx v"], offsets: int
) -> list[tuple[Tensor, Tensor]]:
    """Input and output rows of the first so many kernel offsets."""
    candidates, hit = (rearrange(table, "line kx v -> (line kx) v")[:offsets] for table in (candidates, hit))
    # The only time that the host waits for a GPU.
    counts = hit.sum(dim=1).tolist()
    pairs = places(hit.flatten(), sum(counts))
    rows_in, rows_out = candidates.flatten()[pairs], pairs % hit.shape[1]
    return list(zip(rows_in.split(counts), rows_out.split(counts), strict=True))


def strided_table(sites: Sites, kernel: Triple, stride: Triple, padding: Triple) -> ConvTable:
    """Pairs of a convolution that is defined wherever its window holds an input site."""
    if sites.index.device.type != "cpu":
        return strided_by_sort(sites, kernel, stride, padding)
    from detectors.encoders import sparse_loops

    shape = _output_shape(sites.shape, kernel, stride, padding)
    index, rows_in, rows_out, counts = sparse_loops.windows(sites.index.numpy(), shape, kernel, stride, padding)
    rows = torch.from_numpy(rows_in), torch.from_numpy(rows_out)
    return ConvTable(Sites(torch.from_numpy(index), shape), kernel, *rows, tuple(counts.tolist()))


def strided_by_sort(sites: Sites, kernel: Triple, stride: Triple, padding: Triple) -> ConvTable:
    """The same as `strided_table`, on any device."""
    device = sites.index.device
    shape = _output_shape(sites.shape, kernel, stride, padding)
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

    # Pairs that there are not go to the end.
    fit, key = fit.flatten(), torch.where(fit, key, _LAST).flatten()
    ordered, order = key.sort()
    first = torch.diff(ordered, prepend=constant((-1,), ordered)) > 0
    number = torch.empty_like(order).scatter(0, order, first.cumsum(0) - 1)
    fits_of = rearrange(fit, "(offsets v) -> offsets v", offsets=math.prod(kernel)).sum(dim=1)
    # The only time that the host waits for a GPU.
    *counts, outputs = torch.cat([fits_of, (first & (ordered < _LAST)).sum(dim=0, keepdim=True)]).tolist()
    pairs = places(fit, sum(counts))
    index = torch.stack(unravelled(ordered[places(first, outputs)], (1, *shape)), dim=1)
    rows_in = pairs % max(len(sites), 1)
    return ConvTable(Sites(index, shape), kernel, rows_in, number[pairs], tuple(counts))


def _output_shape(cells: Triple, kernel: Triple, stride: Triple, padding: Triple) -> Triple:
    axes = zip(cells, kernel, stride, padding, strict=True)
    depth, rows, columns = ((count + 2 * pad - extent) // step + 1 for count, extent, step, pad in axes)
    return depth, rows, columns
