"""The candidate computes what plain torch does, by a stand-in held to what the library demands of its arguments."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.encoders import sparse_conv
from detectors.encoders.sparse_conv import SparseConv
from detectors.encoders.sparse_tables import ConvTable, Sites
from tests.gpu.implicit_gemm import by_implicit_gemm, gathers, implicit_gemm_sums
from tests.gpu.sparse import TABLES, sites_near_ground

CALLS = []


class _ImplicitGemm(torch.autograd.Function):
    """Values from the forward gathers; gradients of features from the backward ones alone, as the library has them."""

    @staticmethod
    def forward(
        ctx, features, filters, fwd, bwd, masks_fwd, masks_bwd, order_fwd, order_bwd, sites, masks, train, subm
    ):
        assert features.dtype == filters.dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
        assert [mask.item() for mask in masks] == [0xFFFFFFFF]
        assert masks[0].dtype == np.uint32
        assert not subm
        for rows, (mask,), (order,), count, others in (
            (fwd, masks_fwd, order_fwd, sites, len(features)),
            (bwd, masks_bwd, order_bwd, len(features), sites),
        ):
            assert all(each.is_contiguous() for each in (rows, mask, order))
            assert all(each.dtype == torch.int32 for each in (rows, mask, order))
            assert rows.shape == (filters[0, ..., 0].numel(), count)
            assert mask.shape == (count, 1)
            assert rows.max() < others
            assert order.sort().values.tolist() == list(range(count))
            assert (mask[order.long()].diff(dim=0) >= 0).all()
            for offset, there in enumerate(rows >= 0):
                assert torch.equal(mask[:, 0] >> offset & 1 == 1, there)
        CALLS.append(train)
        ctx.save_for_backward(features, filters, fwd, bwd)
        weight = filters.flatten(1, 3)
        return sum(_rows(features, fwd[k]) @ weight[:, k].T for k in range(len(fwd)))

    @staticmethod
    def backward(ctx, grad):
        features, filters, fwd, bwd = ctx.saved_tensors
        weight = filters.flatten(1, 3)
        grad_features = sum(_rows(grad, bwd[k]) @ weight[:, k] for k in range(len(bwd)))
        grad_weight = torch.stack([grad.T @ _rows(features, fwd[k]) for k in range(len(fwd))], dim=1)
        return grad_features, grad_weight.view_as(filters), *[None] * 10


def _rows(values, index):
    return values[index.clamp(min=0).long()] * (index >= 0)[:, None]


@pytest.fixture
def library(monkeypatch):
    package, pytorch, constants = (ModuleType(f"standin{part}") for part in ("", ".pytorch", ".constants"))
    for module in (package, pytorch, constants):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    pytorch.functional = SimpleNamespace(implicit_gemm=_ImplicitGemm.apply)
    CALLS.clear()
    return pytorch


@pytest.mark.parametrize("kind", TABLES)
def test_it_computes_what_plain_torch_does(library, rng, kind):
    index = sites_near_ground(2000, (8, 32, 48), rng)
    table = TABLES[kind](index)
    conv = SparseConv(7, 12, table.kernel)
    features = torch.randn(len(index), 7, generator=rng, requires_grad=True)
    expected = conv(features, table)
    mine = implicit_gemm_sums(library, features, conv.weight, table)
    assert_close(mine, expected, atol=1e-5, rtol=1e-5)
    grads, exact = (torch.autograd.grad(each.sin().sum(), (features, conv.weight)) for each in (mine, expected))
    assert_close(grads, exact, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        implicit_gemm_sums(library, features, conv.weight, table)
    assert CALLS == [True, False]


def test_tables_without_pairs_and_kernels_beyond_a_mask(library):
    none = Sites(torch.zeros(0, 4, dtype=torch.long), (4, 5, 7))
    conv = SparseConv(3, 6, (3, 3, 3))
    result = implicit_gemm_sums(library, torch.zeros(0, 3), conv.weight, TABLES["submanifold"](none))
    result.sum().backward()
    assert result.shape == (0, 6)
    assert not conv.weight.grad.any()
    large = ConvTable(none, (3, 3, 5), *[torch.zeros(0, dtype=torch.long)] * 2, (0,) * 45)
    with pytest.raises(ValueError, match="a kernel of 45 offsets; allowed: at most 32"):
        gathers(large, 0)


def test_the_algorithm_in_use_is_replaced_and_comes_back(library):
    in_use = sparse_conv.spconv_sums
    with by_implicit_gemm(library):
        assert sparse_conv.spconv_sums is implicit_gemm_sums
        assert sparse_conv.cuda_library() is library
    assert sparse_conv.spconv_sums is in_use
