"""Plans a study: the jobs that it needs, each once, as a DAG, and the table row of each job."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from detectors.detector import DetectorSpec
from distill.objective import GROUND
from harness.errors import InputError, input_error_on_os_error
from harness.study.jobs import (
    DataIdentity,
    DetectorJobSpec,
    ImageDataIdentity,
    Job,
    LabelsJobSpec,
    MapsIdentity,
    SegmenterJobSpec,
    content_hash,
    labels_hash,
)
from harness.study.maps_folder import maps_hash, maps_spec
from harness.study.roles import ImageDataSpec, ImageTeacherSpec, StudentSpec, TeacherSpec
from harness.study.schedule import ScheduleSpec
from harness.study.spec import WARM_START, StudySpec, term_name

ImageData = Callable[[ImageDataSpec], tuple[Path, str]]
"""Where an image teacher's dataset lies, and its identity."""


@dataclass(frozen=True)
class Row:
    """One training as a table shows it; rows that differ only in seed become one line."""

    role: Literal["teacher", "image teacher", "baseline", "control", "student"]
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
    deterministic: bool = False
    """Whether jobs use only operations that give the same bits each time. No part of what they are."""
    plain_epochs: float | None = None
    """Plain epochs in a class-balanced one of a schedule; None where no epoch is one."""

    @property
    def looped_trainings(self) -> int:
        """Trainings of a loop that gives each distilled student a teacher and a baseline of its own."""
        students = [self.detector_spec(row.job) for row in self.rows if row.role == "student" and not row.split]
        controls = sum(1 for row in self.rows if row.role == "control" and not row.split)
        taught = sum(1 for student in students if student.teacher and self.detector_spec(student.teacher).schedule)
        shown = sum(1 for student in students if student.labels) if self.image_teachers else 0
        trained = 2 * len(students) + taught + shown + controls
        return trained if students else sum(1 for row in self.rows if not row.split)

    @property
    def image_teachers(self) -> list[SegmenterJobSpec]:
        """Those that are trained here."""
        return [job.spec for job in self.jobs.values() if isinstance(job.spec, SegmenterJobSpec)]

    def detector_spec(self, id_: str) -> DetectorJobSpec:
        """The spec of a job that is a detector's."""
        spec = self.jobs[id_].spec
        assert isinstance(spec, DetectorJobSpec), f"{self.jobs[id_].label} is not a detector"
        return spec

    def add(self, job: Job) -> str:
        """Take a job in, unless an equal one is there; its id."""
        self.jobs.setdefault(job.id, job)
        return job.id


def plan_study(
    study: StudySpec,
    fingerprint: str,
    samples: Callable[[], int],
    images: ImageData | None = None,
    balanced: Callable[[], int] | None = None,
) -> Plan:
    """The smallest set of trainings that answers the study.

    Args:
        study: The question.
        fingerprint: Identity of the dataset, `NuScenesRoot.fingerprint`.
        samples: Counts those of its training split; called where epochs have to become steps.
        images: Finds an image teacher's dataset; called for those that are trained here.
        balanced: Counts the samples of a class-balanced epoch of its training split, for a study with such epochs.
    """
    plan = Plan(deterministic=study.schedule.deterministic)
    data = DataIdentity(
        fingerprint=fingerprint,
        train_split=study.data.train_split,
        train_share=study.data.train_share,
        eval_split=study.data.eval_split,
        detection_config=study.data.detection_config,
    )
    segmenters = _Segmenters(plan, study, images)
    hashes: dict[Path, str] = {}

    def taught(model: TeacherSpec | StudentSpec) -> ScheduleSpec:
        schedule = study.schedule_of(model).model_copy(update={"deterministic": False})
        if schedule.epochs is None:
            return schedule
        if not schedule.class_balanced:
            return schedule.for_samples(samples())
        assert balanced is not None, "a study with class-balanced epochs has to be told how long they are"
        plan.plain_epochs = balanced() / samples()
        return schedule.for_samples(balanced())

    def plain(model: TeacherSpec | StudentSpec) -> ScheduleSpec:
        # What only distillation reads is no part of what a training without a teacher is.
        return taught(model).without_distillation()

    def spec(model: TeacherSpec | StudentSpec, seed: int, schedule: ScheduleSpec | None = None) -> DetectorJobSpec:
        trained_on = data if model.train_share is None else data.model_copy(update={"train_share": model.train_share})
        backbone = segmenters.add(model.init.image_backbone) if model.init.image_backbone else None
        begun = model.init.image_weights
        if begun is not None and begun not in hashes:
            hashes[begun] = _content_hash(begun)
        return DetectorJobSpec(
            detector=model.detector_spec,
            seed=seed,
            data=trained_on,
            schedule=schedule or plain(model),
            image_backbone=backbone,
            image_weights=None if begun is None else hashes[begun],
        )

    untrained = data.model_copy(update={"train_split": "", "train_share": 1.0})
    teachers: dict[tuple[str, int], str] = {}
    asked = [study.teachers_asked(names, path) for path in study.paths for names in study.arms.values()]
    maps: dict[str, MapsIdentity] = {}
    for name in dict.fromkeys(ends.teacher for ends in asked if ends.teacher):
        teacher = study.teachers[name]
        if teacher.oracle:
            continue
        if teacher.maps is not None:
            maps[name] = MapsIdentity(spec=maps_spec(teacher.maps), content=maps_hash(teacher.maps))
            continue
        for seed in dict.fromkeys(map(teacher.seed_for, study.seeds)):
            job_spec = spec(teacher, seed)
            if teacher.checkpoint is not None:
                # Neither seed nor training split of the study had a part in weights that are given.
                content = _content_hash(teacher.checkpoint)
                given = {"schedule": None, "weights": content, "seed": 0}
                job_spec = job_spec.model_copy(update=given | {"data": untrained})
            elif not teacher.trained:
                job_spec = job_spec.model_copy(update={"schedule": None, "data": untrained})
            paired = f" · seed {seed}" if teacher.seed == "paired" else ""
            teachers[name, seed] = plan.add(
                Job(job_spec, f"{name} · teacher{paired}", teacher.checkpoint, teacher.init.image_weights)
            )
            plan.rows.append(Row("teacher", name, "", "teacher", (), seed, teachers[name, seed], None))

    labels = {
        name: _add_labels(segmenters, name, data)
        for name in dict.fromkeys(ends.image_teacher for ends in asked if ends.image_teacher)
    }

    baselines = {}
    for name in dict.fromkeys(study.ends(path).student for path in study.paths) if study.paths else study.students:
        for seed in study.seeds:
            begun = study.students[name].init.image_weights
            job = Job(spec(study.students[name], seed), f"{name} · baseline · seed {seed}", image_weights=begun)
            baselines[name, seed] = plan.add(job)
            plan.rows.append(Row("baseline", name, "", "baseline", (), seed, job.id, job.id))
        if (longer := study.students[name].longer_baseline) is None:
            continue
        # Rounded first, for 1.1 * 1000 is a little more than 1100.
        usual = plain(study.students[name])
        schedule = usual.model_copy(update={"steps": math.ceil(round(longer * usual.length, 6))})
        arm = study.students[name].longer_arm
        for seed in study.seeds:
            begun = study.students[name].init.image_weights
            control = Job(spec(study.students[name], seed, schedule), f"{name} · {arm} · seed {seed}", None, begun)
            plan.rows.append(Row("control", name, "", arm, (), seed, plan.add(control), baselines[name, seed]))

    for path in study.paths:
        for arm, names in study.arms.items():
            ends = study.teachers_asked(names, path)
            taught_by = study.teachers[ends.teacher] if ends.teacher else None
            losses = _losses(study, names, path)
            student = study.students[ends.student].detector_spec
            detector = None if taught_by is None or taught_by.maps or taught_by.oracle else taught_by
            for seed in study.seeds:
                distilled = {
                    "teacher": teachers[ends.teacher, detector.seed_for(seed)] if ends.teacher and detector else None,
                    "mirrored": bool(detector and detector.mirrored and losses),
                    "oracle": bool(taught_by and taught_by.oracle),
                    "maps": maps.get(ends.teacher or ""),
                    # A teacher on the same ground is not resampled, whatever the study allows.
                    "resample_teacher": bool(detector and _ground(detector.detector_spec) != _ground(student)),
                    "losses": losses,
                    "warm_start": WARM_START in names,
                    "labels": labels[ends.image_teacher] if ends.image_teacher else None,
                }
                learning = study.students[ends.student]
                schedule = taught(learning) if losses else plain(learning)
                job_spec = spec(learning, seed, schedule).model_copy(update=distilled)
                folder = None if taught_by is None else taught_by.maps
                begun = study.students[ends.student].init.image_weights
                id_ = plan.add(Job(job_spec, f"{path} · {arm} · seed {seed}", folder, begun))
                known_as = study.sensors(ends) if taught_by is None or not taught_by.is_control else ""
                untaught = baselines[ends.student, seed]
                plan.rows.append(
                    Row("student", ends.student, path, arm, names, seed, id_, untaught, published_as=known_as)
                )

    _check_pasting(plan)
    for row in [row for row in plan.rows if row.role != "image teacher"]:
        for split in study.data.also_score:
            scored = plan.add(_scored_on(plan.jobs[row.job], split))
            baseline = row.baseline and plan.add(_scored_on(plan.jobs[row.baseline], split))
            plan.rows.append(replace(row, job=scored, baseline=baseline, split=split, published_as=""))
    return plan


def _check_pasting(plan: Plan) -> None:
    """Raise InputError for a training with GT-paste, one of whose models would not see all of what is pasted."""
    for job in plan.jobs.values():
        spec = job.spec
        if not isinstance(spec, DetectorJobSpec) or spec.schedule is None or spec.schedule.augment.paste is None:
            continue
        pastes = f"{job.label}: schedule.augment.paste puts LiDAR returns into samples"
        models = {"it": spec.detector}
        if spec.teacher and spec.losses:
            models["its teacher"] = plan.detector_spec(spec.teacher).detector
        for which, detector in models.items():
            if others := sorted(detector.inputs.sensors - {"lidar"}):
                raise InputError(
                    f"{pastes}, and {which} has a {' and a '.join(others)}, which would see nothing there; leave it out"
                )
        if spec.maps and spec.losses:
            raise InputError(f"{pastes}, and its teacher's maps were made without them; leave it out")


def _ground(spec: DetectorSpec) -> list[Any]:
    return [getattr(spec, name) for name in GROUND]


def _losses(study: StudySpec, names: Sequence[str], path: str) -> dict[str, dict[str, Any]]:
    """The losses of an arm with all their fields.

    What a study calls a loss must not make two jobs of one: only where an arm has several of a kind do they keep its
    names.
    """
    chosen = [name for name in names if name != WARM_START]
    count = Counter(term_name(study.kind(name)) for name in chosen)
    losses: dict[str, dict[str, Any]] = {}
    for name in chosen:
        kind, fields = study.kind(name), study.loss(name, path).model_dump(mode="json")
        called = term_name(kind) if count[term_name(kind)] == 1 else name
        if called in losses:
            raise InputError(
                f"losses.{name}: two losses of an arm would be named {called!r} in logs; rename one of them"
            )
        losses[called] = fields if called == kind else {"loss": kind, **fields}
    return losses


def _scored_on(job: Job, split: str) -> Job:
    """The detector of a job, scored on another split."""
    scored = job.spec
    assert isinstance(scored, DetectorJobSpec)
    spec = DetectorJobSpec(
        detector=scored.detector,
        seed=scored.seed,
        data=scored.data.model_copy(update={"eval_split": split}),
        schedule=None,
        model_of=job.id,
    )
    return Job(spec, f"{job.label} · on {split}")


@dataclass
class _Segmenters:
    """The image teachers of a study that are trained here, each added to the plan once."""

    plan: Plan
    study: StudySpec
    images: ImageData | None
    ids: dict[str, str] = field(default_factory=dict)

    def add(self, name: str) -> str:
        """Its job's id."""
        if name in self.ids:
            return self.ids[name]
        teacher: ImageTeacherSpec = self.study.image_teachers[name]
        assert self.images is not None, "a study with an image teacher to train has to be told where its images are"
        root, fingerprint = self.images(teacher.data)
        spec = SegmenterJobSpec(
            segmenter=teacher.segmenter,
            seed=teacher.seed,
            data=ImageDataIdentity(
                fingerprint=fingerprint, train_split=teacher.data.train_split, eval_split=teacher.data.eval_split
            ),
            schedule=teacher.schedule.model_copy(update={"deterministic": False}),
        )
        self.ids[name] = self.plan.add(Job(spec, f"{name} · image teacher", root))
        self.plan.rows.append(Row("image teacher", name, "", "image teacher", (), teacher.seed, self.ids[name], None))
        return self.ids[name]


def _add_labels(segmenters: _Segmenters, name: str, data: DataIdentity) -> str:
    """The jobs of an image teacher; the id of the one that has its labels of the training split."""
    plan = segmenters.plan
    teacher: ImageTeacherSpec = segmenters.study.image_teachers[name]
    labels: dict[str, Any] = {"fingerprint": data.fingerprint, "split": data.train_split}
    if teacher.preset is not None:
        spec = LabelsJobSpec(segmenter=segmenters.add(name), **labels)
        return plan.add(Job(spec, f"{name} · labels"))
    if teacher.model is not None:
        # A folder may come to hold other weights; a name on the hub is taken for what it is when first used.
        local = Path(teacher.model) / "model.safetensors"
        content = _content_hash(local) if local.is_file() else None
        job = Job(LabelsJobSpec(model=teacher.model, given=content, **labels), f"{name} · labels")
    else:
        assert teacher.labels is not None
        with input_error_on_os_error(f"image_teachers.{name}.labels: {teacher.labels}"):
            content = labels_hash(teacher.labels)
        job = Job(LabelsJobSpec(given=content, **labels), f"{name} · labels", teacher.labels)
    plan.rows.append(Row("image teacher", name, "", "image teacher", (), teacher.seed, job.id, None))
    return plan.add(job)


def _content_hash(path: Path) -> str:
    with input_error_on_os_error(f"weights {path} cannot be read"):
        return content_hash(path)
