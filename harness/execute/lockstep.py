"""Lockstep: which jobs train side by side in one process, where they share the loading and the teacher."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from functools import cache

import torch

from detectors.detector import DetectorSpec
from harness.execute.site import Site
from harness.jobs.kinds import kind_of
from harness.study.jobs import DetectorJobSpec, Job

MOST = 8
"""Students in one process, unless a number is given: of more, the shared part is a small share of the time already."""
BYTES_PER_PARAMETER = 16
"""Of a training: weights, gradients, and AdamW's two moments, in float32."""
MEMORY_SHARE = 0.5
"""The share of a device's memory that these may take; the rest is for one student's activations, which come and go."""


class Lockstep:
    """Chooses the jobs of the next process of a site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._keys: dict[str, str] = {}
        self.alone: set[str] = set()
        """Ids of jobs that train by themselves from now on."""

    def choose(self, ready: Sequence[Job], free: int) -> list[Job]:
        """Return the first job, and those that train beside it.

        No more than leave each of the other free processes something to do.

        Args:
            ready: The jobs that could start now, most urgent first.
            free: Processes that could start now.
        """
        first = ready[0]
        if self._site.lockstep == 1:
            return [first]
        companions = [job for job in ready if self._key(job) == self._key(first)]
        if len(companions) == 1:
            return companions
        others = {self._key(job) for job in ready} - {self._key(first)}
        processes = max(1, free - len(others))
        return companions[: min(self._most(first), math.ceil(len(companions) / processes))]

    def sizes(self, jobs: Sequence[Job]) -> dict[str, int]:
        """Return by id how many of these jobs share a process, if all of one kind are ready at once."""
        alike = Counter(map(self._key, jobs))
        several = {job.id: math.ceil(alike[self._key(job)] / self._site.workers) for job in jobs}
        # To find out what fits into memory takes more than a second, so it is asked of several only.
        return {job.id: min(self._most(job), several[job.id]) if several[job.id] > 1 else 1 for job in jobs}

    def _key(self, job: Job) -> str:
        """What companions share; of a job that trains by itself, its id."""
        if job.id not in self._keys:
            self._keys[job.id] = kind_of(job.spec).lockstep_key(job.spec) or job.id
        return job.id if job.id in self.alone else self._keys[job.id]

    def _most(self, job: Job) -> int:
        if self._site.lockstep is not None or not isinstance(job.spec, DetectorJobSpec):
            return self._site.lockstep or 1
        room = MEMORY_SHARE * _memory(self._site)
        return max(1, min(MOST, int(room / (BYTES_PER_PARAMETER * _parameters(job.spec.detector)))))


@cache
def _parameters(spec: DetectorSpec) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in spec.build().parameters())


@cache
def _memory(site: Site) -> float:
    """Bytes for one training of a site."""
    if site.device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / site.workers
