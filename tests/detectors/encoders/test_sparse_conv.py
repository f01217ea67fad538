"""Sparse convolution equals a dense one at its sites, in values and in gradients."""

import copy
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from detectors.encoders.sparse_conv import SparseConv, spconv_sums
from detectors.encoders.sparse_tables import ConvTable, Sites, strided_table, submanifold_table

SHAPE = (4, 5, 7)
SAMPLES = 2
# kernel, stride, padding
STRIDED = [
    ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ((2, 2, 2), (2, 2, 2), (0, 0, 0)),
    ((4, 1, 1), (4, 1, 1), (0, 0, 0)),
    ((3, 1, 3), (2, 1, 3), (1, 0, 0)),
    # Of CenterPoint's encoder: between its last levels, and to the map.
    ((3, 3, 3), (2, 2, 2), (0, 1, 1)),
    ((3, 1, 1), (2, 1, 1), (0, 0, 0)),
]


@pytest.fixture
def sites(rng):
    occupied = torch.rand(SAMPLES, *SHAPE, generator=rng) < 0.3
    return Sites(occupied.nonzero(), SHAPE)


@pytest.fixture
def make_conv(rng):
    def make(kernel, in_channels=3, out_channels=6):
        conv = SparseConv(in_channels, out_channels, kernel)
        with torch.no_grad():
            conv.weight.copy_(torch.randn(conv.weight.shape, generator=rng))
        return conv

    return make


def _dense(features, sites):
    empty = features.new_zeros(SAMPLES, *sites.shape, features.shape[1])
    return empty.index_put(sites.index.unbind(1), features).movedim(-1, 1)


def _at(dense, sites):
    return dense.movedim(1, -1)[sites.index.unbind(1)]


def _dense_conv(features, sites, weight, **how):
    return F.conv3d(_dense(features, sites), weight.movedim(-1, 1), **how)


def _assert_same_gradients(sparse, dense, inputs):
    mine = torch.autograd.grad(sparse.sin().sum(), inputs)
    theirs = torch.autograd.grad(dense.sin().sum(), inputs)
    assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 5), (1, 1, 1)])
def test_submanifold_equals_dense_at_the_sites(rng, sites, make_conv, kernel):
    conv = make_conv(kernel)
    features = torch.randn(len(sites), 3, generator=rng, requires_grad=True)
    table = submanifold_table(sites, kernel)
    sparse = conv(features, table)
    dense = _at(_dense_conv(features, sites, conv.weight, padding=[k // 2 for k in kernel]), sites)
    assert table.sites is sites
    assert_close(sparse, dense, atol=1e-5, rtol=1e-5)
    _assert_same_gradients(sparse, dense, (features, conv.weight))


@pytest.mark.parametrize(("kernel", "stride", "padding"), STRIDED)
def test_strided_equals_dense_wherever_a_window_holds_a_site(rng, sites, make_conv, kernel, stride, padding):
    conv = make_conv(kernel)
    features = torch.randn(len(sites), 3, generator=rng, requires_grad=True)
    table = strided_table(sites, kernel, stride, padding)
    sparse = conv(features, table)
    dense = _dense_conv(features, sites, conv.weight, stride=stride, padding=padding)
    assert table.sites.shape == dense.shape[2:]
    assert_close(sparse, _at(dense, table.sites), atol=1e-5, rtol=1e-5)
    # No other output would have been different from zero.
    assert_close(_dense(sparse, table.sites), dense, atol=1e-5, rtol=1e-5)
    _assert_same_gradients(sparse, _at(dense, table.sites), (features, conv.weight))


@given(
    st.sets(st.tuples(*(st.integers(0, extent - 1) for extent in (SAMPLES, *SHAPE))), max_size=80),
    st.sampled_from([None, *STRIDED]),
)
def test_any_sites_give_what_a_dense_convolution_does(places, strided):
    rng = torch.Generator().manual_seed(len(places))
    sites = Sites(torch.tensor(sorted(places), dtype=torch.long).reshape(-1, 4), SHAPE)
    kernel, stride, padding = strided or ((3, 3, 3), (1, 1, 1), (1, 1, 1))
    table = strided_table(sites, kernel, stride, padding) if strided else submanifold_table(sites, kernel)
    conv = SparseConv(3, 6, kernel).double()
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=rng))
    features = torch.randn(len(sites), 3, generator=rng, dtype=torch.double, requires_grad=True)
    sparse = conv(features, table)
    dense = _at(_dense_conv(features, sites, conv.weight, stride=stride, padding=padding), table.sites)
    assert_close(sparse, dense, atol=1e-12, rtol=1e-12)
    mine = torch.autograd.grad(sparse.sin().sum(), (features, conv.weight))
    theirs = torch.autograd.grad(dense.sin().sum(), (features, conv.weight))
    assert_close(mine, theirs, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("kernel", "stride", "padding"), STRIDED)
def test_output_sites_stay_sorted_and_unique(sites, kernel, stride, padding):
    index = strided_table(sites, kernel, stride, padding).sites.index
    assert torch.equal(index, torch.unique(index, dim=0))


def test_neighbours_do_not_reach_over_a_border_or_into_another_sample():
    # The last cell of a row, the first of the next, and the first cell of the next sample.
    index = torch.tensor([[0, 0, 0, 6], [0, 0, 1, 0], [0, 3, 4, 6], [1, 0, 0, 0]])
    table = submanifold_table(Sites(index, SHAPE), (3, 3, 3))
    pairs = torch.cat([torch.stack(rows, dim=1) for rows in table.rows])
    assert pairs.tolist() == [[i, i] for i in range(4)]


def test_no_sites_give_no_outputs_and_zero_gradients(make_conv):
    none = Sites(torch.zeros(0, 4, dtype=torch.long), SHAPE)
    features = torch.zeros(0, 3, requires_grad=True)
    around, down = make_conv((3, 3, 3)), make_conv((2, 2, 2), in_channels=6)
    hidden = around(features, submanifold_table(none, (3, 3, 3)))
    result = down(hidden, strided_table(none, (2, 2, 2), (2, 2, 2), (0, 0, 0)))
    result.sum().backward()
    assert result.shape == (0, 6)
    assert features.grad.shape == (0, 3)
    assert not around.weight.grad.any()
    assert not down.weight.grad.any()


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_agrees_with_float32_up_to_its_precision(rng, sites, make_conv, autocast):
    conv = make_conv((3, 3, 3))
    features = torch.randn(len(sites), 3, generator=rng, requires_grad=True)
    table = submanifold_table(sites, (3, 3, 3))
    exact = conv(features, table)
    (exact_grad,) = torch.autograd.grad(exact.sum(), features)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        half = conv(features if autocast else features.bfloat16(), table)
        (half_grad,) = torch.autograd.grad(half.sum(), features)
    assert half.dtype == torch.bfloat16
    # A bfloat16 has 8 bits; sums of about 27 x 3 terms of order 1.
    assert_close(half.float(), exact, atol=0.1, rtol=0.02)
    assert_close(half_grad.float(), exact_grad, atol=0.1, rtol=0.02)


def test_a_kernel_without_a_centre_is_refused(sites):
    with pytest.raises(ValueError, match=r"\(3, 2, 3\) has no centre"):
        submanifold_table(sites, (3, 2, 3))


def test_a_table_of_another_kernel_is_refused(sites, make_conv):
    with pytest.raises(ValueError, match=r"a \(1, 1, 3\) kernel for a \(3, 3, 3\) one"):
        make_conv((3, 3, 3))(torch.zeros(len(sites), 3), submanifold_table(sites, (1, 1, 3)))


@pytest.fixture
def one_thread():
    # With more threads spconv's CPU build computes something else every time.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def spconv():
    return pytest.importorskip("spconv.pytorch", reason="spconv is not installed (extra cpu)")


def _scene(rng, voxels, channels):
    """About so many voxels as a LiDAR has them, in a slab, with features; and both kinds of tables."""
    shape = (10, 60, 70)
    occupied = torch.rand(SAMPLES, *shape, generator=rng) < voxels / (SAMPLES * 10 * 60 * 70)
    sites = Sites(occupied.nonzero(), shape)
    features = torch.randn(len(sites), channels, generator=rng)
    tables = {
        "submanifold": submanifold_table(sites, (3, 3, 3)),
        "strided": strided_table(sites, (3, 3, 3), (2, 2, 2), (1, 1, 1)),
    }
    return sites, features, tables


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["submanifold", "strided"])
def test_eight_thousand_voxels_equal_dense_on_any_number_of_threads(rng, make_conv, kind, threads):
    sites, features, tables = _scene(rng, 8000, 8)
    conv, table = make_conv((3, 3, 3), 8, 12), tables[kind]
    with torch.no_grad():
        conv.weight.mul_(0.1)  # results of order 1, as behind a normalisation
    assert 7500 < len(sites) < 8500
    features.requires_grad_()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        sparse = conv(features, table)
        dense = _dense_conv(features, sites, conv.weight, stride=1 if kind == "submanifold" else 2, padding=1)
        dense = _at(dense, table.sites)
        assert_close(sparse, dense, atol=1e-5, rtol=1e-5)
        # The gradient of the weight adds up thousands of terms.
        mine = torch.autograd.grad(sparse.sin().mean(), (features, conv.weight))
        theirs = torch.autograd.grad(dense.sin().mean(), (features, conv.weight))
        assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["submanifold", "strided"])
def test_forward_and_weight_layout_are_those_of_spconv(rng, make_conv, spconv, one_thread, kind):
    sites, features, tables = _scene(rng, 8000, 8)
    conv, table = make_conv((3, 3, 3), 8, 12), tables[kind]
    if kind == "submanifold":
        theirs = spconv.SubMConv3d(8, 12, 3, bias=False)
    else:
        theirs = spconv.SparseConv3d(8, 12, 3, stride=2, padding=1, bias=False)
    assert theirs.weight.shape == conv.weight.shape
    # spconv reads memory as if it were contiguous, which the result of nonzero is not.
    places = sites.index.int().contiguous()
    with torch.no_grad():
        conv.weight.mul_(0.1)
        theirs.weight.copy_(conv.weight)
        out = theirs(spconv.SparseConvTensor(features, places, list(sites.shape), SAMPLES))
        mine = conv(features, table)
    order = {tuple(place): row for row, place in enumerate(out.indices.tolist())}
    assert order.keys() == {tuple(place) for place in table.sites.index.tolist()}
    rows = [order[tuple(place)] for place in table.sites.index.tolist()]
    assert_close(mine, out.features[rows], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["submanifold", "strided"])
def test_spconv_computes_the_same_from_our_pairs(rng, make_conv, spconv, one_thread, kind):
    # What a GPU uses; on a CPU one thread of spconv's forward can be trusted.
    _, features, tables = _scene(rng, 8000, 8)
    conv, table = make_conv((3, 3, 3), 8, 12), tables[kind]
    with torch.no_grad():
        conv.weight.mul_(0.1)
        assert_close(spconv_sums(spconv, features, conv.weight, table), conv(features, table), atol=1e-5, rtol=1e-5)


def test_spconv_is_not_asked_to_convolve_nothing(make_conv):
    none = Sites(torch.zeros(0, 4, dtype=torch.long), SHAPE)
    features, conv = torch.zeros(0, 3, requires_grad=True), make_conv((3, 3, 3))
    result = spconv_sums(ModuleType("spconv"), features, conv.weight, submanifold_table(none, (3, 3, 3)))
    result.sum().backward()
    assert result.shape == (0, 6)
    assert not conv.weight.grad.any()


def _in_tf32(values):
    """Rounded to the ten bits of mantissa of TF32; the gradient passes."""
    rounded = ((values.detach().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    return values + (rounded - values).detach()


@pytest.fixture
def library(monkeypatch):
    """What stands in for spconv: its demands are asserted, and its flag for TF32 is obeyed."""
    package, pytorch, constants = (ModuleType(f"standin{part}") for part in ("", ".pytorch", ".constants"))
    constants.SPCONV_ALLOW_TF32 = None
    for module in (package, pytorch, constants):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def indice_conv(features, filters, pairs, counts, sites, algorithm):
        assert not torch.is_autocast_enabled("cpu"), "it would compute in float16"
        assert all(each.is_contiguous() for each in (features, filters, pairs, counts))
        assert features.dtype == filters.dtype == torch.float32
        assert pairs.dtype == counts.dtype == torch.int32
        assert algorithm == "native"
        if constants.SPCONV_ALLOW_TF32:
            features, filters = _in_tf32(features), _in_tf32(filters)
        result = features.new_zeros(sites, len(filters))
        weights = filters.flatten(1, 3).unbind(1)
        for weight, (ins, outs), number in zip(weights, pairs.unbind(1), counts.tolist(), strict=True):
            assert (ins[number:] == -1).all()
            assert (outs[number:] == -1).all()
            result = result.index_add(0, outs[:number].long(), features[ins[:number].long()] @ weight.T)
        return result

    pytorch.functional = SimpleNamespace(indice_conv=indice_conv)
    pytorch.ConvAlgo = SimpleNamespace(Native="native")
    return pytorch


@pytest.mark.parametrize("kind", ["submanifold", "strided"])
@pytest.mark.parametrize("tf32", [False, True])
def test_library_multiplies_float32_as_torch_permits_its_convolutions(rng, make_conv, library, monkeypatch, kind, tf32):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    _, features, tables = _scene(rng, 2000, 8)
    conv, table = make_conv((3, 3, 3), 8, 12), tables[kind]
    features.requires_grad_()
    exact, mine = conv(features, table), spconv_sums(library, features, conv.weight, table)
    exact_grads, grads = (torch.autograd.grad(each.sin().sum(), (features, conv.weight)) for each in (exact, mine))
    assert sys.modules["standin.constants"].SPCONV_ALLOW_TF32 is tf32
    apart = [((a - b).norm() / b.norm()).item() for a, b in zip((mine, *grads), (exact, *exact_grads), strict=True)]
    assert all(1e-5 < each < 0.02 for each in apart) if tf32 else max(apart) < 1e-5


@pytest.mark.parametrize("kind", ["submanifold", "strided"])
def test_library_is_closer_in_bfloat16_than_plain_torch(rng, make_conv, library, monkeypatch, kind):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    _, features, tables = _scene(rng, 2000, 8)
    conv, table = make_conv((3, 3, 3), 8, 12), tables[kind]
    features = (1e6 * features).bfloat16()  # beyond the range of float16
    with torch.no_grad():
        exact = conv(features.float(), table)
        plain, mine = conv(features, table), spconv_sums(library, features, conv.weight, table)
    assert sys.modules["standin.constants"].SPCONV_ALLOW_TF32 is True
    assert plain.dtype == mine.dtype == torch.bfloat16
    plain_apart, apart = ((each.float() - exact).norm() / exact.norm() for each in (plain, mine))
    # What is left is the rounding of the sum to eight bits.
    assert apart < 2**-8
    assert apart < plain_apart


@pytest.mark.skipif(not (torch.version.cuda and torch.cuda.is_available()), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["submanifold", "strided"])
def test_cuda_computes_what_a_cpu_does(rng, make_conv, kind):
    _, features, tables = _scene(rng, 8000, 8)
    conv, table = make_conv((3, 3, 3), 8, 12), tables[kind]
    with torch.no_grad():
        conv.weight.mul_(0.1)
    sites = Sites(table.sites.index.cuda(), table.sites.shape)
    on_gpu = ConvTable(sites, table.kernel, table.rows_in.cuda(), table.rows_out.cuda(), table.counts)
    results = []
    for device, where in (("cpu", table), ("cuda", on_gpu)):
        given, moved = features.to(device).requires_grad_(), copy.deepcopy(conv).to(device)
        result = moved(given, where)
        gradients = torch.autograd.grad(result.sin().mean(), (given, moved.weight))
        results.append([tensor.cpu() for tensor in (result, *gradients)])
    assert_close(results[1], results[0], atol=1e-5, rtol=1e-5)
