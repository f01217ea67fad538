"""StudySpec to a DAG of jobs: what has to be trained, each thing once, and which table row shows it."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from detectors.detector import DetectorSpec
from detectors.spec import Spec
from harness.errors import InputError
from harness.study.spec import WARM_START, DetectionConfigName, ScheduleSpec, StudentSpec, StudySpec, TeacherSpec

RESULTS_VERSION = 3
"""Raised whenever the code would give other numbers for the same spec; runs of an older version are not reused."""


class DataIdentity(Spec):
    """What of the dataset decides a result; where it lies does not."""

    fingerprint: str
    """Hash of the tables (and of every file, where the root has a manifest)."""
    train_split: str
    eval_split: str
    detection_config: DetectionConfigName


class JobSpec(Spec):
    """Everything that decides a job's result; its hash is the job's name."""

    results_version: int = RESULTS_VERSION
    detector: DetectorSpec
    seed: int
    data: DataIdentity
    schedule: ScheduleSpec | None
    """In steps. None: nothing is trained, and weights that are given, or the initial ones, are scored."""
    weights: str | None = None
    """Content hash of the given weights."""
    model_of: str | None = None
    """Id of the job whose detector is scored."""
    teacher: str | None = None
    """Id of the job whose detector teaches."""
    losses: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Distillation losses with all their fields."""
    warm_start: bool = False
    """Neck and head begin as copies of the teacher's."""

    @property
    def needs(self) -> str | None:
        """Id of the job that has to be done before."""
        return self.teacher or self.model_of

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits of the hash of this spec."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Job:
    """A node of the DAG."""

    spec: JobSpec
    label: str
    """For people: the first row that wanted this job."""
    checkpoint: Path | None = None
    """Where the given weights lie."""

    @property
    def id(self) -> str:
        """The job's identity."""
        return self.spec.id


@dataclass(frozen=True)
class Row:
    """One training as a table shows it; rows that differ only in seed become one line."""

    role: Literal["teacher", "baseline", "control", "student"]
    model: str
    """Name of the teacher or student in the study."""
    path: str
    """TEACHER->STUDENT for a distilled student, else empty."""
    arm: str
    losses: tuple[str, ...]
    seed: int
    job: str
    baseline: str | None
    """The job of the same student and seed without a teacher."""
    split: str = ""
    """Where it is scored, if not on the evaluation split."""
    published_as: str = ""
    """Sensors of a trained teacher and its student, as in camera+lidar->camera: how papers' files name a path."""


@dataclass
class Plan:
    """Jobs in an order in which every teacher precedes its students, and the rows of the table."""

    jobs: dict[str, Job] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @property
    def wanted(self) -> int:
        """Trainings of a loop that gives each distilled student a teacher and a baseline of its own."""
        students = [self.jobs[row.job].spec for row in self.rows if row.role == "student" and not row.split]
        controls = sum(1 for row in self.rows if row.role == "control" and not row.split)
        taught = sum(1 for student in students if student.teacher and self.jobs[student.teacher].spec.schedule)
        return 2 * len(students) + taught + controls if students else sum(1 for row in self.rows if not row.split)

    def add(self, job: Job) -> str:
        """Take a job in, unless an equal one is there; its id."""
        self.jobs.setdefault(job.id, job)
        return job.id


def plan_study(study: StudySpec, fingerprint: str, samples: Callable[[], int]) -> Plan:
    """The smallest set of trainings that answers the study.

    Args:
        study: The question.
        fingerprint: Identity of the dataset, `NuScenesRoot.fingerprint`.
        samples: Counts those of its training split; called where epochs have to become steps.
    """
    plan = Plan()
    data = DataIdentity(
        fingerprint=fingerprint,
        train_split=study.data.train_split,
        eval_split=study.data.eval_split,
        detection_config=study.data.detection_config,
    )

    taught = study.schedule if study.schedule.epochs is None else study.schedule.for_samples(samples())
    # What only distillation reads is no part of what a training without a teacher is.
    plain = taught.model_copy(update={"distillation_warmup": 0.0})

    def spec(model: TeacherSpec | StudentSpec, seed: int, schedule: ScheduleSpec = plain) -> JobSpec:
        return JobSpec(detector=model.detector, seed=seed, data=data, schedule=schedule)

    untrained = data.model_copy(update={"train_split": ""})
    teachers = {}
    for name in _used(study, 0):
        teacher = study.teachers[name]
        for seed in dict.fromkeys(map(teacher.seed_for, study.seeds)):
            job_spec = spec(teacher, seed)
            if teacher.checkpoint is not None:
                # Neither seed nor training split of the study had a part in weights that are given.
                given = {"schedule": None, "weights": _content_hash(teacher.checkpoint), "seed": 0}
                job_spec = job_spec.model_copy(update=given | {"data": untrained})
            elif not teacher.trained:
                job_spec = job_spec.model_copy(update={"schedule": None, "data": untrained})
            paired = f", seed {seed}" if teacher.seed == "paired" else ""
            teachers[name, seed] = plan.add(Job(job_spec, f"teacher {name}{paired}", teacher.checkpoint))
            plan.rows.append(Row("teacher", name, "", "teacher", (), seed, teachers[name, seed], None))

    baselines = {}
    for name in _used(study, 1) if study.paths else study.students:
        for seed in study.seeds:
            job = Job(spec(study.students[name], seed), f"{name} baseline, seed {seed}")
            baselines[name, seed] = plan.add(job)
            plan.rows.append(Row("baseline", name, "", "baseline", (), seed, job.id, job.id))
        if (longer := study.students[name].longer_baseline) is None:
            continue
        # Rounded first, for 1.1 * 1000 is a little more than 1100.
        schedule = plain.model_copy(update={"steps": math.ceil(round(longer * plain.length, 6))})
        arm = f"baseline, {longer:g} x steps"
        for seed in study.seeds:
            control = Job(spec(study.students[name], seed, schedule), f"{name} {arm}, seed {seed}")
            plan.rows.append(Row("control", name, "", arm, (), seed, plan.add(control), baselines[name, seed]))

    for path in study.paths:
        teacher_name, student = path.split("->")
        for arm, names in study.arms.items():
            losses = _losses(study, names, path)
            for seed in study.seeds:
                teacher_seed = study.teachers[teacher_name].seed_for(seed)
                with_teacher = {
                    "teacher": teachers[teacher_name, teacher_seed],
                    "losses": losses,
                    "warm_start": WARM_START in names,
                }
                schedule = taught if losses else plain
                job_spec = spec(study.students[student], seed, schedule).model_copy(update=with_teacher)
                id_ = plan.add(Job(job_spec, f"{path} {arm}, seed {seed}"))
                known_as = study.sensors(path) if study.teachers[teacher_name].trained else ""
                own = baselines[student, seed]
                plan.rows.append(Row("student", student, path, arm, names, seed, id_, own, published_as=known_as))

    for row in list(plan.rows):
        for split in study.data.also_score:
            scored = plan.add(_scored_on(plan.jobs[row.job], split))
            baseline = row.baseline and plan.add(_scored_on(plan.jobs[row.baseline], split))
            plan.rows.append(replace(row, job=scored, baseline=baseline, split=split, published_as=""))
    return plan


def _losses(study: StudySpec, names: Sequence[str], path: str) -> dict[str, dict[str, Any]]:
    """The losses of an arm with all their fields.

    What a study calls a loss must not make two jobs of one: only where an arm has several of a kind do they keep its
    names.
    """
    chosen = [name for name in names if name != WARM_START]
    count = Counter(study.kind(name) for name in chosen)
    losses = {}
    for name in chosen:
        kind, fields = study.kind(name), study.loss(name, path).model_dump(mode="json")
        if count[kind] == 1:
            losses[kind] = fields
        else:
            losses[name] = fields if name == kind else {"loss": kind, **fields}
    return losses


def _scored_on(job: Job, split: str) -> Job:
    """The detector of a job, scored on another split."""
    spec = JobSpec(
        detector=job.spec.detector,
        seed=job.spec.seed,
        data=job.spec.data.model_copy(update={"eval_split": split}),
        schedule=None,
        model_of=job.id,
    )
    return Job(spec, f"{job.label}, on {split}")


def _used(study: StudySpec, end: int) -> list[str]:
    """The teachers (0) or students (1) that a path of the study touches, each once."""
    return list(dict.fromkeys(path.split("->")[end] for path in study.paths))


def _content_hash(checkpoint: Path) -> str:
    try:
        return hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"teacher checkpoint {checkpoint} cannot be read: {error.strerror}") from error
