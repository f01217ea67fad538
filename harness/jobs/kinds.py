"""The table of kinds of jobs. A new kind needs a file here, a spec in `harness.study.jobs` and a line of KINDS."""

from pathlib import Path
from typing import Any

from harness.data.root import NuScenesRoot
from harness.jobs.detector import DetectorKind
from harness.jobs.kind import Kind
from harness.jobs.labels import LabelsKind
from harness.jobs.segmenter import SegmenterKind
from harness.study.jobs import DetectorJobSpec, Job, JobSpec, LabelsJobSpec, SegmenterJobSpec
from harness.train.image_weights import check_image_weights

KINDS: dict[type[JobSpec], Kind[Any]] = {
    DetectorJobSpec: DetectorKind(),
    SegmenterJobSpec: SegmenterKind(),
    LabelsJobSpec: LabelsKind(),
}


def kind_of(spec: JobSpec) -> Kind[Any]:
    """What knows how to run it."""
    return KINDS[type(spec)]


def check_given(jobs: list[Job]) -> None:
    """Raise InputError for what a study gives to one of these jobs, such as weights, and that it cannot use."""
    for job in jobs:
        kind_of(job.spec).check_given(job.spec, job.source)
    begun = {(job.image_weights, job.spec.detector) for job in jobs if isinstance(job.spec, DetectorJobSpec)}
    for path, detector in begun:
        if path is not None:
            check_image_weights(path, detector)


def check_inputs(jobs: list[Job], root: NuScenesRoot) -> None:
    """Raise InputError, before anything is trained, for a file that one of these jobs would miss."""
    check_given(jobs)
    # A view of its own: a large root's tables are not kept in memory while others train.
    root = NuScenesRoot(root.path, root.version)
    by_kind: dict[type[JobSpec], list[tuple[JobSpec, Path | None]]] = {}
    for job in jobs:
        by_kind.setdefault(type(job.spec), []).append((job.spec, job.source))
    for kind, of_kind in by_kind.items():
        KINDS[kind].check(of_kind, root)
