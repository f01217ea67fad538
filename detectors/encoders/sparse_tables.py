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
from jaxtyping import Bool, Int, Int32
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detectors.checks import check_indices

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
        return torch.stack([ins, outs]).int(), torch.tensor(self.counts, dtype=torch.int32, device=ins.device)


def submanifold_table(sites: Sites, kernel: Triple) -> ConvTable:
    """Pairs of a convolution whose output sites are its input sites; raises ValueError for an even kernel extent."""
    if not all(extent % 2 for extent in kernel):
        raise ValueError(f"kernel {kernel} has no centre")
    half = tuple(extent // 2 for extent in kernel)
    # Keys on a grid with a margin of half a kernel: no offset leads from one row or sample into the next.
    padded = tuple(cells + 2 * margin for cells, margin in zip(sites.shape, half, strict=True))
    steps = (padded[0] * padded[1] * padded[2], padded[1] * padded[2], padded[2], 1)
    keys = (sites.index * sites.index.new_tensor(steps)).sum(dim=1)
    # A pair under an offset is the reverse of a pair under the opposite one: look up only the first half of them.
    offsets = list(product(*(range(-margin, margin + 1) for margin in half)))[: math.prod(kernel) // 2]
    shifts = keys.new_tensor([z * steps[1] + y * steps[2] + x for z, y, x in offsets])
    find = pairs_by_loops if keys.device.type == "cpu" else pairs_by_search
    former, latter, counts = find(keys, shifts)

    every = torch.arange(len(keys), device=keys.device)
    sides = list(zip(former.split(counts), latter.split(counts), strict=True))
    after = [(rows_out, rows_in) for rows_in, rows_out in reversed(sides)]
    rows_in, rows_out = zip((former, latter), (every, every), *after, strict=True)
    return ConvTable(sites, kernel, torch.cat(rows_in), torch.cat(rows_out), (*counts, len(keys), *reversed(counts)))


def pairs_by_loops(
    keys: Int[Tensor, " v"], shifts: Int[Tensor, " s"]
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"], list[int]]:
    """Rows of keys that lie a negative shift before another key, rows of these, shift by shift, and their numbers."""
    from detectors.encoders import sparse_loops

    former, latter, counts = sparse_loops.pairs_before(keys.numpy(), shifts.numpy())
    return torch.from_numpy(former), torch.from_numpy(latter), counts.tolist()


def pairs_by_search(
    keys: Int[Tensor, " v"], shifts: Int[Tensor, " s"]
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"], list[int]]:
    """The same as `pairs_by_loops`, on any device."""
    wanted = rearrange(keys, "v -> 1 v") + rearrange(shifts, "s -> s 1")
    position = torch.searchsorted(keys, wanted)  # below the length, because the shifts are negative
    hit: Bool[Tensor, "s v"] = keys[position] == wanted
    return position[hit], hit.nonzero()[:, 1], hit.sum(dim=1).tolist()


def strided_table(sites: Sites, kernel: Triple, stride: Triple, padding: Triple) -> ConvTable:
    """Pairs of a convolution that is defined wherever its window holds an input site."""
    extents = zip(sites.shape, kernel, stride, padding, strict=True)
    depth, rows, columns = ((cells + 2 * pad - extent) // step + 1 for cells, extent, step, pad in extents)
    shape = (depth, rows, columns)
    samples = int(sites.index[-1, 0]) + 1 if len(sites) else 1  # enough to take cells apart again
    find = windows_by_loops if sites.index.device.type == "cpu" else windows_by_sort
    occupied, rows_in, rows_out, counts = find(sites.index, (samples, *shape), kernel, stride, padding)
    index = torch.stack(torch.unravel_index(occupied, (samples, *shape)), dim=1)
    return ConvTable(Sites(index, shape), kernel, rows_in, rows_out, counts)


Windows = tuple[Int[Tensor, " v_out"], Int[Tensor, " p"], Int[Tensor, " p"], tuple[int, ...]]
"""Numbers of the output cells, sorted; input and output rows of pairs, offset by offset; how many under each."""


def windows_by_loops(
    index: Int[Tensor, "v 4"], shape: tuple[int, int, int, int], kernel: Triple, stride: Triple, padding: Triple
) -> Windows:
    """The output cells, over all samples, that see an input site."""
    from detectors.encoders import sparse_loops

    cells, rows, counts = sparse_loops.windows(index.contiguous().numpy(), shape[1:], kernel, stride, padding)
    occupied, number = sparse_loops.distinct(cells, math.prod(shape))
    return torch.from_numpy(occupied), torch.from_numpy(rows), torch.from_numpy(number), tuple(counts.tolist())


def windows_by_sort(
    index: Int[Tensor, "v 4"], shape: tuple[int, int, int, int], kernel: Triple, stride: Triple, padding: Triple
) -> Windows:
    """The same as `windows_by_loops`, on any device."""
    # Along each axis on its own: the output cell that sees an input site under a kernel offset, if there is one.
    cells, fits = [], []
    for axis in range(3):
        shifted = index[:, axis + 1] + padding[axis] - torch.arange(kernel[axis], device=index.device)[:, None]
        cell = shifted.div(stride[axis], rounding_mode="floor")
        cells.append(cell)
        fits.append((cell * stride[axis] == shifted) & (cell >= 0) & (cell < shape[axis + 1]))
    fit = fits[0][:, None, None] & fits[1][:, None] & fits[2]
    row = index[:, 0] * shape[1] + cells[0][:, None, None]
    key = (row * shape[2] + cells[1][:, None]) * shape[3] + cells[2]
    occupied, rows_out = torch.unique(key[fit], return_inverse=True)
    fit = rearrange(fit, "kz ky kx v -> (kz ky kx) v")
    return occupied, fit.nonzero()[:, 1], rows_out, tuple(fit.sum(dim=1).tolist())


def sorted_keys(keys: Int[Tensor, " p"], limit: int) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Keys from 0 to below a limit in ascending order, and where each was; equal ones stay in their order."""
    if keys.device.type != "cpu":
        values, order = torch.sort(keys, stable=True)
        return values, order
    from detectors.encoders import sparse_loops

    order = torch.from_numpy(sparse_loops.stable_order(keys.numpy(), limit))
    return keys[order], order
