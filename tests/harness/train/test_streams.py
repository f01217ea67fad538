"""Streams of one seed are separate: drawing from one moves no other."""

import torch

from harness.train.streams import seeded, stream_seed


def test_streams_differ_and_repeat():
    seeds = {(seed, name): stream_seed(seed, name) for seed in (0, 1) for name in ("weights", "order", "augmentation")}
    assert len(set(seeds.values())) == 6
    assert all(0 <= value < 2**63 for value in seeds.values())


def test_stream_repeats_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with seeded(0, "weights"):
        first = torch.rand(3)
    assert torch.equal(torch.rand(2), expected)
    with seeded(0, "weights"):
        assert torch.equal(torch.rand(3), first)
    with seeded(0, "training_only"):
        assert not torch.equal(torch.rand(3), first)
