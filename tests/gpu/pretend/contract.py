"""spconv's contract: what our call of it has to be like, checked by a stand-in that computes in plain torch."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import torch
import torch.nn.functional as F

from detectors.encoders import sparse_conv
from tests.gpu.common import Rows, full_batch, objective_of, sparse_by
from tests.gpu.steps import step

COSINE = {False: 1 - 1e-6, True: 0.9}
"""Least cosine of the gradients in fp32 and under bf16, in which the stand-in does not round weights."""


class Spconv:
    """`spconv.pytorch`, as far as it is used: asserts what spconv 2.3.8 and spconv-triton 1.0.0 demand.

    That is read off `SparseConvFunction`, `spconv/pytorch/ops.py` and `csrc/sparse/convops.py`.
    """

    ConvAlgo = SimpleNamespace(Native="Native")

    def __init__(self) -> None:
        self.__name__ = "spconv_standin.pytorch"
        for name in ("spconv_standin", "spconv_standin.constants"):
            sys.modules[name] = ModuleType(name)
        self.functional = SimpleNamespace(indice_conv=self.indice_conv)
        self.calls = 0

    def indice_conv(self, features: Any, filters: Any, pairs: Any, counts: Any, sites: int, algo: str) -> torch.Tensor:
        """The convolution along these pairs."""
        assert not torch.is_autocast_enabled("cuda"), "spconv would cast to float16"
        assert all(t.device.type == "cuda" and t.is_contiguous() for t in (features, filters, pairs, counts))
        assert features.dtype == filters.dtype
        assert pairs.dtype == counts.dtype == torch.int32
        kernel = filters[0, ..., 0].numel()
        assert pairs.shape[:2] == (2, kernel)
        assert counts.shape == (kernel,)
        assert filters.shape[-1] == features.shape[1]
        assert algo == self.ConvAlgo.Native
        numbers, rows = counts.tolist(), pairs.cpu().long()
        assert 0 < max(numbers) <= pairs.shape[2]
        for offset, number in enumerate(numbers):
            assert (rows[:, offset, :number] >= 0).all()
            assert (rows[:, offset, number:] == -1).all()
            assert (rows[0, offset, :number] < len(features)).all()
            assert (rows[1, offset, :number] < sites).all()
        self.calls += 1
        rows_in, rows_out = (
            torch.cat([rows[side, offset, :number] for offset, number in enumerate(numbers)]).cuda() for side in (0, 1)
        )
        table = SimpleNamespace(rows_in=rows_in, rows_out=rows_out, counts=tuple(numbers), sites=range(sites))
        weight = filters.reshape(len(filters), kernel, -1).permute(1, 2, 0)
        return sparse_conv._GatherMatmulAdd.apply(features, weight, table)


def main() -> None:
    """One row a precision: tiny_lidar's step through the stand-in, against that in plain torch."""
    rows, batch = Rows(), full_batch(2)
    for bf16 in (False, True):
        library = Spconv()
        objective = objective_of("tiny_lidar", None, {})
        with sparse_by(None):
            loss, gradients = step(objective, batch, "cuda", bf16)
        with sparse_by(cast(ModuleType, library)):
            other_loss, other_gradients = step(objective, batch, "cuda", bf16)
        cosine = float(F.cosine_similarity(other_gradients, gradients, dim=0))
        rows.add(
            case="bf16" if bf16 else "fp32",
            ok=library.calls > 0 and cosine > COSINE[bf16] and abs(other_loss / loss - 1) < 1e-2,
            calls=library.calls,
            cosine=cosine,
        )


if __name__ == "__main__":
    main()
