"""A candidate for sparse convolution on CUDA: spconv's implicit GEMM on our tables, one kernel for all offsets.

It needs no count of pairs on the host, so that no convolution waits. It is measured as the algorithm in use is, and
takes its place once a card has shown that it is right and faster.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from types import ModuleType

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int32
from torch import Tensor

from detectors.encoders import sparse_conv
from detectors.encoders.sparse_library import allows_tf32, let_multiply_in_tf32
from detectors.encoders.sparse_tables import ConvTable
from tests.gpu.common import libraries, sparse_by
from tests.gpu.sparse import in_each_precision

OFFSETS = 32
"""Of a kernel, at most: one bit of a mask each."""


@dataclass(frozen=True)
class Gathers:
    """What each row of one side gathers from the other side, and in which order the rows are worked on."""

    rows: Int32[Tensor, "offsets v"]
    """The row of the other side under each offset; -1 for none."""
    masks: Int32[Tensor, "v 1"]
    """Bit k is set where there is a row under offset k."""
    order: Int32[Tensor, " v"]
    """Rows with equal masks follow each other, as a block of rows computes every offset that one of them has."""


def gathers(table: ConvTable, inputs: int) -> tuple[Gathers, Gathers]:
    """What output rows gather from so many input rows, and, for the gradient, input rows from output rows."""
    offsets = math.prod(table.kernel)
    if offsets > OFFSETS:
        raise ValueError(f"a kernel of {offsets} offsets; allowed: at most {OFFSETS}")
    device = table.rows_in.device
    counts = torch.tensor(table.counts, device=device)
    offset = torch.arange(offsets, device=device).repeat_interleave(counts, output_size=len(table.rows_in))
    return (
        _gathers(offset, table.rows_out, table.rows_in, offsets, len(table.sites)),
        _gathers(offset, table.rows_in, table.rows_out, offsets, inputs),
    )


def _gathers(offset: Tensor, at: Tensor, gathered: Tensor, offsets: int, count: int) -> Gathers:
    rows = torch.full((offsets * count,), -1, dtype=torch.int32, device=at.device)
    rows[offset * count + at] = gathered.int()
    rows = rearrange(rows, "(k v) -> k v", k=offsets)
    bits = 2 ** torch.arange(offsets, device=at.device)
    masks = ((rows >= 0) * rearrange(bits, "k -> k 1")).sum(dim=0)
    return Gathers(rows, rearrange(masks.int(), "v -> v 1").contiguous(), masks.argsort().int())


@lru_cache(maxsize=1)
def _gathers_of(key: "_Same", inputs: int) -> tuple[Gathers, Gathers]:
    return gathers(key.table, inputs)


@dataclass(frozen=True, eq=False)
class _Same:
    """A table, equal to itself alone: tensors cannot be compared as keys."""

    table: ConvTable

    def __hash__(self) -> int:
        return id(self.table)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.table is self.table


def implicit_gemm_sums(
    library: ModuleType,
    features: Float[Tensor, "v_in c_in"],
    weight: Float[Tensor, "c_out kz ky kx c_in"],
    table: ConvTable,
) -> Float[Tensor, "v_out c_out"]:
    """As `sparse_conv.spconv_sums`. The gathers of a table are made once and kept while it is in use."""
    if not len(table.sites) or not len(table.rows_in):
        return features.new_zeros(len(table.sites), weight.shape[0]) + 0 * (features.sum() + weight.sum()).to(features)
    forward, backward = _gathers_of(_Same(table), len(features))
    let_multiply_in_tf32(library, allows_tf32(features.dtype))
    with torch.autocast(features.device.type, enabled=False):
        result: Tensor = library.functional.implicit_gemm(
            features.float(),
            weight.float(),
            forward.rows,
            backward.rows,
            [forward.masks],
            [backward.masks],
            [forward.order],
            [backward.order],
            len(table.sites),
            [np.array([0xFFFFFFFF], dtype=np.uint32)],  # every offset at once
            torch.is_grad_enabled(),
            False,  # as a submanifold one it would take the backward gathers from the forward ones
        )
    return result.to(features.dtype)


@contextmanager
def by_implicit_gemm(library: ModuleType) -> Iterator[None]:
    """Compute sparse convolutions in this way."""
    in_use = sparse_conv.spconv_sums
    sparse_conv.spconv_sums = implicit_gemm_sums
    try:
        with sparse_by(library):
            yield
    finally:
        sparse_conv.spconv_sums = in_use


def main() -> None:
    """The rows of `sparse`, for this algorithm."""
    there = {name: library for name, library in libraries().items() if library is not None}
    in_each_precision(
        "tests.gpu.implicit_gemm", {name: partial(by_implicit_gemm, library) for name, library in there.items()}
    )


if __name__ == "__main__":
    main()
