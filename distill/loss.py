"""LossSpec: the interface of every distillation loss, for the two kinds of teachers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch.nn as nn
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from detectors.batch import Batch
from detectors.detector import DetectorSpec
from detectors.outputs import DetectorOutput
from detectors.spec import Spec
from distill.maps import TeacherMaps

MapName = Literal["bev_low", "bev_high", "head"]
"""A map, or the maps of the head, in `DetectorOutput`."""


@dataclass(frozen=True, order=True)
class Reading:
    """One map of a teacher, and where a loss reads it. Cells that it does not name have no part in the loss."""

    field: MapName
    cells: Literal["points", "swapped points", "gaussian", "foreground"]
    """The neighbours of the boxes' nine points, on the box or mirrored; or a region of `distill.regions`."""
    min_overlap: float = 0.0
    """Of the Gaussian."""


class PullSpec(Spec):
    """A weight that sets itself in the first steps of a training (`distill.balance`), and then stays."""

    pull: float = Field(gt=0, allow_inf_nan=False)
    """The wanted norm of the loss's gradient on the student's low-level BEV map, as a share of that of the detection
    loss there: 0.3 is a pull of 30 %."""


class LossSpec(Spec, ABC):
    """What the fields of both kinds of loss have in common; a loss derives from one of the kinds below.

    The term that a loss builds owns whatever is trained beside the student. It is called with the outputs of student
    and teacher and their batch, takes the teacher's maps as constants and returns a scalar, unweighted.
    """

    reaches_bev: ClassVar[bool] = True
    """Whether its gradient reaches the student's low-level BEV map."""

    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] | PullSpec

    @model_validator(mode="after")
    def _pulls_at_something(self) -> Self:
        if isinstance(self.weight, PullSpec) and not self.reaches_bev:
            raise ValueError(
                f"{type(self).__name__} ends before the student's low-level BEV map, so weight {{pull: "
                f"{self.weight.pull:g}}} cannot be measured there; allowed: a number of 0 or more"
            )
        return self

    @property
    def keeps_annotations(self) -> bool:
        """Whether the student learns from annotations beside it."""
        return True

    def warning(self, values: Sequence[float]) -> str:
        """What is wrong with a training whose last epoch had these values of the loss, unweighted; empty if nothing."""
        return ""


class DetectorLossSpec(LossSpec):
    """A loss that asks a detector, whose outputs on the batch the term is given."""

    asks_features: ClassVar[bool] = True
    """Whether it reads the teacher's BEV features, which an oracle has none of."""

    @property
    def reads(self) -> frozenset[Reading] | None:
        """The cells of the teacher's maps that it reads, if these are few; None if it reads whole maps."""
        return None

    @abstractmethod
    def build(self, student: DetectorSpec, teacher: TeacherMaps) -> nn.Module:
        """The term between one student and one teacher; ValueError where the two do not fit."""


class ImageLossSpec(LossSpec):
    """A loss that asks an image teacher, whose labels come with the batch; the term is given None for its outputs."""

    reaches_bev = False

    @property
    def least_score(self) -> float:
        """Labels that score no more than this mean nothing to it, so they need not be decoded."""
        return 0.0

    @abstractmethod
    def build(self, student: DetectorSpec) -> nn.Module:
        """The term of one student; ValueError where the loss has nothing to ask of it."""


@runtime_checkable
class Counted(Protocol):
    """A term that is a mean over something else than samples, or the sum of several means.

    Where a batch is computed in parts (`detectors.shares`), one that does not count is taken for a mean over samples.
    One that is the sum of several means is called with their shares as a fourth argument then.
    """

    def counts(self, teacher: Callable[[], DetectorOutput], batch: Batch) -> Float[Tensor, " means"]:
        """What it divides by on a batch; the teacher's outputs are computed if they are asked for."""
        ...


def build_term(loss: LossSpec, student: DetectorSpec, teacher: TeacherMaps | None) -> nn.Module:
    """The term of a loss of either kind.

    Raises:
        ValueError: Student and teacher do not fit, or there is no detector for a loss that asks one.
    """
    match loss:
        case DetectorLossSpec():
            if teacher is None:
                raise ValueError(f"{type(loss).__name__} needs a teacher")
            return loss.build(student, teacher)
        case ImageLossSpec():
            return loss.build(student)
        case _:
            raise ValueError(f"{type(loss).__name__} is neither a DetectorLossSpec nor an ImageLossSpec")
