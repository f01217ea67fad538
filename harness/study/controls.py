"""ControlSpec: a row of a study whose outcome is known before, and what it has to be."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from detectors.spec import Spec
from harness.study.papers import Metric

GAINS, DOES_NOT_GAIN, LEVEL = "gains", "does not gain", "level"


def _tidy_row(text: Any) -> Any:
    return re.sub(r"\s*->\s*", "->", text.strip()) if isinstance(text, str) else text


class ControlSpec(Spec):
    """A known answer, such as ``{row: all->camera response, expect: gains, at_least: 2.0}``.

    Gains are in percentage points over the row's baseline. Whether a study's code and schedule can be trusted with an
    unknown answer is what known ones tell.
    """

    row: Annotated[str, BeforeValidator(_tidy_row)]
    """The name of a row of the study's table: PATH ARM, or that of a longer baseline."""
    expect: Literal["gains", "does not gain", "level"]
    """gains: significantly (p (Holm) < 0.05). does not gain: not significantly. level: the 95 % CI lies within bounds
    around 0."""
    metric: Metric = "NDS"
    at_least: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """For gains: the smallest mean gain that passes."""
    within: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """For level: the bounds; 1 if not given."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.at_least is not None and self.expect != GAINS:
            raise ValueError(f"at_least has no effect on expect: {self.expect}; allowed with expect: {GAINS}")
        if self.within is not None and self.expect != LEVEL:
            raise ValueError(f"within has no effect on expect: {self.expect}; allowed with expect: {LEVEL}")
        return self

    @property
    def bound(self) -> float:
        """Percentage points: the smallest gain of `gains`, the largest of `level`, 0 where none was given."""
        return (self.within or 1.0) if self.expect == LEVEL else (self.at_least or 0.0)

    @property
    def expectation(self) -> str:
        """What has to come out, for people."""
        match self.expect:
            case "gains":
                return f"gains at least {self.bound:g}" if self.at_least else GAINS
            case "level":
                return f"level, within {self.bound:g}"
            case _:
                return self.expect
