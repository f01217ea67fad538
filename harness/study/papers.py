"""Published numbers that tables show beside ours, each marked by how certain it is; one YAML file per paper."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from detectors.spec import Spec
from distill.objective import LOSSES
from harness.errors import InputError, unknown
from harness.study.yaml_text import read_yaml

Mark = Literal["read", "uncertain", "recalled"]

SIGNS: dict[Mark, str] = {"read": "", "uncertain": "?", "recalled": "†"}
"""The sign that shows how certain a number is."""

MEANINGS = {
    "?": "? The digits were read in a source, but their row is uncertain.",
    "†": "† Recalled from memory, not verified.",
}

SENSORS = {"camera", "images", "lidar", "radar"}
"""The inputs of a path's models; `images` are those of an image teacher."""

Points = Annotated[float, Field(ge=-100, le=100)]
Direction = Literal["up", "down"]
Metric = Literal["mAP", "NDS"]


class PublishedGain(Spec):
    """The published gain on a path over the same student without distillation, in points."""

    path: str
    """Sensors of teacher and student in alphabetical order, such as camera+lidar->camera."""
    losses: tuple[str, ...]
    mAP: float | Direction | None = None
    """Only the direction, if the source has no number; None if it has neither."""
    NDS: float | Direction | None = None
    mark: Mark

    def direction(self, metric: Metric) -> Direction | None:
        """The sign of a number; None where nothing is published, or a difference of 0."""
        value: float | Direction | None = getattr(self, metric)
        if value is None or isinstance(value, str):
            return value
        return "up" if value > 0 else "down" if value < 0 else None

    def points(self, metric: Metric) -> float | None:
        """The number, where one is published."""
        value = getattr(self, metric)
        return None if isinstance(value, str) else value

    @field_validator("mAP", "NDS", mode="before")
    @classmethod
    def _is_points_or_a_direction(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool) and -100 <= value <= 100
        if not number and value is not None and value not in get_args(Direction):
            raise ValueError(
                f"{value!r} is not a gain; allowed: points between -100 and 100, {', '.join(get_args(Direction))}, "
                "or no value if nothing is published"
            )
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.mAP is None and self.NDS is None:
            raise ValueError("neither mAP nor NDS is given; a published gain needs at least one of them")
        return self

    @field_validator("path")
    @classmethod
    def _path_is_of_sensors(cls, path: str) -> str:
        ends = [end.split("+") for end in path.split("->")]
        if len(ends) != 2 or any(end != sorted(set(end) & SENSORS) for end in ends):
            raise ValueError(
                f"{path!r} is not a path such as camera+lidar->camera, with {', '.join(sorted(SENSORS))} in this order"
            )
        return path

    @field_validator("losses")
    @classmethod
    def _losses_are_known(cls, losses: tuple[str, ...]) -> tuple[str, ...]:
        for name in losses:
            if name not in LOSSES:
                raise ValueError(unknown("loss", name, LOSSES))
        return losses


class PublishedRow(Spec):
    """A detector's numbers: mAP and NDS in points, errors in nuScenes' units; None where unknown."""

    label: str
    dataset: str
    """With the split."""
    mAP: Points | None = None
    NDS: Points | None = None
    mATE: float | None = None
    mASE: float | None = None
    mAOE: float | None = None
    mAVE: float | None = None
    mAAE: float | None = None
    mark: Mark
    source: str


class Paper(Spec):
    """One paper."""

    name: str
    title: str
    venue: str
    arxiv: str
    notes: tuple[str, ...] = ()
    gains: tuple[PublishedGain, ...] = ()
    rows: tuple[PublishedRow, ...] = ()

    def gain(self, path: str, losses: frozenset[str]) -> PublishedGain | None:
        """The gain on a path with exactly these losses, if one is published."""
        return next((gain for gain in self.gains if gain.path == path and frozenset(gain.losses) == losses), None)


def read_paper(path: Path) -> Paper:
    """Read a paper's file, or raise InputError."""
    try:
        content = read_yaml(path.read_text())
    # A ValueError also for a path that no file can have.
    except (OSError, ValueError) as error:
        raise InputError(f"report.papers: {path} cannot be read: {' '.join(str(error).split())}") from error
    try:
        return Paper.model_validate(content)
    except ValidationError as error:
        raise InputError(f"report.papers: {path}: {_first(error, content)}") from error


def _first(error: ValidationError, content: Any) -> str:
    """The first mistake: where it is, with what its row is called, what is wrong and what is allowed."""
    first = error.errors()[0]
    at, loc = ".".join(map(str, first["loc"])), first["loc"]
    if len(loc) > 1 and isinstance(loc[1], int) and isinstance(row := content[loc[0]][loc[1]], dict):
        named = row.get("label") or " ".join(str(row[key]) for key in ("path", "losses") if key in row)
        at += f" ({named})" if named else ""
    wrong_mark = loc[-1:] == ("mark",) and first["type"] == "literal_error"
    text = unknown("mark", str(first["input"]), SIGNS) if wrong_mark else first["msg"].removeprefix("Value error, ")
    return f"{at}: {text}" if at else text
