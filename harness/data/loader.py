"""Collates samples to batches, which depend on the seed only, not on interruptions or on the number of processes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import torch

from detectors.batch import Batch, ImageBatch, Inputs, Sample, collate
from harness.data.augment import augment, draw_sweeps
from harness.data.balance import ClassBalance
from harness.data.kept import CACHE_BYTES, Kept
from harness.data.nuimages import ImageSet
from harness.data.nuscenes import read
from harness.data.objects import Objects
from harness.data.paste import paste
from harness.data.processes import made
from harness.data.pseudo_labels import PseudoLabels
from harness.data.root import NuScenesRoot
from harness.errors import InputError
from harness.study.schedule import AugmentSpec

Loaded = TypeVar("Loaded")


@dataclass(eq=False)
class SampleSet:
    """The samples of a split, in its order, with what the models want of them; what was decoded is kept in memory."""

    root: NuScenesRoot
    tokens: list[str]
    inputs: Inputs
    augmentation: AugmentSpec | None = None
    labels: PseudoLabels | None = None
    balance: ClassBalance | None = None
    """How a training draws an epoch; None: every sample once."""
    objects: Objects | None = None
    """To paste, where `augmentation` says so."""

    def __post_init__(self) -> None:
        """Begin with nothing in memory."""
        self.cache = Kept(self._decoded, sample_bytes, len(self.tokens))

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.tokens)

    def drawn_batch(self, indices: list[int], seeds: list[int], share: float = 0.0) -> Batch:
        """Samples as a training sees them of which such a share is over, collated."""
        batch = collate([self.drawn(index, seed, share) for index, seed in zip(indices, seeds, strict=True)])
        return replace(batch, draws=tuple(seeds))

    def plain(self, index: int) -> Sample:
        """Return a sample without augmentation. The set must have none, because it changes how images are stored."""
        if self.augmentation is not None:
            raise RuntimeError("samples of a set with augmentation cannot be had as they are")
        return self.cache[index]

    def drawn(self, index: int, seed: int, share: float = 0.0) -> Sample:
        """Return a sample for training, augmented by the draw of a seed, where such a share of the training is over."""
        sample = self.cache[index]
        if self.augmentation is None:
            return sample
        generator = torch.Generator().manual_seed(seed)
        if self.inputs.lidar_pool:
            sample = draw_sweeps(sample, self.inputs.lidar_sweeps, generator)
        if self.objects is not None and self.augmentation.paste and share < self.augmentation.paste.until:
            sample = paste(sample, self.augmentation.paste, self.objects, generator)
        return self._planned(augment(sample, self.augmentation, self.inputs.image_size, generator))

    def _planned(self, sample: Sample) -> Sample:
        views = sample.views
        if views is None:
            return sample
        plans = {geometry: geometry.plan(views.intrinsics, views.ego_from_camera) for geometry in self.inputs.lifts}
        return replace(sample, lifts=plans)

    def _decoded(self, index: int) -> Sample:
        cropped_later = None if self.augmentation is None else self.augmentation.image
        sample = read(self.root, self.tokens[index], self.inputs, cropped_later, self.labels)
        # With augmentation each draw moves the cameras anew.
        return self._planned(sample) if self.augmentation is None else sample


def batch_indices(samples: int | ClassBalance, batch_size: int, step: int, seed: int) -> list[int]:
    """Which samples make the batch of a step: a pure function, so a resumed training sees what it would have seen.

    Of a number of samples, each is drawn once before any is drawn again. Each round over them, and each balanced epoch,
    has a generator of its own.
    """
    epoch = samples if isinstance(samples, int) else len(samples)
    chosen: list[int] = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        round_, within = divmod(position, epoch)
        chosen.append(_order(samples, seed, round_)[within])
    return chosen


@dataclass(frozen=True)
class Parts:
    """How the batches of a training are cut: which part of each is this process's, and how that is cut again."""

    batch_size: int
    """Samples of a whole batch."""
    micro: int
    """Samples of a part, at most."""
    number: int = 0
    """Of this process."""
    count: int = 1
    """Processes, each of which has as many samples as any other."""

    def __post_init__(self) -> None:
        """Raise InputError where the samples cannot be shared."""
        if self.batch_size % self.count:
            raise InputError(
                f"a batch of {self.batch_size} samples cannot be shared by {self.count} GPUs alike; "
                "choose another --gpus-per-job or batch_size"
            )

    @property
    def share(self) -> int:
        """Samples of a batch that are this process's."""
        return self.batch_size // self.count

    @property
    def each(self) -> int:
        """Parts of a batch that are this process's."""
        return -(-self.share // self.micro)

    def place(self, key: int) -> tuple[int, slice]:
        """The step of a part, counted over all batches, and its samples among those of the step."""
        step, part = divmod(key, self.each)
        begin = self.number * self.share
        return step, slice(begin + part * self.micro, begin + min((part + 1) * self.micro, self.share))


def training_batches(
    samples: SampleSet | ImageSet,
    batch_size: int | Parts,
    steps: range,
    order_seed: int,
    augment_seed: int,
    workers: int = 0,
    variants: int | None = None,
) -> Iterator[Batch | ImageBatch]:
    """The batches of the given steps; order and augmentation have separate seeds, processes load without changing them.

    What is drawn at a position of the training does not depend on how batches are cut.

    Args:
        samples: To draw from.
        batch_size: Samples a batch; or the parts of each, which then come one after the other.
        steps: Of the training that are still to do, up to its end.
        order_seed: Decides which samples make a batch.
        augment_seed: Decides how they are varied.
        workers: Processes that load ahead; 0 loads in this one.
        variants: Of each sample, one after the other and again from the first; None: never the same again.
    """
    parts = batch_size if isinstance(batch_size, Parts) else Parts(batch_size, batch_size)

    balance = samples.balance if isinstance(samples, SampleSet) else None
    drawn_from = len(samples) if balance is None else balance

    def batch(key: int) -> Batch | ImageBatch:
        step, here = parts.place(key)
        chosen = batch_indices(drawn_from, parts.batch_size, step, order_seed)[here]
        positions = range(step * parts.batch_size, (step + 1) * parts.batch_size)[here]
        if variants is None:
            draws: Iterable[int] = positions
        else:
            rounds = (position // len(samples) for position in positions)
            draws = (variant(index, round_, variants) for index, round_ in zip(chosen, rounds, strict=True))
        seeds = [(augment_seed + draw) % 2**63 for draw in draws]
        if isinstance(samples, ImageSet):
            return samples.drawn_batch(chosen, seeds)
        return samples.drawn_batch(chosen, seeds, share=step / steps.stop)

    return _load(samples, batch, range(steps.start * parts.each, steps.stop * parts.each), workers)


def variant(index: int, round_: int, variants: int) -> int:
    """Which of all variants of all samples a sample has in a round; what is added to the seed of augmentation."""
    return index * variants + round_ % variants


def evaluation_batches(samples: SampleSet, batch_size: int, workers: int = 0, begin: int = 0) -> Iterator[Batch]:
    """Every sample from a number on once, in order."""

    def batch(first: int) -> Batch:
        return collate([samples.plain(index) for index in range(first, min(first + batch_size, len(samples)))])

    return _load(samples, batch, range(begin, len(samples), batch_size), workers)


def _load(samples: SampleSet | ImageSet, batch: Callable[[int], Loaded], keys: range, workers: int) -> Iterator[Loaded]:
    if workers:
        # Every process has a cache of its own.
        samples.cache.limit = CACHE_BYTES // workers
    yield from made(batch, keys, workers)


@lru_cache(maxsize=2)
def _order(samples: int | ClassBalance, seed: int, round_: int) -> list[int]:
    generator = torch.Generator().manual_seed((seed + 0x9E3779B97F4A7C15 * round_) % 2**63)
    if isinstance(samples, ClassBalance):
        return samples.epoch(generator)
    return torch.randperm(samples, generator=generator).tolist()


def sample_bytes(sample: Sample) -> int:
    """The size of what is large in a sample."""
    images = None if sample.views is None else sample.views.images
    owners = None if sample.instances is None else sample.instances.owner
    tensors = [sample.lidar, sample.radar, images, owners]
    return sum(held.nbytes for held in (*tensors, *sample.lifts.values()) if held is not None)
