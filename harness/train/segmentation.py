"""SegmentationObjective: the objective of an image teacher, for `fit`."""

import torch

from detectors.batch import ImageBatch
from detectors.segmenter import Segmenter
from detectors.shares import Counts, Shares
from distill.objective import ObjectiveOutput


class SegmentationObjective(torch.nn.Module):
    """A segmenter and its two losses, for `fit`."""

    def __init__(self, student: Segmenter) -> None:
        super().__init__()
        self.student = student
        self.weights = {"heatmap": 1.0, "masks": student.spec.head.mask_weight}

    def forward(self, batch: ImageBatch, ramp: float = 1.0, shares: Shares | None = None) -> ObjectiveOutput:
        """Both losses of a batch, or what a part of one adds to them; no teacher, so no ramp."""
        loss = self.student.loss(self.student(batch.images), batch.instances)
        terms = {"heatmap": loss.heatmap, "masks": loss.masks}
        if shares is not None:
            terms = {name: value * shares[name].squeeze() for name, value in terms.items()}
        return ObjectiveOutput.of(terms, self.weights)

    def counts(self, batch: ImageBatch) -> Counts:
        """What the losses of a batch divide by."""
        return self.student.counts(batch.instances)
