"""Specs of jobs, the nodes of a study's DAG. The hash of a spec is the id of the job."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from detectors.detector import DetectorSpec
from detectors.segmenter import SegmenterSpec
from detectors.spec import Spec
from distill.maps import MapsSpec
from harness.study.schedule import ScheduleSpec
from harness.study.spec import DetectionConfigName

RESULTS_VERSION = 3
"""Raised whenever the code would give other numbers for the same spec; runs of an older version are not reused."""


class DataIdentity(Spec):
    """The identity of the dataset, without its path."""

    later: ClassVar[frozenset[str]] = frozenset({"train_share"})

    fingerprint: str
    """Hash of the tables (and of every file, where the root has a manifest)."""
    train_split: str
    train_share: float = 1.0
    """As in `DataSpec`."""
    eval_split: str
    detection_config: DetectionConfigName


class JobSpec(Spec):
    """Fields of every job."""

    measures: ClassVar[tuple[str, ...]] = ()
    """Metrics that its result must have."""

    results_version: int = RESULTS_VERSION

    @property
    def training(self) -> ScheduleSpec | None:
        """How it is trained, in steps; None where nothing is."""
        return None

    @property
    def precision(self) -> str:
        """The precision in which it is trained and scored."""
        return self.training.precision if self.training else "32-true"

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the jobs that must be finished first."""
        return ()

    @property
    def steps(self) -> int:
        """Number of training steps; 0 if nothing is trained."""
        return self.training.length if self.training else 0

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits of the hash of this spec."""
        return spec_hash(self.model_dump(mode="json"))


def spec_hash(content: Mapping[str, Any]) -> str:
    """The id of the job whose spec is this JSON, also of a spec that only an older or a newer version can read."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class MapsIdentity(Spec):
    """A folder of a teacher's maps, without its path."""

    spec: MapsSpec
    content: str
    """Hash of its files (`harness.study.maps_folder.maps_hash`)."""


class DetectorJobSpec(JobSpec):
    """A detector, trained or given, and scored."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"labels", "image_backbone", "image_weights", "resample_teacher", "maps", "mirrored", "oracle"}
    )
    measures: ClassVar[tuple[str, ...]] = ("mAP", "NDS")

    detector: DetectorSpec
    seed: int
    data: DataIdentity
    schedule: ScheduleSpec | None
    """A schedule in steps. None: nothing is trained, and weights that are given, or the initial ones, are scored."""
    weights: str | None = None
    """Content hash of the given weights."""
    model_of: str | None = None
    """Id of the job whose detector is scored."""
    teacher: str | None = None
    """Id of the job whose detector teaches."""
    resample_teacher: bool = False
    """Whether the teacher's maps are brought from its own grid and frame to the student's."""
    maps: MapsIdentity | None = None
    """A folder of maps that teaches instead of a detector."""
    mirrored: bool = False
    """The teacher's maps are mirrored."""
    oracle: bool = False
    """An oracle teaches, which is no job."""
    losses: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Distillation losses with all their fields."""
    warm_start: bool = False
    """Neck and head begin as copies of the teacher's."""
    labels: str | None = None
    """Id of the job that has an image teacher's pseudo labels of the training split."""
    image_backbone: str | None = None
    """Id of the job of the image teacher whose backbone the detector's begins as."""
    image_weights: str | None = None
    """Content hash of the file that the image backbone begins with."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Its teachers, the job whose detector is scored, and what it begins as."""
        return tuple(id_ for id_ in (self.teacher, self.model_of, self.labels, self.image_backbone) if id_)

    @property
    def training(self) -> ScheduleSpec | None:
        """Its schedule."""
        return self.schedule

    @property
    def compared_with(self) -> str | None:
        """Id of the job whose maps its own are compared with, cell by cell: its teacher's, on the same grid."""
        return None if self.resample_teacher else self.teacher


class ImageDataIdentity(Spec):
    """The identity of an image teacher's dataset."""

    fingerprint: str
    train_split: str
    eval_split: str


class SegmenterJobSpec(JobSpec):
    """An image teacher, trained and scored."""

    measures: ClassVar[tuple[str, ...]] = ("AP", "AP50")

    segmenter: SegmenterSpec
    seed: int
    data: ImageDataIdentity
    schedule: ScheduleSpec

    @property
    def training(self) -> ScheduleSpec:
        """Its schedule."""
        return self.schedule


class LabelsJobSpec(JobSpec):
    """A job that writes an image teacher's labels for every image of a split of the detection data."""

    fingerprint: str
    """Hash of the tables of the detection data."""
    split: str
    segmenter: str | None = None
    """Id of the job that trained it."""
    model: str | None = None
    """Name of a model of transformers."""
    given: str | None = None
    """Content hash of labels that were made elsewhere, or of the weights of a model in a folder."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The segmenter."""
        return (self.segmenter,) if self.segmenter else ()


AnyJobSpec = DetectorJobSpec | SegmenterJobSpec | LabelsJobSpec


def label_files(folder: Path) -> list[Path]:
    """The files of labels in a folder; those with a dot before the name are a Mac's or an editor's, about another."""
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def labels_hash(folder: Path) -> str:
    """Hash of the files of labels in a folder, whatever they are called; raises FileNotFoundError without any."""
    files = label_files(folder)
    if not files:
        raise FileNotFoundError("no folder with a .json file of labels")
    return hashlib.sha256("".join(map(content_hash, files)).encode()).hexdigest()


def content_hash(path: Path) -> str:
    """Hash of a file; one that nobody wrote to is read once for all, for a search plans its trials by the hundred."""
    stat = path.stat()
    return _hash_of(path, stat.st_size, stat.st_mtime_ns)


@cache
def _hash_of(path: Path, size: int, mtime_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Job:
    """A node of the DAG."""

    spec: AnyJobSpec
    label: str
    """The first row that wanted this job, for people."""
    source: Path | None = None
    """Path of given input: weights, the root of an image teacher's dataset, or a folder of labels or of maps."""
    image_weights: Path | None = None
    """Path of the file that a detector's image backbone begins with."""

    @cached_property
    def id(self) -> str:
        """The job's identity."""
        return self.spec.id
