"""Samples to Batches: the same batches for the same seed, wherever a training was interrupted."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch

from detectors.batch import Batch, Sample, collate
from harness.data.augment import augment
from harness.data.nuscenes import NuScenesRoot
from harness.study.spec import AugmentSpec

# Decoded samples are kept in memory up to this size; a larger dataset is decoded anew each epoch.
CACHE_BYTES = 2**30


@dataclass(frozen=True)
class Drawn:
    """One sample of a training batch: which, and the seed of how it is varied."""

    index: int
    seed: int


class SampleSet:
    """The samples of a split, in its order, with the sensors and image size that the models want."""

    def __init__(
        self,
        root: NuScenesRoot,
        tokens: list[str],
        sensors: frozenset[str],
        image_size: tuple[int, int] | None,
        augmentation: AugmentSpec | None = None,
    ) -> None:
        self.tokens = tokens
        self._augmentation = augmentation
        self._read = lambda token: root.read(token, sensors, image_size)
        self._kept: dict[int, Sample] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.tokens)

    def __getitem__(self, item: Drawn | int) -> Sample:
        """A sample as it is, or as a training draws it."""
        if isinstance(item, int):
            return self._get(item)
        sample = self._get(item.index)
        if self._augmentation is None:
            return sample
        return augment(sample, self._augmentation, torch.Generator().manual_seed(item.seed))

    def _get(self, index: int) -> Sample:
        if index in self._kept:
            return self._kept[index]
        sample = self._read(self.tokens[index])
        if self._kept_bytes < CACHE_BYTES:
            self._kept[index] = sample
            self._kept_bytes += _size(sample)
        return sample


def batch_indices(samples: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Which samples make the batch of a step: a pure function, so a resumed training sees what it would have seen.

    Every sample is drawn once before any is drawn again; the order of each round has a generator of its own.
    """
    chosen: list[int] = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        round_, within = divmod(position, samples)
        chosen.append(_order(samples, seed, round_)[within])
    return chosen


def training_batches(
    samples: SampleSet, batch_size: int, steps: range, order_seed: int, augment_seed: int
) -> Iterator[Batch]:
    """The batches of the given steps; order and augmentation have separate seeds."""
    for step in steps:
        chosen = batch_indices(len(samples), batch_size, step, order_seed)
        first = augment_seed + step * batch_size
        yield collate([samples[Drawn(index, (first + i) % 2**63)] for i, index in enumerate(chosen)])


def evaluation_batches(samples: SampleSet, batch_size: int) -> Iterator[Batch]:
    """Every sample once, in order."""
    for first in range(0, len(samples), batch_size):
        yield collate([samples[index] for index in range(first, min(first + batch_size, len(samples)))])


@lru_cache(maxsize=2)
def _order(samples: int, seed: int, round_: int) -> list[int]:
    generator = torch.Generator().manual_seed((seed + 0x9E3779B97F4A7C15 * round_) % 2**63)
    return torch.randperm(samples, generator=generator).tolist()


def _size(sample: Sample) -> int:
    tensors = [sample.points, None if sample.views is None else sample.views.images]
    return sum(t.element_size() * t.numel() for t in tensors if t is not None)
