"""Response distillation: copy the teacher's head, class scores and box maps, around the objects."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn as nn
from einops import rearrange, reduce
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from detectors.batch import Batch
from detectors.detector import DetectorSpec
from detectors.geometry.grid import BevGrid
from detectors.outputs import DetectorOutput, HeadOutput
from detectors.shares import samples_count
from distill.loss import DetectorLossSpec, Reading
from distill.maps import MapsSpec, TeacherMaps
from distill.regions import center_gaussians, mean_over_region

Parts = Literal["joint", "split"]
"""How the gaps of class scores and of box maps are combined."""

Scores = Literal["best", "all"]
"""Whether the best class score of each model or all class scores are compared in a cell."""


def response_loss(
    student: HeadOutput,
    teacher: HeadOutput,
    region: Float[Tensor, "b y x"],
    teacher_temperature: float = 1.0,
    parts: Parts = "joint",
    scores: Scores = "best",
) -> Float[Tensor, ""]:
    """Gap of the best class score and of the box maps, averaged over cells weighted by ``region``.

    UniDistill's L_resp. Every task's box map counts at every cell, whichever class the object there has. Where both
    models predict overlaps, these belong to the box maps, as in UniDistill.

    Args:
        student: Raw maps; gradient flows into both.
        teacher: Raw maps; taken as constants.
        region: Weight of each cell; all zero costs nothing.
        teacher_temperature: Divides the teacher's logits, and only the teacher's.
        parts: "joint" averages over the best score and all box channels, each counting as much as any other (the
            paper's concatenation); "split" adds the gap of the score and the mean gap of the box channels, the two
            counting alike (the released code).
        scores: "all" compares the scores of every class, of which "joint" then has as many channels.
    """
    score_gap = (
        _scores(student.heatmap, scores) - _scores(teacher.heatmap.detach() / teacher_temperature, scores)
    ).abs()
    box_gap = (student.boxes - teacher.boxes.detach()).abs()
    if student.iou is not None and teacher.iou is not None:
        overlap_gap = (student.iou - teacher.iou.detach()).abs()
        box_gap = torch.cat([box_gap, rearrange(overlap_gap, "b tasks y x -> b tasks 1 y x")], dim=2)
    if parts == "split":
        gap = score_gap.mean(dim=1) + reduce(box_gap, "b tasks code y x -> b y x", "mean")
    else:
        channels = score_gap.shape[1] + box_gap.shape[1] * box_gap.shape[2]
        gap = (score_gap.sum(dim=1) + reduce(box_gap, "b tasks code y x -> b y x", "sum")) / channels
    return mean_over_region(gap, region)


def _scores(heatmap: Float[Tensor, "b classes y x"], scores: Scores) -> Float[Tensor, "b scores y x"]:
    """Probability of the likeliest class, or of all."""
    chosen = reduce(heatmap, "b classes y x -> b 1 y x", "max") if scores == "best" else heatmap
    return chosen.sigmoid()


class ResponseSpec(DetectorLossSpec):
    """UniDistill's response loss. Heads are compared cell by cell, so it has neither level nor adapter."""

    later = frozenset({"scores", "region"})
    asks_features = False

    teacher_temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """1 compares scores as they are (the paper's formula); the released code has 2."""
    parts: Parts = "joint"
    """The paper's concatenation, or the released code's two terms."""
    scores: Scores = "best"
    """The paper's best class, or every class, which it compares it with."""
    region: Literal["gaussian", "map"] = "gaussian"
    """Around centres, or every cell alike, which the paper compares it with."""
    min_overlap: float = Field(default=0.1, gt=0, lt=1)
    """The width of the Gaussian around a centre, as in ``CenterHeadSpec`` but without its minimum radius."""

    @property
    def reads(self) -> frozenset[Reading] | None:
        """The head's maps around centres, or all of them."""
        return frozenset({Reading("head", "gaussian", self.min_overlap)}) if self.region == "gaussian" else None

    def build(self, student: DetectorSpec, teacher: TeacherMaps) -> "ResponseTerm":
        """The term between one student and one teacher, whose box maps have to mean something in every cell."""
        if isinstance(teacher, MapsSpec) and teacher.boxes != "maps":
            lack = "boxes, but no" if teacher.boxes else "no"
            raise ValueError(f"the teacher's folder of maps has {lack} heatmap and box_codes, which this loss compares")
        return ResponseTerm(self, student.grid)


class ResponseTerm(nn.Module):
    """Owns no parameter; a module so that every term is built and called alike."""

    def __init__(self, spec: ResponseSpec, grid: BevGrid):
        super().__init__()
        self.spec = spec
        self.grid = grid

    def forward(self, student: DetectorOutput, teacher: DetectorOutput, batch: Batch) -> Float[Tensor, ""]:
        """Response loss around the centres of the annotated boxes inside the grid, or everywhere."""
        spec = self.spec
        region = torch.ones_like(student.head.heatmap[:, 0]) if spec.region == "map" else self._around_centers(batch)
        return response_loss(student.head, teacher.head, region, spec.teacher_temperature, spec.parts, spec.scores)

    def counts(self, teacher: Callable[[], DetectorOutput], batch: Batch) -> Float[Tensor, "1"]:
        """The sum over its region."""
        if self.spec.region == "map":
            return samples_count(len(batch) * self.grid.rows * self.grid.columns, batch.is_box.device)
        return self._around_centers(batch).sum().float()[None]

    def _around_centers(self, batch: Batch) -> Float[Tensor, "b y x"]:
        return center_gaussians(batch.boxes, batch.is_box, self.grid, self.spec.min_overlap)
