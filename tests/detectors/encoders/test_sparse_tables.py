"""The compiled loops and the library make the same tables; what is made once is shared."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.encoders import sparse_loops
from detectors.encoders.sparse_tables import (
    Sites,
    strided_by_sort,
    strided_table,
    submanifold_by_search,
    submanifold_table,
)

SHAPE = (3, 4, 5)
CELLS = st.tuples(*(st.integers(0, extent - 1) for extent in (2, *SHAPE)))
ODD, ANY = st.sampled_from([1, 3, 5]), st.integers(1, 3)


@st.composite
def some_sites(draw):
    index = sorted(draw(st.sets(CELLS, max_size=60)))
    return Sites(torch.tensor(index, dtype=torch.long).reshape(-1, 4), SHAPE)


def _assert_equal(mine, theirs):
    assert (mine.kernel, mine.counts, mine.sites.shape) == (theirs.kernel, theirs.counts, theirs.sites.shape)
    assert torch.equal(mine.sites.index, theirs.sites.index)
    assert torch.equal(mine.rows_in, theirs.rows_in)
    assert torch.equal(mine.rows_out, theirs.rows_out)


@given(some_sites(), st.tuples(ODD, ODD, ODD))
def test_submanifold_loops_equal_searches(sites, kernel):
    _assert_equal(submanifold_table(sites, kernel), submanifold_by_search(sites, kernel))


@given(some_sites(), st.tuples(ANY, ANY, ANY), st.tuples(ANY, ANY, ANY), st.tuples(*[st.integers(0, 1)] * 3))
def test_strided_loops_equal_sorts(sites, kernel, stride, padding):
    _assert_equal(strided_table(sites, kernel, stride, padding), strided_by_sort(sites, kernel, stride, padding))


@given(some_sites(), st.tuples(ODD, ODD, ODD))
def test_a_submanifold_table_names_each_pair_of_neighbours(sites, kernel):
    places = [tuple(place) for place in sites.index.tolist()]
    expected = {
        (tuple(b - a + extent // 2 for a, b, extent in zip(out[1:], site[1:], kernel, strict=True)), i, o)
        for i, site in enumerate(places)
        for o, out in enumerate(places)
        if site[0] == out[0]
        and all(abs(b - a) <= extent // 2 for a, b, extent in zip(out[1:], site[1:], kernel, strict=True))
    }
    rows = submanifold_table(sites, kernel).rows
    made = [
        (tuple(np.unravel_index(offset, kernel)), i, o)
        for offset, (rows_in, rows_out) in enumerate(rows)
        for i, o in zip(rows_in.tolist(), rows_out.tolist(), strict=True)
    ]
    assert len(made) == len(set(made))
    assert set(made) == expected


@pytest.mark.parametrize("limit", [1, 2, 2048, 2049, 2**22 + 1, 2**40])
def test_order_is_that_of_a_stable_sort(limit):
    keys = np.random.default_rng(0).integers(min(limit, 2**62), size=1000)
    keys[::3] = keys[0]
    assert sparse_loops.stable_order(keys, limit).tolist() == np.argsort(keys, kind="stable").tolist()
    values, number = sparse_loops.distinct(keys, limit)
    assert values.tolist() == np.unique(keys).tolist()
    assert values[number].tolist() == keys.tolist()


def test_rows_that_are_named_twice_get_both_terms():
    total = np.zeros((3, 2))
    sparse_loops.add_rows(total, np.array([2, 0, 2]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert total.tolist() == [[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]]
