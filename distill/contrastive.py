"""Contrastive distillation: pull each point's feature towards the teacher's, and away from those of other points."""

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from detectors.batch import Batch
from detectors.detector import DetectorSpec
from detectors.geometry.grid import BevGrid
from detectors.outputs import DetectorOutput
from distill.loss import DetectorLossSpec
from distill.maps import TeacherMaps
from distill.regions import Level, boxes_inside, count_inside, level_channels, level_map, sample_keypoints

AT_ONCE = 2**25
"""Similarities that are there at the same time: 128 MiB, and several times that in the backward pass."""


def info_nce(
    student: Float[Tensor, "n c"], teacher: Float[Tensor, "n c"], counts: Bool[Tensor, " n"], temperature: float
) -> Float[Tensor, ""]:
    """Cross entropy of finding each of the student's vectors among the teacher's; 0 where fewer than one counts.

    Args:
        student: One vector a point.
        teacher: The same points.
        counts: The others are neither looked for nor found.
        temperature: Of cosine similarities.
    """
    with torch.autocast(student.device.type, enabled=False):
        student_units, teacher_units = (
            F.normalize(v.to(torch.promote_types(v.dtype, torch.float32)), dim=-1) for v in (student, teacher)
        )
    if len(counts) ** 2 <= AT_ONCE:
        errors = _errors(student_units, teacher_units, counts, 0, temperature)
    else:
        rows = max(1, AT_ONCE // len(counts))
        # Computed anew in the backward pass, for which otherwise all of them would stay.
        some = [
            checkpoint(_errors, units, teacher_units, counts, number * rows, temperature, use_reentrant=False)
            for number, units in enumerate(student_units.split(rows))
        ]
        errors = torch.cat(some)
    return errors.masked_fill(~counts, 0).sum() / counts.sum().clamp(min=1)


def _errors(
    student: Float[Tensor, "i c"], teacher: Float[Tensor, "n c"], counts: Bool[Tensor, " n"], first: int, scale: float
) -> Float[Tensor, " i"]:
    """Cross entropy of each of some of the student's vectors, from the first on; `scale` is the temperature."""
    with torch.autocast(student.device.type, enabled=False):
        logits = einsum(student, teacher, "i c, j c -> i j") / scale
    logits = logits.masked_fill(~counts, torch.finfo(logits.dtype).min)
    return F.cross_entropy(logits, first + torch.arange(len(logits), device=logits.device), reduction="none")


class ContrastiveSpec(DetectorLossSpec):
    """The dense contrastive loss of BEVDistill (Chen et al., ICLR 2023), at the nine points of annotated boxes.

    There the points are those at which the student's queries sample, and the projections have 512 channels.
    """

    level: Level = "high"
    temperature: float = Field(default=0.07, gt=0, allow_inf_nan=False)
    width: int = Field(default=64, ge=1)
    """Channels of the vectors that are compared."""

    def build(self, student: DetectorSpec, teacher: TeacherMaps) -> "ContrastiveTerm":
        """The term between one student and one teacher."""
        return ContrastiveTerm(
            self, student.grid, level_channels(student, self.level), level_channels(teacher, self.level)
        )


class ContrastiveTerm(nn.Module):
    """Owns a projection of each model's features; both are trained, the teacher is not."""

    def __init__(self, spec: ContrastiveSpec, grid: BevGrid, student: int, teacher: int) -> None:
        super().__init__()
        self.spec = spec
        self.grid = grid
        self.student, self.teacher = (
            nn.Sequential(nn.Linear(channels, spec.width), nn.ReLU(), nn.Linear(spec.width, spec.width))
            for channels in (student, teacher)
        )

    def forward(self, student: DetectorOutput, teacher: DetectorOutput, batch: Batch) -> Float[Tensor, ""]:
        """The loss over the nine points of all annotated boxes of the batch inside the grid."""
        inside = boxes_inside(batch.boxes, batch.is_box, self.grid)
        vectors = []
        for project, output in ((self.student, student), (self.teacher, teacher)):
            maps = level_map(output, self.spec.level)
            maps = maps.detach() if output is teacher else maps
            vectors.append(project(rearrange(sample_keypoints(maps, batch.boxes, self.grid), "b k p c -> (b k p) c")))
        student_vectors, teacher_vectors = vectors
        return info_nce(student_vectors, teacher_vectors, repeat(inside, "b k -> (b k p)", p=9), self.spec.temperature)

    def counts(self, teacher: Callable[[], DetectorOutput], batch: Batch) -> Float[Tensor, "1"]:
        """Points inside the grid. Those of other parts of a batch are not told apart from these."""
        return 9 * count_inside(batch.boxes, batch.is_box, self.grid)
