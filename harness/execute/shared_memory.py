"""Shared memory, through which loading processes hand batches over: what a study needs of it, and what there is."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.console import size_text
from harness.data.processes import PREFETCH
from harness.data.root import NuScenesRoot
from harness.errors import InputError
from harness.execute.site import Site
from harness.jobs.kinds import kind_of
from harness.study.jobs import DetectorJobSpec, Job, spec_hash
from harness.study.plan import Plan

FOLDER = Path("/dev/shm")


@dataclass(frozen=True)
class SharedMemory:
    """What the loading processes of a site need of shared memory, in bytes."""

    batch: int
    """The largest batch of any job."""
    trainings: int
    """At once."""
    processes: int
    """That load for each training."""

    @property
    def needed(self) -> int:
        """Each process works a few batches ahead, and each training has one in hand."""
        return self.trainings * (PREFETCH * self.processes + 1) * self.batch

    @property
    def free(self) -> int | None:
        """What there is; None where it has no bounds of its own, as outside Linux."""
        return shutil.disk_usage(FOLDER).free if FOLDER.is_dir() else None

    @property
    def text(self) -> str:
        """What is needed and what there is, for people."""
        parts = f"{self.trainings} x ({PREFETCH} x {self.processes} loading processes + 1) x {size_text(self.batch)}"
        there = "" if self.free is None else f"; {FOLDER} has {size_text(self.free)}"
        return f"loading needs up to {size_text(self.needed)} of shared memory ({parts} per batch){there}"

    def check(self) -> None:
        """Raise InputError where there is less than needed: in mid-training, a bus error would kill a process."""
        if self.free is None or self.needed <= self.free:
            return
        fitting = (self.free // (self.trainings * self.batch) - 1) // PREFETCH
        raise InputError(
            f"{self.text}; allowed: --loader-workers {max(fitting, 0)}, fewer --workers, or a larger {FOLDER}, such as "
            f"docker run --shm-size={-(-self.needed // 2**30)}g"
        )


def shared_memory(plan: Plan, todo: Sequence[Job], site: Site) -> SharedMemory | None:
    """What jobs need on a site, by a sample of each kind; None where no process loads for another."""
    if not site.loader_workers or not todo:
        return None
    # Jobs that differ in seeds and losses alone load the same.
    root = NuScenesRoot(site.root.path, site.root.version)
    alike = {_read(job, plan): job for job in todo}
    largest = max(kind_of(job.spec).batch_bytes(job.spec, job.source, plan, root) for job in alike.values())
    at_once = min(site.workers, len(todo))
    return SharedMemory(largest, at_once, site.loader_workers) if largest else None


def _read(job: Job, plan: Plan) -> str:
    """What decides what a job loads."""
    spec = job.spec.model_dump(mode="json")
    taught_by = job.spec.teacher if isinstance(job.spec, DetectorJobSpec) and job.spec.losses else None
    teacher = plan.detector_spec(taught_by).detector.model_dump(mode="json") if taught_by else None
    names = ("kind", "detector", "segmenter", "schedule", "data", "resample_teacher")
    return spec_hash({"teacher": teacher, **{name: spec.get(name) for name in names}})
