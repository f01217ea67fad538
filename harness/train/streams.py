"""Named random streams: one seed, separate generators, so that adding a loss does not reshuffle the data."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Stream = Literal["weights", "order", "augmentation", "training_only", "training"]


def stream_seed(seed: int, stream: Stream) -> int:
    """The seed of a stream: initial student weights, data order, augmentation, what only training needs, its steps."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:7])


@contextmanager
def seeded(seed: int, stream: Stream) -> Iterator[None]:
    """Within, torch's global generator is the stream's; afterwards the CPU's, which makes models, is what it was."""
    # With the GPUs' states, a training on a CPU would take memory on every GPU that there is.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, stream))
        yield
