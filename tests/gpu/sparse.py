"""Sparse convolution by spconv, by spconv-triton and in plain torch: the same numbers, and how long each takes."""

import torch

from detectors.encoders.sparse_conv import SparseConv
from detectors.encoders.sparse_tables import ConvTable, Sites, Triple, strided_table, submanifold_table
from tests.gpu.common import Rows, difference, libraries, milliseconds, sparse_by

APART = 1e-5
"""Norm of the difference over the norm, of values and gradients in fp32."""
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
    """One row a level, kind of table and library."""
    rows, rng = Rows(), torch.Generator().manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    for count, shape, ins, outs in LEVELS:
        index = sites_near_ground(count, shape, rng)
        features = torch.randn(len(index), ins, generator=rng)
        on_card = Sites(index.index.cuda(), shape)
        tables = {
            "submanifold": lambda sites: submanifold_table(sites, (3, 3, 3)),
            "strided": lambda sites: strided_table(sites, (2, 2, 2), (2, 2, 2), (0, 0, 0)),
        }
        for kind, make in tables.items():
            table = make(on_card)
            torch.manual_seed(0)
            conv = SparseConv(ins, outs, table.kernel)
            expected = _values(conv, features, make(index))
            conv, given = conv.cuda(), features.cuda()
            took_table = milliseconds(lambda make=make, on_card=on_card: make(on_card))
            for name, library in libraries().items():
                with sparse_by(library):
                    values = _values(conv, given, table)
                    apart = [difference(a, b) for a, b in zip(values, expected, strict=True)]
                    given_here = given.clone().requires_grad_()

                    def forward_backward(conv=conv, given=given_here, table=table) -> None:
                        conv(given, table).square().sum().backward()

                    took = milliseconds(forward_backward)
                    with torch.autocast("cuda", dtype=torch.bfloat16):
                        took_bf16 = milliseconds(forward_backward)
                        in_bf16 = difference(conv(given, table), expected[0])
                rows.add(
                    sites=len(index), channels=f"{ins}->{outs}", kind=kind, by=name, ok=max(apart) < APART,
                    **{"apart, value": apart[0], "gradient": apart[1], "gradient of weights": apart[2]},
                    **{"apart, bf16": in_bf16, "table, ms": took_table},
                    **{"forward + backward, ms": took, "in bf16, ms": took_bf16},
                )  # fmt: skip


def _values(conv: SparseConv, features: torch.Tensor, table: ConvTable) -> list[torch.Tensor]:
    """The output, and the gradients of a function of it by features and weights."""
    given = features.clone().requires_grad_()
    result = conv(given, table)
    return [result, *torch.autograd.grad(result.sin().sum(), (given, conv.weight))]


if __name__ == "__main__":
    main()
