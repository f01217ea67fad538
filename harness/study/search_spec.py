"""SearchSpec: the fields that a search may vary, their bounds, and the objective."""

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, FiniteFloat, Tag, model_validator

from detectors.spec import Spec, each_once
from harness.study.yaml_text import Dumper

Metric = Literal["mAP", "NDS"]
Value = bool | int | float | str | None


class Range(Spec):
    """A range of numbers that includes both ends."""

    low: FiniteFloat
    high: FiniteFloat
    log: bool = False
    """Search on a log scale, which needs bounds above 0."""
    step: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Only low and multiples of step above it. A grid needs a step."""
    whole: bool = False
    """Only whole numbers."""

    @model_validator(mode="after")
    def _bounds_span_something(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"on a log scale, low must be above 0, not {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("a range on a log scale cannot have a step")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"step {self.step:g} is larger than the range from low {self.low:g} to high {self.high:g}")
        if self.whole and any(number % 1 for number in (self.low, self.high, self.step or 1)):
            raise ValueError("a range of whole numbers needs whole bounds and a whole step")
        return self

    @property
    def probes(self) -> tuple[Value, ...]:
        """Values that have to be possible, if all are: the ends, and one that is whole only where all are."""
        between = self.low + (self.step or (self.high - self.low) / math.pi)
        return tuple(map(self.rounded, (self.low, min(between, self.highest), self.highest)))

    @property
    def highest(self) -> float:
        """The highest of its values; with a step that may be less than the high end."""
        return self.high if self.step is None else self._above(self._steps)

    @property
    def all(self) -> list[int | float]:
        """All its values; there has to be a step."""
        return [self.rounded(self._above(steps)) for steps in range(self._steps + 1)]

    def holds(self, value: Value) -> bool:
        """Whether a study's own value is one of its values."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.highest:
            return False
        step = self.step or (1.0 if self.whole else None)
        return step is None or math.isclose(self._above(round((value - self.low) / step), step), value)

    def rounded(self, number: float) -> int | float:
        """Convert a number to the form that a study contains."""
        return int(number) if self.whole else float(number)

    @property
    def _steps(self) -> int:
        assert self.step is not None
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
        return int((high - low) / step)

    def _above(self, steps: int, step: float | None = None) -> float:
        # In decimals, as a person writes them: ten times 0.1 are 1.
        return float(Decimal(str(self.low)) + steps * Decimal(str(step or self.step)))


class Choices(Spec):
    """A list of values."""

    choices: Annotated[tuple[Value, ...], Field(min_length=2), AfterValidator(each_once)]

    @property
    def probes(self) -> tuple[Value, ...]:
        """All of them."""
        return self.choices

    def holds(self, value: Value) -> bool:
        """Whether a study's own value is one of them."""
        return any(isinstance(choice, bool) == isinstance(value, bool) and choice == value for choice in self.choices)


def _kind(value: Any) -> str:
    return "(choices)" if isinstance(value, Choices) or (isinstance(value, dict) and "choices" in value) else "(range)"


Kind = Annotated[
    Annotated[Range, Tag("(range)")] | Annotated[Choices, Tag("(choices)")],
    # A mistake in the one is not told as one in the other, too.
    Discriminator(_kind),
]


def _with_ranges(value: Any) -> Any:
    """Expand seeds in which the text 0-2 stands for 0, 1 and 2."""
    seeds: list[Any] = []
    for each in value if isinstance(value, list | tuple) else [value] if isinstance(value, str) else ():
        if not isinstance(each, str):
            seeds.append(each)
            continue
        ends = _SEED_RANGE.fullmatch(each)
        low, high = map(int, ends.groups()) if ends else (0, 0)
        if not low < high < low + MOST_SEEDS:
            raise ValueError(
                f"{each!r} is neither a seed nor a range; allowed: whole numbers of 0 or more, and ranges such as 0-2, "
                f"which is 0, 1, 2, with at most {MOST_SEEDS} seeds"
            )
        seeds += range(low, high + 1)
    return seeds or value


MOST_SEEDS = 1000
"""Most seeds in a range. More are probably a typo, because every arm is trained with each seed."""
_SEED_RANGE = re.compile(r"(0|[1-9]\d{0,17}) *- *([1-9]\d{0,17})")

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Seeds = Annotated[
    tuple[Seed, ...],
    BeforeValidator(_with_ranges, json_schema_input_type=tuple[Seed | str, ...] | str),
    Field(min_length=1),
    AfterValidator(each_once),
]
"""Seeds as numbers and ranges that include both ends, such as [0-2, 7]."""


def _objectives(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class ConfirmSpec(Spec):
    """The confirmation: the best values with the full schedule, on scenes and seeds that the search did not use."""

    seeds: Seeds = (0, 1, 2)
    """Seeds of the confirmation, which is scored on the study's evaluation split."""


class SearchSpec(Spec):
    """A search over fields of its study."""

    space: Annotated[dict[str, Kind], Field(min_length=1)]
    """Dotted key of a study's field to what it may be; `arms.ARM.LOSS` with choices true and false: whether the arm
    has the loss at all."""
    objective: Annotated[
        tuple[Metric, ...],
        BeforeValidator(_objectives, json_schema_input_type=tuple[Metric, ...] | Metric),
        Field(min_length=1, max_length=2),
        AfterValidator(each_once),
    ] = ("NDS",)
    """The student's metric, averaged over the seeds. With two metrics, the trade-off is searched."""
    path: str | None = None
    """The only one of the study, if not given."""
    arm: str | None = None
    """The only one of the study, if not given."""
    trials: int = Field(default=20, gt=0)
    seeds: Seeds = (100,)
    """Seeds of the students. Do not use seeds that are reported."""
    train_split: str = "synthetic_train"
    eval_split: str = "synthetic_tune"
    """Scenes on which the search chooses. The study's evaluation split is for the confirmation only."""
    share: float = Field(default=1.0, gt=0, le=1)
    """The share of the study's schedule that a trial trains."""
    sampler: Literal["tpe", "gp", "nsga2", "grid", "random"] = "tpe"
    sampler_seed: Seed = 0
    pruner: Literal["none", "median", "hyperband"] = "none"
    """Stops trials early if their detection loss on training batches is worse than that of others at the same epoch."""
    importance: Literal["ped_anova", "fanova", "mean_decrease_impurity"] = "ped_anova"
    """Method for the importance of each field."""
    confirm: ConfirmSpec = ConfirmSpec()

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.sampler == "grid" and (
            open_ := [key for key, kind in self.space.items() if isinstance(kind, Range) and kind.step is None]
        ):
            raise ValueError(f"a grid needs a step in every range; space.{open_[0]} has none")
        if len(self.objective) > 1 and self.pruner != "none":
            raise ValueError("trials with two objectives cannot be pruned; allowed: pruner: none")
        return self


def overrides(values: Mapping[str, Value], arms: Mapping[str, Sequence[str]]) -> list[str]:
    """Values of a space as KEY=VALUE overrides for `load_study`.

    Args:
        values: Dotted key to value; `arms.ARM.LOSS` to whether the arm has it.
        arms: The study's, with all their losses.
    """
    changes = []
    dropped: dict[str, set[str]] = {}
    for key, value in values.items():
        if (switch := arm_switch(key, arms)) is None:
            changes.append(f"{key}={_written(value)}")
        elif not value:
            dropped.setdefault(switch[0], set()).add(switch[1])
    for arm, losses in dropped.items():
        left = [name for name in arms[arm] if name not in losses]
        changes.append(f"arms.{arm}={_written(left)}")
    return changes


def _written(value: Any) -> str:
    """Format values as YAML, because YAML reads JSON's 1e-05 as a text."""
    return yaml.dump([value], Dumper=Dumper, default_flow_style=True, width=math.inf).strip()[1:-1]


def arm_switch(key: str, arms: Mapping[str, Sequence[str]]) -> tuple[str, str] | None:
    """Return arm and loss of a key such as `arms.ARM.LOSS`; None for a key of a field."""
    for arm, losses in arms.items():
        for name in losses:
            if key == f"arms.{arm}.{name}":
                return arm, name
    return None
