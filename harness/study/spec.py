"""StudySpec: the question a study asks, as a strict and frozen schema."""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, PositiveFloat, field_validator, model_validator

from detectors.detector import DetectorSpec
from detectors.presets import PRESETS
from detectors.spec import Spec
from distill.loss import LossSpec
from distill.objective import DETECTION_TERMS, LOSSES
from distill.weights import PUBLISHED, published_weight
from harness.errors import unknown
from harness.study.arms import expand

DETECTION_CONFIG_PATTERN = r"^(nuscenes|within_[1-9]\d{0,2}m)$"
DetectionConfigName = Annotated[str, Field(pattern=DETECTION_CONFIG_PATTERN)]
"""nuScenes' own class ranges, or those cut at so many metres."""


def scored_range(config: DetectionConfigName) -> int:
    """Distance from the ego car up to which objects are scored, metres; nuScenes' longest is 50, that of vehicles."""
    return 50 if config == "nuscenes" else min(50, int(config.removeprefix("within_").removesuffix("m")))


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"{list(bounds)} is not [smallest, largest]")
    return bounds


class DataSpec(Spec):
    """Which scenes are trained on and which are scored."""

    preset: Literal["tiny", "small", "smoke"] = "tiny"
    """The embedded dataset to make on first use; ignored where a root is given."""
    seed: int = 0
    """Of the embedded dataset."""
    root: Path | None = None
    """A nuScenes root of the user's; its version and splits then apply."""
    version: str = "v1.0-synthetic"
    train_split: str = "synthetic_train"
    eval_split: str = "synthetic_val"
    also_score: tuple[str, ...] = ()
    """Splits on which every row is scored besides: on the training split, how much was learned by heart."""
    detection_config: DetectionConfigName = "within_16m"
    """Scoring ranges; shown with every table."""

    @field_validator("also_score")
    @classmethod
    def _each_once(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(splits)) < len(splits):
            raise ValueError(f"{list(splits)} name a split twice")
        return splits


class ImageAugmentSpec(Spec):
    """How each image is varied on its own."""

    zoom: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    """Smallest and largest size, in multiples of what just covers the detector's input; what stands over is cropped."""
    rotation_degrees: float = Field(default=0.0, ge=0, le=45)
    """Turned by up to so much either way."""
    flip_probability: float = Field(default=0.0, ge=0, le=1)
    """Left and right of one image exchanged, and of what it shows nothing else: orientation becomes ambiguous."""

    @field_validator("zoom")
    @classmethod
    def _in_order(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        return _ordered(bounds)


class AugmentSpec(Spec):
    """How training samples are varied; teacher and student see the same variant.

    Only mirrored unless a study says more: in the few epochs of the tiny studies more variation hides the training
    scenes from a detector and does nothing for other ones.
    """

    mirror_probability: float = Field(default=0.5, ge=0, le=1)
    """The whole world with its images, left and right exchanged."""
    rotation_degrees: float = Field(default=0.0, ge=0, le=180)
    """The BEV frame is turned by up to so much either way."""
    scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    """The BEV frame is scaled by a factor between the two."""
    flip_probability: float = Field(default=0.0, ge=0, le=1)
    """Of x to -x and of y to -y in the BEV frame, the images staying as they are."""
    shift: float = Field(default=0.0, ge=0)
    """The BEV frame is shifted by up to so many metres either way along x and along y."""
    image: ImageAugmentSpec = ImageAugmentSpec()

    @field_validator("scale")
    @classmethod
    def _in_order(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        return _ordered(bounds)


Share = Annotated[float, Field(gt=0, lt=1)]


class ScheduleSpec(Spec):
    """How long and how fast every training of the study learns, with AdamW."""

    steps: int | None = Field(default=None, gt=0)
    epochs: PositiveFloat | None = Field(default=None, allow_inf_nan=False)
    """Instead of steps: so many times every training sample; a step that has begun is done."""
    batch_size: int = Field(default=8, gt=0)
    lr: float = Field(default=2e-3, gt=0)
    """The highest learning rate."""
    policy: Literal["one_cycle", "multi_step"] = "one_cycle"
    """Up and down again, or a tenth from each milestone on."""
    milestones: tuple[Share, ...] = (0.7, 0.9)
    """Of "multi_step", in shares of the training."""
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=10.0, gt=0)
    """Largest norm of all gradients together."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    distillation_warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of a distilled training in which the weights of its losses grow, linearly, from nothing to full."""
    augment: AugmentSpec = AugmentSpec()

    @model_validator(mode="after")
    def _length_is_given_once(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs, and one of them")
        return self

    def for_samples(self, samples: int) -> Self:
        """The same schedule in steps, for a training split of so many samples."""
        if self.epochs is None:
            return self
        return self.model_copy(update={"steps": math.ceil(self.epochs * samples / self.batch_size), "epochs": None})

    @property
    def length(self) -> int:
        """Steps of a schedule that has them, as those of all jobs do."""
        assert self.steps is not None, "a schedule in epochs has to be put in steps by for_samples first"
        return self.steps


class _Model(Spec):
    preset: str
    keyframes: int = Field(default=1, ge=1, le=8)
    """Of a camera: how many it sees, the newest and the ones before it."""

    @property
    def detector(self) -> DetectorSpec:
        """The preset with what this says of it."""
        preset = PRESETS[self.preset]
        if preset.camera is None or self.keyframes == preset.camera.keyframes:
            return preset
        return preset.model_copy(update={"camera": preset.camera.model_copy(update={"keyframes": self.keyframes})})

    @field_validator("preset")
    @classmethod
    def _preset_is_known(cls, name: str) -> str:
        if name not in PRESETS:
            raise ValueError(unknown("preset", name, PRESETS))
        return name

    @model_validator(mode="after")
    def _keyframes_are_a_cameras(self) -> Self:
        if self.keyframes > 1 and self.preset in PRESETS and PRESETS[self.preset].camera is None:
            raise ValueError(f"keyframes belong to cameras; preset {self.preset!r} has none")
        return self


class TeacherSpec(_Model):
    """A detector to learn from: trained here with its seed, given as a checkpoint, or, as a control, not trained."""

    seed: int | Literal["paired"] = 0
    """One teacher for all students; or "paired": each student has the teacher of its own seed."""
    checkpoint: Path | None = None
    """A model.safetensors of the same preset; nothing is trained then."""
    trained: bool = True
    """False: it teaches with its initial weights, a control for what a loss does whatever the teacher knows."""

    @model_validator(mode="after")
    def _weights_have_no_seed(self) -> Self:
        if self.checkpoint is not None and self.seed == "paired":
            raise ValueError("a teacher that is given as a checkpoint is one for all; its seed cannot be 'paired'")
        if self.checkpoint is not None and not self.trained:
            raise ValueError("a teacher is either given as a checkpoint or not trained")
        return self

    def seed_for(self, student_seed: int) -> int:
        """Of the teacher that a student of a seed learns from."""
        return student_seed if self.seed == "paired" else self.seed


class StudentSpec(_Model):
    """A detector that learns; trained without a teacher (the baseline) and once for each path and arm."""

    longer_baseline: float | None = Field(default=None, gt=1, allow_inf_nan=False)
    """A control: one more baseline of so many times the steps, for a distilled step takes longer than a plain one."""


OTHERS = "others"


def _by_path(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {OTHERS: value}


class LossChoice(Spec):
    """A loss as a study chooses it: its weight and the loss's own fields, each one value or a mapping by path.

    A mapping may say `others`, for the paths that it does not name; without it these have a field's default.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    weight: float | Literal["unidistill"] | dict[str, float | Literal["unidistill"]]
    loss: str | None = None
    """Which loss it is, where its name in the study does not say: one loss may be there in several variants."""

    @field_validator("weight", mode="before")
    @classmethod
    def _weight_is_a_number_or_one_a_path(cls, weight: Any) -> Any:
        for value in _by_path(weight).values():
            number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
            if not number and value != PUBLISHED:
                raise ValueError(
                    f"{value!r} is no weight; allowed: a number of 0 or more, {PUBLISHED!r} for the published one, "
                    "or {PATH: weight, ...}"
                )
        return weight

    def at(self, path: str) -> dict[str, Any]:
        """The fields of the loss on one path, its weight as it is written."""
        found = {}
        for name, given in self.by_path().items():
            if path in given or OTHERS in given:
                found[name] = given.get(path, given.get(OTHERS))
        return found

    def by_path(self) -> dict[str, dict[str, Any]]:
        """Every field of the loss as a mapping by path."""
        fields = {"weight": self.weight, **(self.model_extra or {})}
        return {name: _by_path(value) for name, value in fields.items()}


def _tidy_path(text: Any) -> Any:
    return re.sub(r"\s*->\s*", "->", text.strip()) if isinstance(text, str) else text


Name = Annotated[str, Field(pattern=r"^[\w.+-]+$")]
PathText = Annotated[str, BeforeValidator(_tidy_path), Field(pattern=r"^\w+->\w+$")]


class ReportSpec(Spec):
    """What the tables show besides our numbers."""

    papers: tuple[Path, ...] = ()
    """Files of published numbers; a relative one is looked for beside the study."""


WARM_START = "warm_start"
"""What an arm names beside or instead of losses: the student's neck and head start as copies of the teacher's."""


class StudySpec(Spec):
    """Paths times arms times seeds, and the teachers and baselines they need."""

    data: DataSpec = DataSpec()
    schedule: ScheduleSpec
    teachers: dict[str, TeacherSpec] = Field(default_factory=dict)
    students: dict[str, StudentSpec]
    paths: tuple[PathText, ...] = ()
    losses: dict[str, LossChoice] = Field(default_factory=dict)
    arms: Annotated[dict[Name, tuple[str, ...]], BeforeValidator(expand)] = Field(default_factory=dict)
    """Name of an arm to the losses it uses together, and WARM_START; or a design (arms.py) to what it combines."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    report: ReportSpec = ReportSpec()

    def kind(self, name: str) -> str:
        """Which of LOSSES a loss of the study is."""
        return self.losses[name].loss or name

    def loss(self, name: str, path: str) -> LossSpec:
        """A loss on one path, published weights put in.

        Raises:
            ValidationError: A field is wrong.
            ValueError: There is no published weight.
        """
        fields = self.losses[name].at(path)
        if fields["weight"] == PUBLISHED:
            fields["weight"] = published_weight(self.kind(name), self.sensors(path))
        return LOSSES[self.kind(name)].model_validate(fields)

    def sensors(self, path: str) -> str:
        """A path by what its two detectors sense, such as camera+lidar->camera, as papers name it."""
        teacher, _, student = path.partition("->")
        models = self.teachers[teacher], self.students[student]
        return "->".join("+".join(sorted(model.detector.inputs.sensors)) for model in models)

    @property
    def unused_teachers(self) -> list[str]:
        """The teachers that no path begins with."""
        return [name for name in self.teachers if not any(path.split("->")[0] == name for path in self.paths)]

    @property
    def unused_students(self) -> list[str]:
        """The students that no path ends with, in a study that has paths; in one without, all are trained."""
        ends = {path.split("->")[1] for path in self.paths}
        return [name for name in self.students if self.paths and name not in ends]

    @field_validator("losses")
    @classmethod
    def _losses_are_known(cls, losses: dict[str, LossChoice]) -> dict[str, LossChoice]:
        for name, choice in losses.items():
            if (choice.loss or name) not in LOSSES:
                hint = "" if choice.loss else "; a name of your own needs a field loss that says which one it is"
                raise ValueError(unknown("loss", choice.loss or name, LOSSES) + hint)
            if name in DETECTION_TERMS:
                raise ValueError(f"a loss cannot be called {name!r}: that is a term of the detection loss")
        return losses

    @field_validator("arms")
    @classmethod
    def _arms_use_declared_losses(cls, arms: dict[str, tuple[str, ...]], info: Any) -> dict[str, tuple[str, ...]]:
        if "losses" not in info.data:  # they are wrong themselves, and that is told already
            return arms
        declared = info.data["losses"]
        for arm, names in arms.items():
            if arm in ("baseline", "teacher"):
                raise ValueError(f"an arm cannot be named {arm!r}: every table has a row of that name")
            if not names:
                raise ValueError(f"arm {arm!r} has no loss; the student without any is the baseline of every study")
            for name in names:
                if name not in declared and name != WARM_START:
                    raise ValueError(f"arm {arm!r}: {unknown('loss', name, [*declared, WARM_START])}")
            if len(set(names)) < len(names):
                raise ValueError(f"arm {arm!r} names a loss twice")
        return arms

    @model_validator(mode="after")
    def _grids_cover_what_is_scored(self) -> Self:
        models: dict[str, _Model] = {f"teachers.{name}": teacher for name, teacher in self.teachers.items()}
        models |= {f"students.{name}": student for name, student in self.students.items()}
        scored = scored_range(self.data.detection_config)
        for at, model in models.items():
            reach = model.detector.grid.reach
            if reach < scored:
                raise ValueError(
                    f"{at}: the grid of preset {model.preset!r} ends {reach:g} m from the car, but "
                    f"data.detection_config {self.data.detection_config!r} scores objects up to {scored} m; "
                    f"allowed: within_{int(reach)}m, or less"
                )
        return self

    @model_validator(mode="after")
    def _paths_lead_somewhere(self) -> Self:
        if bool(self.paths) != bool(self.arms):
            raise ValueError("paths and arms belong together: a path without an arm, or an arm without a path, is idle")
        for path in self.paths:
            teacher, student = path.split("->")
            if teacher not in self.teachers:
                raise ValueError(f"path {path!r}: {unknown('teacher', teacher, self.teachers)}")
            if student not in self.students:
                raise ValueError(f"path {path!r}: {unknown('student', student, self.students)}")
            for name, choice in self.losses.items():
                if "weight" not in choice.at(path):
                    raise ValueError(f"losses.{name}.weight has no entry for path {path!r}, nor one for {OTHERS!r}")
        # Also of paths that are not asked for this time.
        possible = [f"{teacher}->{student}" for teacher in self.teachers for student in self.students]
        for name, choice in self.losses.items():
            for field, given in choice.by_path().items():
                for path in given:
                    if path != OTHERS and path not in possible:
                        raise ValueError(f"losses.{name}.{field}: {unknown('path', str(path), [*possible, OTHERS])}")
        if len(set(self.paths)) < len(self.paths):
            raise ValueError(f"paths {list(self.paths)} name one twice")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} name one twice")
        return self
