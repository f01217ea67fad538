"""KeypointTerm: a loss that compares two BEV maps at the nine points of every annotated box."""

from collections.abc import Callable

import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from detectors.batch import Batch
from detectors.geometry.grid import BevGrid
from detectors.outputs import DetectorOutput
from distill.regions import Level, PointOrder, boxes_inside, count_inside, level_map, sample_keypoints

KeypointLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Student and teacher features ``b k p c``, and which of the ``b k`` boxes count, to a scalar."""


class KeypointTerm(nn.Module):
    """Owns the adapter of the student's map, and reads both maps where the loss wants them."""

    def __init__(
        self, loss: KeypointLoss, grid: BevGrid, level: Level, adapter: nn.Module, points: PointOrder = "on_box"
    ):
        super().__init__()
        self.loss = loss
        self.grid = grid
        self.level = level
        self.adapter = adapter
        self.points = points

    def forward(self, student: DetectorOutput, teacher: DetectorOutput, batch: Batch) -> Float[Tensor, ""]:
        """The loss at the keypoints of the annotated boxes inside the grid."""
        adapted = self.adapter(level_map(student, self.level))
        return self.loss(
            sample_keypoints(adapted, batch.boxes, self.grid, self.points),
            sample_keypoints(level_map(teacher, self.level), batch.boxes, self.grid, self.points),
            boxes_inside(batch.boxes, batch.is_box, self.grid),
        )

    def counts(self, teacher: Callable[[], DetectorOutput], batch: Batch) -> Float[Tensor, "1"]:
        """Annotated boxes inside the grid."""
        return count_inside(batch.boxes, batch.is_box, self.grid)
