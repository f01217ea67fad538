"""Activation distillation: a decoder on the student's BEV map predicts the teacher's activations."""

from typing import Literal

import torch.nn as nn
from einops import reduce
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from detectors.batch import Batch
from detectors.detector import DetectorSpec
from detectors.outputs import DetectorOutput
from distill.gap import Norm, gap
from distill.loss import DetectorLossSpec
from distill.maps import TeacherMaps
from distill.regions import Level, level_channels, level_map


class ActivationSpec(DetectorLossSpec):
    """X3KD's cross-modal feature distillation, X-FD.

    L_X-FD = 1/(H W) sum over cells | D(F_S) - a_T |. The paper matches no features directly, which its authors found
    unstable, but lets a small decoder D predict the teacher's sparse activations. Neither D nor the layer, the
    reduction of channels or the norm is known: here D has two 3 x 3 convolutions, and a_T is the mean absolute value
    over the channels of the low-level map, or all of them.
    """

    level: Level = "low"
    target: Literal["mean", "channels"] = "mean"
    norm: Norm = "l2"
    width: int = Field(default=32, ge=1)
    """Channels inside the decoder."""

    def build(self, student: DetectorSpec, teacher: TeacherMaps) -> "ActivationTerm":
        """The term between one student and one teacher."""
        channels = level_channels(teacher, self.level)
        return ActivationTerm(self, level_channels(student, self.level), channels if self.target == "channels" else 1)


class ActivationTerm(nn.Module):
    """Owns the decoder, which is gone once the student is trained."""

    def __init__(self, spec: ActivationSpec, channels: int, targets: int) -> None:
        super().__init__()
        self.spec = spec
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, spec.width, 3, padding=1), nn.ReLU(), nn.Conv2d(spec.width, targets, 3, padding=1)
        )

    def forward(self, student: DetectorOutput, teacher: DetectorOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean gap over cells and predicted channels; the annotations do not enter."""
        wanted = level_map(teacher, self.spec.level).detach()
        if self.spec.target == "mean":
            wanted = reduce(wanted.abs(), "b c y x -> b 1 y x", "mean")
        return gap(self.decoder(level_map(student, self.spec.level)), wanted, self.spec.norm).mean()
