"""Makes things by key in this process, or ahead in several others, in the same order."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from harness.errors import InputError

PREFETCH = 2
"""Things that each process works ahead."""
Made = TypeVar("Made")


def made(make: Callable[[int], Made], keys: Sequence[int], workers: int) -> Iterator[Made]:
    """What a function makes of each key, in order; raises the InputError that it raises, wherever it runs.

    Args:
        make: Called in one process or another; what it changes there stays there.
        keys: Numbers.
        workers: Processes that go ahead; 0: none but this one.
    """
    loader = DataLoader(
        _Made(make),
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),  # its default would draw from the global one
        multiprocessing_context="fork" if workers else None,  # shares the opened tables
    )
    for one in loader:
        if isinstance(one, InputError):
            raise one
        yield one


class _Made(Dataset):
    """Things by key."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make

    def __getitem__(self, key: int) -> Any:
        try:
            return self._make(key)
        except InputError as error:
            # As a value: raised in another process it would come back with that process's traceback as its message.
            return error


def _begin_worker(_: int) -> None:
    # Processes are the parallelism; threads of each would only get into each other's way.
    cv2.setNumThreads(0)
