"""Keeps decoded samples in memory, as far as they fit and as that saves decoding."""

from collections.abc import Callable
from typing import Generic, TypeVar

CACHE_BYTES = 2**30
"""Decoded samples are kept up to this size. A larger dataset is decoded again in each epoch."""
LEAST_SHARE = 0.1
"""Of a split. Where less of it fits, nothing is kept: fewer than one sample in ten would be found in memory."""
Decoded = TypeVar("Decoded")


class Kept(Generic[Decoded]):
    """Decoded samples by their index in a split. Samples that do not fit are decoded on each use."""

    def __init__(self, decode: Callable[[int], Decoded], nbytes: Callable[[Decoded], int], count: int) -> None:
        """Begin with nothing; `nbytes` says how large something is that was decoded, `count` how many a split has."""
        self.limit = CACHE_BYTES
        self._decode = decode
        self._nbytes = nbytes
        self._count = count
        self._by_index: dict[int, Decoded] = {}
        self._total = 0

    def __getitem__(self, index: int) -> Decoded:
        """Return the sample of an index, from memory or decoded now."""
        if index in self._by_index:
            return self._by_index[index]
        decoded = self._decode(index)
        size = self._nbytes(decoded)
        if not self._by_index and self.limit < LEAST_SHARE * size * self._count:
            return decoded
        if self._total + size <= self.limit:
            self._by_index[index] = decoded
            self._total += size
        return decoded
