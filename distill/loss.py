"""LossSpec: what every distillation loss is to a study and to an objective."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch.nn as nn
from pydantic import Field

from detectors.detector import DetectorSpec
from detectors.spec import Spec


class LossSpec(Spec, ABC):
    """A loss with its fields; `build` makes the term that owns whatever it trains beside the student.

    A term is called with the outputs of student and teacher and their batch, takes the teacher's maps as constants and
    returns a scalar, unweighted.
    """

    weight: float = Field(ge=0, allow_inf_nan=False)

    @property
    def keeps_annotations(self) -> bool:
        """Whether the student learns from annotations beside it."""
        return True

    def warning(self, values: Sequence[float]) -> str:
        """What is wrong with a training whose last epoch had these values of the loss, unweighted; empty if nothing."""
        return ""

    @abstractmethod
    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> nn.Module:
        """The term between one student and one teacher; ValueError where they do not fit."""
