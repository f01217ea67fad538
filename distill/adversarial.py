"""Adversarial training: the student learns BEV features that a discriminator takes for the teacher's."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from detectors.batch import Batch
from detectors.detector import DetectorSpec
from detectors.outputs import DetectorOutput
from distill.adapters import AdapterKind, build_adapter
from distill.loss import DetectorLossSpec
from distill.maps import TeacherMaps
from distill.regions import Level, level_channels, level_map

COLLAPSED = 0.1
"""Below this the discriminator tells the two apart almost surely (at chance its loss is 2 ln 2 = 1.39), and what it
teaches the student is noise."""


class AdversarialSpec(DetectorLossSpec):
    """X3KD's cross-modal adversarial training, X-AT.

    L_X-AT = BCE(d(sg F_T), 1) + BCE(d(R(F_S)), 0). The discriminator d lowers it; the gradient reversal R (Ganin and
    Lempitsky, ICML 2015) makes the student raise it. Whether d judges cells or whole maps is not known, nor its
    layout: here it has two 1 x 1 convolutions and judges each cell, or the map's mean.
    """

    level: Level = "low"
    judges: Literal["cells", "map"] = "cells"
    reversal: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Strength of the reversed gradient of the discriminator."""
    width: int = Field(default=32, ge=1)
    """Channels inside the discriminator."""
    adapter: AdapterKind = "none"
    """Needed where the maps differ in width; trained with the student."""

    def warning(self, values: Sequence[float]) -> str:
        """Whether the discriminator has won."""
        mean = fmean(values)
        if mean >= COLLAPSED:
            return ""
        return f"its discriminator has won (in the last epoch its loss was {mean:.3f}; at chance it is 1.386)"

    def build(self, student: DetectorSpec, teacher: TeacherMaps) -> "AdversarialTerm":
        """The term between one student and one teacher."""
        channels = level_channels(student, self.level), level_channels(teacher, self.level)
        return AdversarialTerm(self, build_adapter(self.adapter, *channels), channels[1])


class AdversarialTerm(nn.Module):
    """Owns discriminator and adapter, which are gone once the student is trained."""

    def __init__(self, spec: AdversarialSpec, adapter: nn.Module, channels: int) -> None:
        super().__init__()
        self.spec = spec
        self.adapter = adapter
        self.discriminator = nn.Sequential(
            nn.Conv2d(channels, spec.width, 1), nn.LeakyReLU(0.2), nn.Conv2d(spec.width, 1, 1)
        )

    def forward(self, student: DetectorOutput, teacher: DetectorOutput, batch: Batch) -> Float[Tensor, ""]:
        """What the discriminator's mistakes cost, in the mean over cells; the annotations do not enter."""
        student_map = _Reversal.apply(self.adapter(level_map(student, self.spec.level)), self.spec.reversal)
        teacher_logits = self._judged(level_map(teacher, self.spec.level).detach())
        student_logits = self._judged(student_map)
        missed = F.binary_cross_entropy_with_logits(teacher_logits, torch.ones_like(teacher_logits))
        return missed + F.binary_cross_entropy_with_logits(student_logits, torch.zeros_like(student_logits))

    def _judged(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 1 y1 x1"]:
        """Logits of being the teacher's."""
        if self.spec.judges == "map":
            maps = reduce(maps, "b c y x -> b c 1 1", "mean")
        logits = self.discriminator(maps)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _Reversal(torch.autograd.Function):
    """The identity, whose gradient is turned around and scaled."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: float) -> Tensor:
        """The values as they are."""
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Minus the gradient."""
        return -ctx.scale * gradient, None
