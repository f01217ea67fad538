"""StudySpec: the strict and frozen schema of a study."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from detectors.spec import Spec, each_once
from distill.loss import DetectorLossSpec, LossSpec, PullSpec
from distill.objective import DETECTION_TERMS, loss_class
from distill.warm_start import require_same_backbone
from distill.weights import PUBLISHED, published_weight
from harness.errors import MistakeAt, unknown
from harness.home import HomePath
from harness.study.changes import changed
from harness.study.controls import ControlSpec
from harness.study.designs import expand
from harness.study.roles import ImageTeacherSpec, StudentSpec, TeacherSpec
from harness.study.schedule import ScheduleSpec
from harness.study.search_spec import SearchSpec, Seed, Seeds

DETECTION_CONFIG_PATTERN = r"^(nuscenes|within_[1-9]\d{0,2}m)$"
DetectionConfigName = Annotated[str, Field(pattern=DETECTION_CONFIG_PATTERN)]
"""nuScenes' own class ranges, or these ranges cut at a number of metres."""
Once = Annotated[tuple[str, ...], AfterValidator(each_once)]


def scored_range(config: DetectionConfigName) -> int:
    """Distance from the ego car up to which objects are scored, metres; nuScenes' longest is 50, that of vehicles."""
    return 50 if config == "nuscenes" else min(50, int(config.removeprefix("within_").removesuffix("m")))


class DataSpec(Spec):
    """The scenes for training and for scoring."""

    preset: Literal["tiny", "small", "smoke"] = "tiny"
    """The embedded dataset to make on first use; ignored if a root is given."""
    seed: Seed = 0
    """The seed of the embedded dataset."""
    root: HomePath | None = None
    """A nuScenes root of your own; version and splits are then those of this root."""
    version: str = "v1.0-synthetic"
    train_split: str = "synthetic_train"
    train_share: float = Field(default=1.0, gt=0, le=1)
    """The share of the scenes of the training split that every detector is trained on; a teacher or student may have
    another. Which scenes they are depends on their names alone, and a smaller share is a part of a larger one."""
    eval_split: str = "synthetic_val"
    also_score: Once = ()
    """Further splits on which every row is scored. Scores on the training split measure memorisation."""
    detection_config: DetectionConfigName = "within_16m"
    """The scoring ranges, which every table states."""


OTHERS = "others"


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number of 0 or more."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _by_path(value: Any) -> dict[str, Any]:
    # A field of a loss may be a mapping itself, such as head: {width: 32}.
    is_by_path = isinstance(value, dict) and any("->" in str(key) or key == OTHERS for key in value)
    return {_tidy_path(key): each for key, each in value.items()} if is_by_path else {OTHERS: value}


Weight = float | Literal["unidistill"] | PullSpec


class LossChoice(Spec):
    """A loss in a study: its weight and its fields. Each is one value or a mapping by path.

    A mapping may say `others`, for the paths that it does not name; without it these have a field's default.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    weight: Annotated[Weight | dict[str, Weight], Field(union_mode="left_to_right")]
    loss: str | None = None
    """The name of the loss, if the entry has another name, as for several variants of one loss."""

    @field_validator("weight", mode="before")
    @classmethod
    def _weight_is_a_number_or_one_a_path(cls, weight: Any) -> Any:
        for value in _by_path(weight).values():
            if isinstance(value, dict) and set(value) == {"pull"} and _is_number(value["pull"]) and value["pull"] > 0:
                continue
            if not isinstance(value, PullSpec) and not _is_number(value) and value != PUBLISHED:
                raise ValueError(
                    f"{value!r} is not a weight; allowed: a number of 0 or more, {PUBLISHED!r} for the published one, "
                    "{pull: SHARE} with a share above 0 of the detection loss's gradient, or {PATH: weight, ...}"
                )
        return weight

    def at(self, path: str) -> dict[str, Any]:
        """Return the fields of the loss on one path, with the weight as written."""
        return {
            name: given.get(path, given.get(OTHERS))
            for name, given in self.by_path().items()
            if path in given or OTHERS in given
        }

    def by_path(self) -> dict[str, dict[str, Any]]:
        """Return every field of the loss as a mapping by path."""
        fields = {"weight": self.weight, **(self.model_extra or {})}
        return {name: _by_path(value) for name, value in fields.items()}


PATH_PATTERN = r"^\w+(\+\w+)?->\w+$"


def _tidy_path(text: Any) -> Any:
    return re.sub(r"\s*(->|\+)\s*", r"\1", text.strip()) if isinstance(text, str) else text


def _path(text: Any) -> Any:
    tidy = _tidy_path(text)
    if isinstance(tidy, str) and not re.match(PATH_PATTERN, tidy):
        raise ValueError(f"{text!r} is not a path; write TEACHER->STUDENT, such as lidar->camera")
    return tidy


def term_name(kind: str) -> str:
    """The name of a loss in logs: its own, or the class of ``package.module:Class``."""
    # torch refuses a module whose name has a dot in it.
    return re.sub(r"\W", "_", kind.rpartition(":")[2])


Name = Annotated[str, Field(pattern=r"^[\w.+-]+$")]
PathText = Annotated[str, BeforeValidator(_path), Field(pattern=PATH_PATTERN)]
"""TEACHER->STUDENT, the teacher a detector or an image teacher, or both: lidar+instance->camera."""


@dataclass(frozen=True)
class Ends:
    """The ends of a path, by name in the study."""

    teacher: str | None
    """A detector."""
    image_teacher: str | None
    student: str


class ReportSpec(Spec):
    """Additional content of the tables."""

    papers: tuple[HomePath, ...] = ()
    """Files of published numbers. A relative path starts at the folder of the study."""


IMAGES = "images"
"""The name of an image teacher's input in a path of sensors."""
WARM_START = "warm_start"
"""The entry of an arm by which the student's neck and head start as copies of the teacher's."""


class StudySpec(Spec):
    """A study: every arm on every path with every seed, with the teachers and baselines that these need."""

    data: DataSpec = DataSpec()
    schedule: ScheduleSpec
    teachers: dict[str, TeacherSpec] = Field(default_factory=dict)
    image_teachers: dict[str, ImageTeacherSpec] = Field(default_factory=dict)
    students: dict[str, StudentSpec]
    paths: tuple[PathText, ...] = ()
    losses: dict[str, LossChoice] = Field(default_factory=dict)
    arms: Annotated[dict[Name, Once], BeforeValidator(expand)] = Field(default_factory=dict)
    """Losses of each arm by its name, which may include warm_start; or the list of losses of a design."""
    seeds: Seeds = (0,)
    controls: dict[Name, ControlSpec] = Field(default_factory=dict)
    """Rows whose outcome is known before, by names of your own. A control that fails marks every table."""
    report: ReportSpec = ReportSpec()
    search: SearchSpec | None = None
    """The fields that `harness.search` varies. `harness.run` ignores them."""

    def schedule_of(self, model: TeacherSpec | StudentSpec) -> ScheduleSpec:
        """Return the schedule of a teacher or student: the study's, but for what it says itself.

        Raises:
            ValueError: A key or a value is wrong.
        """
        given = model.schedule
        if "deterministic" in given:
            raise ValueError("deterministic: a study has it for all of its trainings; write it in its own schedule")
        # A length in one way replaces that in the other.
        replaced = {"steps": "epochs", "epochs": "steps"}
        removed: dict[str, None] = {replaced[name]: None for name in replaced if given.get(name) is not None}
        return changed(self.schedule, {**removed, **given})

    def kind(self, name: str) -> str:
        """Return the name for `loss_class` of a loss of the study."""
        return self.losses[name].loss or name

    def loss(self, name: str, path: str) -> LossSpec:
        """Return the spec of a loss on one path, with the published weight filled in.

        Raises:
            ValidationError: A field is wrong.
            ValueError: There is no published weight.
        """
        fields = self.losses[name].at(path)
        if fields["weight"] == PUBLISHED:
            ends = replace(self.ends(path), image_teacher=None)
            fields["weight"] = published_weight(self.kind(name), self.sensors(ends))
        return loss_class(self.kind(name)).model_validate(fields)

    def ends(self, path: str) -> Ends:
        """Return teachers and student of a path."""
        before, _, student = path.partition("->")
        names = before.split("+")
        detectors = [name for name in names if name not in self.image_teachers]
        images = [name for name in names if name in self.image_teachers]
        return Ends(detectors[0] if detectors else None, images[0] if images else None, student)

    def teachers_asked(self, names: Iterable[str], path: str) -> Ends:
        """The ends of a path, without the teacher that none of these losses (or WARM_START) asks."""
        asks_detector = {
            name == WARM_START or issubclass(loss_class(self.kind(name)), DetectorLossSpec) for name in names
        }
        ends = self.ends(path)
        return Ends(
            ends.teacher if True in asks_detector else None,
            ends.image_teacher if False in asks_detector else None,
            ends.student,
        )

    def sensors(self, ends: Ends) -> str:
        """Name a path by the inputs of its models, such as camera+lidar->camera or images+lidar->camera."""
        teaching = self.teachers[ends.teacher].sensors if ends.teacher else frozenset()
        images = {IMAGES} if ends.image_teacher else set()
        learning = self.students[ends.student].detector_spec.inputs.sensors
        return "->".join("+".join(sorted(each)) for each in (teaching | images, learning))

    @property
    def unused_teachers(self) -> list[str]:
        """The teachers that no arm uses on any path."""
        asked = [self.teachers_asked(names, path) for path in self.paths for names in self.arms.values()]
        used = {name for ends in asked for name in (ends.teacher, ends.image_teacher)}
        used |= {model.init.image_backbone for model in (*self.teachers.values(), *self.students.values())}
        return [name for name in (*self.teachers, *self.image_teachers) if name not in used]

    @property
    def unused_losses(self) -> list[str]:
        """The losses that no arm contains."""
        return [name for name in self.losses if not any(name in names for names in self.arms.values())]

    @property
    def unused_students(self) -> list[str]:
        """The students without a path. In a study without paths all students are trained, so there are none."""
        ends = {self.ends(path).student for path in self.paths}
        return [name for name in self.students if self.paths and name not in ends]

    @property
    def rows_with_gains(self) -> list[str]:
        """The names of the rows that are compared with a baseline, as tables have them."""
        students = {self.ends(path).student for path in self.paths} or self.students.keys()
        longer = [f"{name} {self.students[name].longer_arm}" for name in self.students if name in students]
        return [f"{path} {arm}" for path in self.paths for arm in self.arms] + [
            name for name in longer if not name.endswith(" ")
        ]

    @model_validator(mode="after")
    def _controls_are_of_rows(self) -> Self:
        for name, control in self.controls.items():
            if control.row not in self.rows_with_gains:
                text = f"controls.{name}.row: {unknown('row', control.row, self.rows_with_gains)}"
                raise MistakeAt(("controls", name, "row"), text)
        return self

    @field_validator("losses")
    @classmethod
    def _losses_are_known(cls, losses: dict[str, LossChoice]) -> dict[str, LossChoice]:
        for name, choice in losses.items():
            try:
                loss_class(choice.loss or name)
            except ValueError as error:
                hint = (
                    "" if choice.loss else "; a loss under your own name needs the field loss with the name of the loss"
                )
                raise MistakeAt((name,), f"{error}{hint}") from error
            if name in DETECTION_TERMS or term_name(choice.loss or name) in DETECTION_TERMS:
                raise MistakeAt((name,), f"a loss cannot be named {name!r}: that is a term of the detection loss")
        return losses

    @field_validator("arms")
    @classmethod
    def _arms_use_declared_losses(cls, arms: dict[str, tuple[str, ...]], info: Any) -> dict[str, tuple[str, ...]]:
        if "losses" not in info.data:  # they are wrong themselves, and that is told already
            return arms
        declared = info.data["losses"]
        for arm, names in arms.items():
            if arm in ("baseline", "teacher"):
                raise MistakeAt((arm,), f"an arm cannot be named {arm!r}: every table has a row of that name")
            if not names:
                raise MistakeAt(
                    (arm,),
                    f"arm {arm!r} has no loss; the student without losses is the baseline, which every study has",
                )
            for name in names:
                if name not in declared and name != WARM_START:
                    raise MistakeAt((arm,), f"arm {arm!r}: {unknown('loss', name, [*declared, WARM_START])}")
        return arms

    @model_validator(mode="after")
    def _grids_cover_what_is_scored(self) -> Self:
        models: dict[str, TeacherSpec | StudentSpec] = {
            f"teachers.{name}": each
            for name, each in self.teachers.items()
            # Neither maps nor annotations are scored.
            if each.maps is None and not each.oracle
        }
        models |= {f"students.{name}": each for name, each in self.students.items()}
        scored = scored_range(self.data.detection_config)
        for at, model in models.items():
            reach = model.detector_spec.grid.reach
            if reach < scored:
                raise MistakeAt(
                    tuple(at.split(".")),
                    f"{at}: its grid ends {reach:g} m from the car, but "
                    f"data.detection_config {self.data.detection_config!r} scores objects up to {scored} m; "
                    f"allowed: within_{int(reach)}m, or less",
                )
        return self

    @model_validator(mode="after")
    def _schedules_fit(self) -> Self:
        for kind, models in (("teachers", self.teachers), ("students", self.students)):
            for name, model in models.items():
                try:
                    self.schedule_of(model)
                except ValueError as error:
                    raise MistakeAt((kind, name, "schedule"), str(error)) from error
        return self

    @model_validator(mode="after")
    def _backbones_begin_as_their_like(self) -> Self:
        for kind, models in (("teachers", self.teachers), ("students", self.students)):
            for name, model in models.items():
                if model.init.image_weights is not None and model.detector_spec.camera is None:
                    raise MistakeAt((kind, name, "init", "image_weights"), "this detector has no camera")
                if (wanted := model.init.image_backbone) is None:
                    continue
                at = (kind, name, "init", "image_backbone")
                if wanted not in self.image_teachers:
                    raise MistakeAt(at, unknown("image teacher", wanted, self.image_teachers))
                image_teacher = self.image_teachers[wanted]
                if image_teacher.preset is None:
                    raise MistakeAt(at, f"image teacher {wanted!r} is not trained here: it needs a preset")
                try:
                    require_same_backbone(model.detector_spec, image_teacher.segmenter)
                except ValueError as error:
                    raise MistakeAt(at, str(error)) from error
        return self

    @model_validator(mode="after")
    def _paths_lead_somewhere(self) -> Self:
        if bool(self.paths) != bool(self.arms):
            raise MistakeAt(
                ("paths" if self.paths else "arms",), "paths and arms belong together: give both, or neither"
            )
        if both := self.teachers.keys() & self.image_teachers.keys():
            text = f"{min(both)!r} is the name of a teacher and of an image teacher; rename one of them"
            raise MistakeAt(("image_teachers", min(both)), text)
        for number, path in enumerate(self.paths):
            at = ("paths", number)
            teachers, student = path.split("->")
            for teacher in teachers.split("+"):
                if teacher not in {**self.teachers, **self.image_teachers}:
                    raise MistakeAt(
                        at, f"path {path!r}: {unknown('teacher', teacher, [*self.teachers, *self.image_teachers])}"
                    )
            if student not in self.students:
                raise MistakeAt(at, f"path {path!r}: {unknown('student', student, self.students)}")
            if "+" in teachers and None in (self.ends(path).teacher, self.ends(path).image_teacher):
                raise MistakeAt(
                    at,
                    f"path {path!r}: two teachers must be a detector, one of {', '.join(self.teachers) or 'none'}, "
                    f"and an image teacher, one of {', '.join(self.image_teachers) or 'none'}",
                )
            self._require_asked_teachers(path, at)
            for name, choice in self.losses.items():
                if "weight" not in choice.at(path):
                    text = f"losses.{name}.weight has no entry for path {path!r}, nor one for {OTHERS!r}"
                    raise MistakeAt(("losses", name, "weight"), text)
        # Also of paths that are not asked for this time.
        every = (*self.teachers, *self.image_teachers)
        possible = [f"{teacher}->{student}" for teacher in every for student in self.students]
        possible += [path for path in self.paths if "+" in path]
        for name, choice in self.losses.items():
            for field, given in choice.by_path().items():
                for path in given:
                    if path != OTHERS and path not in possible:
                        text = f"losses.{name}.{field}: {unknown('path', str(path), [*possible, OTHERS])}"
                        raise MistakeAt(("losses", name, field, path), text)
        if len({self.ends(path) for path in self.paths}) < len(self.paths):
            raise MistakeAt(("paths",), f"paths {list(self.paths)} contain a value twice")
        return self

    def _require_asked_teachers(self, path: str, at: tuple[str | int, ...]) -> None:
        """Raise ValueError if a loss on a path needs a teacher that the path lacks."""
        ends = self.ends(path)
        for arm, names in self.arms.items():
            for name in names:
                asked = self.teachers_asked([name], path)
                if (asked.teacher, asked.image_teacher) == (None, None):
                    kind, known = (
                        ("an image teacher", self.image_teachers) if ends.teacher else ("a detector", self.teachers)
                    )
                    raise MistakeAt(
                        at,
                        f"path {path!r}, arm {arm!r}: {name!r} needs {kind}, but the path has none; "
                        f"of this study: {', '.join(known) or 'none'}",
                    )
