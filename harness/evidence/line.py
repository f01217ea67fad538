"""A line of the table: the trainings of a plan that differ in their seed alone."""

from dataclasses import dataclass
from typing import NamedTuple

from harness.study.plan import Row


class Key(NamedTuple):
    """What the trainings of a line agree in."""

    role: str
    model: str
    path: str
    arm: str
    losses: str
    """Joined by a +."""
    split: str
    """Empty for the evaluation split."""

    @classmethod
    def of(cls, row: Row) -> "Key":
        """The key of the line that a row of a plan belongs to."""
        return cls(row.role, row.model, row.path, row.arm, " + ".join(row.losses), row.split)

    @property
    def name(self) -> str:
        """What a table calls the line."""
        return line_name(self.role, self.model, self.path, self.arm, self.split)


def line_name(role: str, model: str, path: str, arm: str, split: str = "") -> str:
    """What a table calls a line: its path, or its model, with its arm; the split where it is a further one."""
    last = arm if role in ("student", "control") else role
    return f"{path or model} {last}" + (f" on {split}" if split else "")


@dataclass(frozen=True)
class Arm:
    """A line of a table: the rows of a plan that differ in their seed alone, in the mean."""

    role: str
    model: str
    path: str
    arm: str
    split: str
    metrics: dict[str, float]
    """Fractions and the devkit's units, as in a result; NaN where there is none."""
    missing: str
    """Why there are none, else empty."""

    def has(self, row: Row) -> bool:
        """Whether a row of the plan is one of its trainings."""
        return self.key == (row.role, row.model, row.path, row.arm, row.split)

    @property
    def key(self) -> tuple[str, ...]:
        """All but the seed."""
        return self.role, self.model, self.path, self.arm, self.split
