"""OpenedSearch: a study with its search, and the studies of its trials."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import InputError, unknown
from harness.study.jobs import RESULTS_VERSION
from harness.study.load import load_study
from harness.study.roles import StudentSpec, TeacherSpec
from harness.study.schedule import ScheduleSpec
from harness.study.search_spec import SearchSpec, Value, arm_switch, overrides
from harness.study.spec import StudySpec

Model = TypeVar("Model", TeacherSpec, StudentSpec)


@dataclass(frozen=True)
class OpenedSearch:
    """A study and the search in it, with what is asked on the command line put in."""

    file: Path
    given: tuple[str, ...]
    """Overrides that hold for every trial."""
    study: StudySpec
    search: SearchSpec
    path: str
    """The path that is searched."""
    arm: str

    @property
    def shares_batches(self) -> bool:
        """Whether trials differ in losses alone, so that their students can train side by side."""
        return all(key.partition(".")[0] in ("losses", "arms") for key in self.search.space)

    def study_of(self, values: Mapping[str, Value]) -> StudySpec:
        """The study with values of the space put in, of the searched path and arm alone.

        Without a path, and with the student alone, where they leave the arm no loss: that is the baseline.

        Raises:
            InputError: They are not possible.
        """
        fields = {key: value for key, value in values.items() if arm_switch(key, self.study.arms) is None}
        switched_off = [key for key in values.keys() - fields.keys() if not values[key]]
        if len(switched_off) == len(self.study.arms[self.arm]):
            return self.alone(load_study(self.file, [*self.given, *overrides(fields, self.study.arms)]))
        study = load_study(self.file, [*self.given, *overrides(values, self.study.arms)])
        return study.model_copy(update={"paths": (self.path,), "arms": {self.arm: study.arms[self.arm]}})

    def alone(self, study: StudySpec) -> StudySpec:
        """The study with the student of the searched path and no teacher."""
        student = study.ends(self.path).student
        return study.model_copy(update={"paths": (), "arms": {}, "students": {student: study.students[student]}})

    def trial_study(self, values: Mapping[str, Value]) -> StudySpec:
        """The same as a trial has it: on the scenes that choose, with the search's seeds and share of the schedule."""
        study, search = self.study_of(values), self.search
        data = study.data.model_copy(
            update={"train_split": search.train_split, "eval_split": search.eval_split, "also_score": ()}
        )
        shorter = {
            "schedule": self._shortened(study.schedule),
            "teachers": {name: self._with_shorter(study, model) for name, model in study.teachers.items()},
            "students": {name: self._with_shorter(study, model) for name, model in study.students.items()},
        }
        return study.model_copy(update={"data": data, "seeds": search.seeds, **shorter})

    def _shortened(self, schedule: ScheduleSpec) -> ScheduleSpec:
        if schedule.epochs is not None:
            return schedule.model_copy(update={"epochs": schedule.epochs * self.search.share})
        return schedule.model_copy(update={"steps": math.ceil(schedule.length * self.search.share)})

    def _with_shorter(self, study: StudySpec, model: Model) -> Model:
        """A model with the share of a length that it names itself."""
        lengths = {"steps", "epochs"} & model.schedule.keys()
        if not lengths:
            return model
        short = self._shortened(study.schedule_of(model))
        return model.model_copy(update={"schedule": model.schedule | {name: getattr(short, name) for name in lengths}})

    def identity(self, fingerprint: str) -> dict[str, Any]:
        """What makes the trials of two calls comparable; how many there are and who proposes them is no part of it."""
        trial = self.trial_study({})
        # Where the data lies may differ from machine to machine, what it is may not.
        trial = trial.model_copy(update={"data": trial.data.model_copy(update={"root": None})})
        free = {"trials", "confirm", "sampler", "sampler_seed", "pruner", "importance"}
        return {
            "results_version": RESULTS_VERSION,
            "data": fingerprint,
            "search": self.search.model_dump(mode="json", exclude=free),
            "path": self.path,
            "arm": self.arm,
            "study": trial.model_dump(mode="json", exclude={"search", "report", "seeds"}),
        }


def open_search(file: Path, given: Sequence[str]) -> OpenedSearch:
    """The search of a study file, every end of its space tried on the study.

    Raises:
        InputError: There is none, or a field of its space does not exist, has another type, or cannot be so.
    """
    study = load_study(file, given)
    search = study.search
    if search is None:
        raise InputError(
            f"{file} has no section search, such as search: {{space: {{losses.feature.weight: {{low: 0.1, ...}}}}}}"
        )
    path = _chosen("path", search.path, study.paths, file)
    arm = _chosen("arm", search.arm, study.arms, file)
    for key, kind in search.space.items():
        top, name = (*key.split("."), "")[:2]
        # Of others it would decide nothing.
        for table, what, searched in (
            ("losses", "loss", study.arms[arm]),
            ("students", "student", (study.ends(path).student,)),
        ):
            if top == table and name not in searched:
                raise InputError(
                    f"{file}: search.space.{key}: of path {path} and arm {arm!r}, {unknown(what, name, searched)}"
                )
        switch = arm_switch(key, study.arms)
        if switch is not None:
            if switch[0] != arm or not all(isinstance(value, bool) for value in kind.probes):
                raise InputError(f"{file}: search.space.{key}: allowed: choices true and false, for arm {arm!r}")
            continue
        if top in ("search", "seeds", "data", "arms", "paths", "teachers", "image_teachers", "report"):
            raise InputError(
                f"{file}: search.space.{key} cannot be searched; allowed: fields below losses, schedule and "
                f"students, and arms.{arm}.LOSS for {', '.join(study.arms[arm])}"
            )
        for value in kind.probes:
            try:
                load_study(file, [*given, *overrides({key: value}, study.arms)])
            except InputError as error:
                hint = "; add whole: true for whole numbers" if "valid integer" in str(error) else ""
                reason = f"{json.dumps(value)} is not possible: {' '.join(str(error).split())}{hint}"
                raise InputError(f"{file}: search.space.{key}: {reason}") from error
    if both := set(search.seeds) & set(search.confirm.seeds):
        raise InputError(f"{file}: search.seeds: seed {min(both)} is also in search.confirm.seeds; choose another seed")
    if search.eval_split in (study.data.eval_split, *study.data.also_score):
        raise InputError(f"{file}: search.eval_split: the study reports {search.eval_split!r}; choose another split")
    return OpenedSearch(file, tuple(given), study, search, path, arm)


def _chosen(what: str, name: str | None, known: Collection[str], file: Path) -> str:
    if name is not None:
        if name not in known:
            raise InputError(f"{file}: search.{what}: {unknown(what, name, known)}")
        return name
    if len(known) != 1:
        raise InputError(
            f"{file}: search.{what}: the study has {len(known)}; choose one of {', '.join(known) or 'none'}"
        )
    return next(iter(known))
