"""Response distillation: copy the teacher's head, class scores and box maps, around the objects."""

from typing import Literal

import torch.nn as nn
from einops import reduce
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from detectors.batch import Batch
from detectors.detector import DetectorSpec
from detectors.geometry.grid import BevGrid
from detectors.outputs import DetectorOutput, HeadOutput
from detectors.spec import Spec
from distill.regions import center_gaussians

Parts = Literal["joint", "split"]
"""How the gaps of class scores and of box maps are put together."""


def response_loss(
    student: HeadOutput,
    teacher: HeadOutput,
    region: Float[Tensor, "b y x"],
    teacher_temperature: float = 1.0,
    parts: Parts = "joint",
) -> Float[Tensor, ""]:
    """Gap of the best class score and of the box maps, averaged over cells weighted by ``region``.

    UniDistill's L_resp. Every task's box map counts at every cell, whichever class the object there has.

    Args:
        student: Raw maps; gradient flows into both.
        teacher: Raw maps; taken as constants.
        region: Weight of each cell; all zero costs nothing.
        teacher_temperature: Divides the teacher's logits, and only the teacher's.
        parts: "joint" averages over the best score and all box channels, each counting as much as any other (the
            paper's concatenation); "split" adds the gap of the score and the mean gap of the box channels, the two
            counting alike (the released code).
    """
    score_gap = (_best_score(student.heatmap) - _best_score(teacher.heatmap.detach() / teacher_temperature)).abs()
    box_gap = (student.boxes - teacher.boxes.detach()).abs()
    if parts == "split":
        gap = score_gap + reduce(box_gap, "b tasks code y x -> b y x", "mean")
    else:
        channels = 1 + box_gap.shape[1] * box_gap.shape[2]
        gap = (score_gap + reduce(box_gap, "b tasks code y x -> b y x", "sum")) / channels
    # The Gaussian of every object inside the grid peaks at 1, so only an empty region sums to less.
    return (region * gap).sum() / region.sum().clamp(min=1)


def _best_score(heatmap: Float[Tensor, "b classes y x"]) -> Float[Tensor, "b y x"]:
    """Probability of the likeliest class."""
    return reduce(heatmap, "b classes y x -> b y x", "max").sigmoid()


class ResponseSpec(Spec):
    """UniDistill's response loss. Heads are compared cell by cell, so it has neither level nor adapter."""

    weight: float = Field(ge=0, allow_inf_nan=False)
    teacher_temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """1 compares scores as they are (the paper's formula); the released code has 2."""
    parts: Parts = "joint"
    """The paper's concatenation, or the released code's two terms."""
    min_overlap: float = Field(default=0.1, gt=0, lt=1)
    """How wide the Gaussian around a centre is; as in ``CenterHeadSpec``, but without its least radius."""

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "ResponseTerm":
        """The term between one student and one teacher."""
        return ResponseTerm(student.grid, self.min_overlap, self.teacher_temperature, self.parts)


class ResponseTerm(nn.Module):
    """Owns no parameter; a module so that every term is built and called alike."""

    def __init__(self, grid: BevGrid, min_overlap: float, teacher_temperature: float, parts: Parts = "joint"):
        super().__init__()
        self.grid = grid
        self.min_overlap = min_overlap
        self.teacher_temperature = teacher_temperature
        self.parts = parts

    def forward(self, student: DetectorOutput, teacher: DetectorOutput, batch: Batch) -> Float[Tensor, ""]:
        """Response loss around the centres of the annotated boxes inside the grid."""
        region = center_gaussians(batch.boxes, batch.is_box, self.grid, self.min_overlap)
        return response_loss(student.head, teacher.head, region, self.teacher_temperature, self.parts)
