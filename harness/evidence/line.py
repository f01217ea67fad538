"""Typed content of tables: outcomes of trainings, and lines of trainings that differ only in the seed."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from detectors.geometry.boxes import CLASSES
from harness.evidence.runs import Draws
from harness.study.papers import Metric, PublishedGain
from harness.study.plan import Row

Item = TypeVar("Item")
HEADLINE_METRICS: tuple[Metric, ...] = ("mAP", "NDS")
"""Shown in points, 100 times the fraction, as the papers do."""
ERRORS = ("mATE", "mASE", "mAOE", "mAVE", "mAAE")
MASKS = ("mask_AP", "mask_AP50")
"""The metrics of an image teacher, in points."""
CLASS_AP = {f"AP/{name}": name for name in CLASSES}
"""AP by class, in points, to the name of the class."""


class Key(NamedTuple):
    """The properties that the trainings of a line share."""

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
        """Name of the line in a table."""
        return line_name(self.role, self.model, self.path, self.arm, self.split)


def line_name(role: str, model: str, path: str, arm: str, split: str = "") -> str:
    """What a table calls a line: its path, or its model, with its arm; the split where it is a further one."""
    last = arm if role in ("student", "control") else role
    return f"{path or model} {last}" + (f" on {split}" if split else "")


@dataclass(frozen=True)
class _Trained:
    """What is said alike of one training and of those that differ in their seed alone."""

    key: Key
    parameters: float | int
    """The detector's number of parameters; NaN without a result."""
    published: dict[str, PublishedGain]
    """What papers report for such a path and losses of such kinds, by their names."""
    missing: str
    """Why there is no result, else empty."""
    unpaired: str
    """Why there is no gain although there are results, else empty."""
    warning: str
    """What is doubtful about the training, else empty."""
    machine: str
    """Device kind, torch version and threads, of a line every one there was; empty without a result."""


@dataclass(frozen=True)
class Outcome(_Trained):
    """What a row of the plan came to, for itself."""

    seed: int
    job: str
    baseline: str
    """The job of its baseline; empty where it is not held against one."""
    metrics: dict[str, float]
    """The metrics of `Line`; NaN without a result."""
    gains: dict[Metric, float]
    """In points over the baseline of the same student and seed; NaN where the two must not be subtracted."""
    draws: Draws | None
    """Draws of mAP and NDS; None where the row is not compared, or none are known."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weights that have set themselves, by the name of the loss in logs."""


@dataclass(frozen=True)
class Mean:
    """A number over the seeds of a line; NaN where a seed lacks it."""

    value: float
    std: float
    """Standard deviation over the seeds; NaN of one."""


@dataclass(frozen=True)
class Gain:
    """The gain of a line over its baseline in one metric, in pp, with its statistics; NaN and no text where nothing is
    known."""

    mean: Mean
    scenes: float | int = float("nan")
    """Number of scenes that the interval covers; 0 if it covers none."""
    low: float = float("nan")
    """End of the 95 % interval, as is `high`."""
    high: float = float("nan")
    p: float = float("nan")
    holm: float = float("nan")
    """p adjusted for all gains of the table."""
    detectable: float = float("nan")
    """Minimum detectable effect (MDE) at 80 % power."""
    verdict: str = ""
    agreement: str = ""
    """Agreement with a published gain."""

    @property
    def numbers(self) -> dict[str, float]:
        """What is known of the mean, by the names of the columns of files."""
        return {"low": self.low, "high": self.high, "p": self.p, "holm": self.holm, "detectable": self.detectable}


@dataclass(frozen=True)
class Line(_Trained):
    """A line of a table: trainings that differ only in the seed."""

    metrics: dict[str, Mean]
    """HEADLINE_METRICS, CLASS_AP and MASKS in points, ERRORS in the devkit's units."""
    gains: dict[Metric, Gain]
    """In each of HEADLINE_METRICS."""
    scenes: float | int
    """How many the intervals are over, 0 where they are over none; NaN of a line without a gain."""
    seeds: int
    jobs: tuple[str, ...]
    weights: dict[str, Mean] = field(default_factory=dict)
    """Weights that have set themselves, by the name of the loss in logs."""

    @property
    def name(self) -> str:
        """What a table calls it."""
        return self.key.name

    @property
    def means(self) -> dict[str, Mean]:
        """All means over seeds, by the names of the columns of files."""
        return self.metrics | {gain_column(metric): gain.mean for metric, gain in self.gains.items()}


def gain_column(metric: str, of: str = "") -> str:
    """The name of a column of a gain, or of what is known of it, in files and in MLflow."""
    return "_".join(filter(None, ("gain", metric, of)))


def by_key(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """Items of equal keys together, both in the order in which they came."""
    together: dict[Hashable, list[Item]] = {}
    for item in items:
        together.setdefault(key(item), []).append(item)
    return list(together.values())
