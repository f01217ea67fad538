"""SegmentationObjective: the objective of an image teacher, for `fit`."""

import torch

from detectors.batch import ImageBatch
from detectors.segmenter import Segmenter
from distill.objective import ObjectiveOutput


class SegmentationObjective(torch.nn.Module):
    """A segmenter and its two losses, for `fit`."""

    def __init__(self, student: Segmenter) -> None:
        super().__init__()
        self.student = student
        self.weights = {"heatmap": 1.0, "masks": student.spec.head.mask_weight}

    def forward(self, batch: ImageBatch, ramp: float = 1.0) -> ObjectiveOutput:
        """Both losses of a batch; no teacher, so no ramp."""
        loss = self.student.loss(self.student(batch.images), batch.instances)
        return ObjectiveOutput.of({"heatmap": loss.heatmap, "masks": loss.masks}, self.weights)
