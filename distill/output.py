"""Output distillation: the teacher's confident boxes serve as annotations."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn as nn
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from detectors.batch import Batch
from detectors.detector import DetectorSpec
from detectors.geometry.boxes import Boxes
from detectors.geometry.grid import BevGrid
from detectors.heads.center import CenterHeadSpec
from detectors.heads.center_loss import center_targets, detection_counts, detection_loss
from detectors.heads.decoding import decode_sure
from detectors.outputs import DetectorOutput
from distill.loss import DetectorLossSpec
from distill.maps import TeacherMaps

Confidence = Literal["boxes", "none"]
"""Whether the teacher's scores weigh the error of each box."""


class OutputSpec(DetectorLossSpec):
    """X3KD's cross-modal output distillation, X-OD.

    L_X-OD = w_heat GaussianFocal(h_S, h_pseudo) + w_box 1/N sum over boxes s_b SmoothL1(y_S(b), y_T(b)), over the
    teacher's boxes whose score s_b is above a threshold; with the weights that the student's detection loss gives its
    own two parts. What is known of the paper names neither a normaliser nor whether s_b enters the class part: here
    N is the number of such boxes, as in the detection loss, and it does not.
    """

    asks_features = False

    score_threshold: float = Field(default=0.6, ge=0, lt=1)
    """The paper's value, as it is recalled; a teacher that is less sure of itself needs a lower one."""
    confidence: Confidence = "boxes"
    """The paper weighs, and has a row without."""
    annotations: bool = True
    """Whether the student also learns from annotations; the paper has a row without."""

    @property
    def keeps_annotations(self) -> bool:
        """As the field says."""
        return self.annotations

    def build(self, student: DetectorSpec, teacher: TeacherMaps) -> "OutputTerm":
        """The term between one student and one teacher."""
        if teacher.head is None:
            raise ValueError("the teacher's folder of maps has neither boxes nor heatmap and box_codes")
        return OutputTerm(self, student, teacher.head, teacher.grid)


class OutputTerm(nn.Module):
    """Owns no parameter."""

    def __init__(self, spec: OutputSpec, student: DetectorSpec, teacher: CenterHeadSpec, grid: BevGrid) -> None:
        super().__init__()
        self.spec = spec
        self.student = student
        self.teacher = teacher
        self.grid = grid

    def forward(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        batch: Batch,
        shares: Float[Tensor, " means"] | None = None,
    ) -> Float[Tensor, ""]:
        """Detection loss of the student against the teacher's sure boxes; the annotations do not enter."""
        boxes, is_box = self._sure(teacher)
        head, grid = self.student.head, self.student.grid
        targets = center_targets(boxes, is_box, head, grid)
        confidence = boxes.score.gather(1, targets.box) if self.spec.confidence == "boxes" else None
        named = None
        if shares is not None:
            named = dict(zip(("heatmap", "boxes"), shares.chunk(2), strict=True))
        loss = detection_loss(student.head, targets, head, grid, confidence=confidence, beta=1.0, shares=named)
        return head.heatmap_weight * loss.heatmap + head.box_weight * loss.boxes

    def counts(self, teacher: Callable[[], DetectorOutput], batch: Batch) -> Float[Tensor, " means"]:
        """Those of the detection loss: of heatmaps, then of boxes."""
        head = self.student.head
        counts = detection_counts(center_targets(*self._sure(teacher()), head, self.student.grid), head)
        return torch.cat([counts["heatmap"], counts["boxes"]])

    def _sure(self, teacher: DetectorOutput) -> tuple[Boxes, Bool[Tensor, "b k"]]:
        """The teacher's boxes above the threshold, padded, and which are none."""
        return decode_sure(teacher.head, self.teacher, self.grid, self.spec.score_threshold)
