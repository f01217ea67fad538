"""LossSpec: what every distillation loss is to a study and to an objective."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch.nn as nn
from pydantic import Field

from detectors.detector import DetectorSpec
from detectors.spec import Spec


class LossSpec(Spec, ABC):
    """A loss with its fields; `build` makes the term that owns whatever it trains beside the student.

    A term is called with the outputs of student and teacher and their batch, takes the teacher's maps as constants and
    returns a scalar, unweighted.
    """

    asks: ClassVar[Literal["detector", "image"]] = "detector"
    """Which kind of teacher it learns from."""
    weight: float = Field(ge=0, allow_inf_nan=False)

    @property
    def keeps_annotations(self) -> bool:
        """Whether the student learns from annotations beside it."""
        return True

    def warning(self, values: Sequence[float]) -> str:
        """What is wrong with a training whose last epoch had these values of the loss, unweighted; empty if nothing."""
        return ""

    @abstractmethod
    def build(self, student: DetectorSpec, teacher: Any) -> nn.Module:
        """The term between one student and one teacher.

        Args:
            student: That learns.
            teacher: The DetectorSpec it learns from; None for a loss that asks an image teacher, whose labels come
                with the batch.

        Raises:
            ValueError: The two do not fit.
        """
