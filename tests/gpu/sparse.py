"""Sparse convolution by spconv, by spconv-triton and in plain torch: the same numbers, and how long each takes."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch

from detectors.encoders.sparse_conv import SparseConv
from detectors.encoders.sparse_library import PLAIN
from detectors.encoders.sparse_tables import ConvTable, Sites, Triple, strided_table, submanifold_table
from tests.gpu.common import Rows, difference, libraries, milliseconds, sparse_by

PRECISIONS = {
    "fp32": (False, (1e-5, 1e-5, 1e-5)),
    "fp32, TF32": (True, (2e-3, 2e-3, 2e-3)),
    "bf16": (False, (4e-3, 1.5e-2, 1.5e-2)),
}
"""Whether convolutions may use TF32; and the limits of the norm of the difference over the norm, against plain torch on
a CPU in fp32: of values, of gradients, and of gradients of weights."""
TABLES: dict[str, Callable[[Sites], ConvTable]] = {
    "submanifold": partial(submanifold_table, kernel=(3, 3, 3)),
    "strided": partial(strided_table, kernel=(2, 2, 2), stride=(2, 2, 2), padding=(0, 0, 0)),
}
LEVELS: list[tuple[int, Triple, int, int]] = [
    (120_000, (40, 1024, 1024), 16, 16),
    (60_000, (20, 512, 512), 32, 32),
    (30_000, (10, 256, 256), 64, 64),
    (10_000, (5, 128, 128), 128, 128),
    (5_000, (5, 128, 128), 7, 16),
]
"""Sites, cells, input and output channels; the last has a number of channels that is no multiple of 4."""


def sites_near_ground(count: int, shape: Triple, rng: torch.Generator) -> Sites:
    """Sites of two samples that cluster as returns do: runs along x, most of them low."""
    height = (torch.rand(count // 4, generator=rng) ** 3 * shape[0]).long()
    row = torch.randint(shape[1], height.shape, generator=rng)
    first = torch.randint(shape[2] - 4, height.shape, generator=rng)
    sample = torch.randint(2, height.shape, generator=rng)
    runs = [torch.stack([sample, height, row, first + i], dim=1) for i in range(4)]
    return Sites(torch.unique(torch.cat(runs), dim=0), shape)


def main() -> None:
    """Measure in the precision that the command line names after its file of rows; or in all, in a process each.

    spconv keeps the algorithm of the first precision in which a size is asked for.
    """
    if len(sys.argv) > 2:
        measure(Rows(), {name: partial(sparse_by, library) for name, library in libraries().items()}, sys.argv[2])
        return
    for precision in PRECISIONS:
        subprocess.run([sys.executable, "-m", "tests.gpu.sparse", sys.argv[1], precision], check=True)


def measure(rows: Rows, ways: Mapping[str, Callable[[], AbstractContextManager[None]]], precision: str) -> None:
    """One row a level, kind of table and way.

    Args:
        rows: Where they go.
        ways: By name, contexts in which sparse convolutions are computed.
        precision: One of PRECISIONS.
    """
    tf32, most = PRECISIONS[precision]
    rng = torch.Generator().manual_seed(0)
    for count, shape, ins, outs in LEVELS:
        index = sites_near_ground(count, shape, rng)
        features = torch.randn(len(index), ins, generator=rng)
        on_card = Sites(index.index.cuda(), shape)
        for kind, make in TABLES.items():
            table = make(on_card)
            torch.manual_seed(0)
            conv = SparseConv(ins, outs, table.kernel)
            expected = values(conv, features, make(index))
            conv, given = conv.cuda(), features.cuda()
            took_table = milliseconds(partial(make, on_card))
            for name, way in ways.items():
                if name == PLAIN and tf32:
                    continue  # it multiplies as matrix products do, which are not meant here
                with way(), asking(precision, tf32):
                    mine = values(conv, given, table)
                    took = milliseconds(partial(_forward_backward, conv, given.clone().requires_grad_(), table))
                apart = [difference(a, b) for a, b in zip(mine, expected, strict=True)]
                rows.add(
                    sites=len(index), channels=f"{ins}->{outs}", kind=kind, by=name, precision=precision,
                    ok=all(a < b for a, b in zip(apart, most, strict=True)),
                    **{"apart, value": apart[0], "gradient": apart[1], "gradient of weights": apart[2]},
                    **{"table, ms": took_table, "forward + backward, ms": took},
                )  # fmt: skip


@contextmanager
def asking(precision: str, tf32: bool) -> Iterator[None]:
    """Compute in a precision, with TF32 permitted to convolutions or not."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _forward_backward(conv: SparseConv, given: torch.Tensor, table: ConvTable) -> None:
    conv(given, table).square().sum().backward()


def values(conv: SparseConv, features: torch.Tensor, table: ConvTable) -> list[torch.Tensor]:
    """The output, and the gradients of a function of it by features and weights."""
    given = features.clone().requires_grad_()
    result = conv(given, table)
    return [result, *torch.autograd.grad(result.sin().sum(), (given, conv.weight))]


if __name__ == "__main__":
    main()
