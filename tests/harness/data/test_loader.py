"""Batches are a pure function of seed and step, and every sample gets its turn."""

from hypothesis import given
from hypothesis import strategies as st


@given(samples=st.integers(1, 30), batch_size=st.integers(1, 12), seed=st.integers(0, 2**60), rounds=st.integers(1, 4))
def test_each_round_draws_every_sample_once(samples, batch_size, seed, rounds):
    from harness.data.loader import batch_indices

    steps = -(-samples * rounds // batch_size)
    drawn = [index for step in range(steps) for index in batch_indices(samples, batch_size, step, seed)]
    for begin in range(0, samples * rounds, samples):
        assert sorted(drawn[begin : begin + samples]) == list(range(samples))


def test_order_depends_on_seed_and_round():
    from harness.data.loader import batch_indices

    first, second = (batch_indices(50, 50, step, seed=3) for step in (0, 1))
    assert first != second
    assert first != sorted(first)
    assert first == batch_indices(50, 50, 0, seed=3)
    assert first != batch_indices(50, 50, 0, seed=4)
