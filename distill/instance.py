"""X-IS: train the student's image features to segment the instances of an image teacher, before the view transform."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn as nn
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from detectors.batch import Batch, Instances
from detectors.detector import DetectorSpec
from detectors.heads.instance_mask import (
    UPSAMPLE,
    InstanceMaskSpec,
    InstanceTargets,
    instance_counts,
    instance_targets,
)
from detectors.outputs import DetectorOutput
from distill.loss import ImageLossSpec

Confidence = Literal["masks", "none"]
"""Whether the teacher's scores weigh the error of each mask."""


class InstanceSpec(ImageLossSpec):
    """X3KD's cross-task instance segmentation distillation, X-IS.

    A head on the student's perspective-view features is trained, with the usual losses of its kind, against what an
    image teacher detects in the same image with a score above a threshold, and is dropped after the training. The
    features are those before the view transformation, so no gradient passes through it.

    X3KD's head is Mask R-CNN's; this one has no proposals (object centres and a mask kernel for each), a deviation.
    Unknown of the paper: the head's size and whether scores weigh anything; here a field each.
    """

    score_threshold: float = Field(default=0.2, ge=0, lt=1)
    """The paper's value, as it is recalled."""
    confidence: Confidence = "none"
    head: InstanceMaskSpec = InstanceMaskSpec(width=48)

    @property
    def least_score(self) -> float:
        """The threshold."""
        return self.score_threshold

    def build(self, student: DetectorSpec) -> "InstanceTerm":
        """The term of one student; ValueError where it has no camera."""
        if student.camera is None:
            raise ValueError("instance masks are learned in camera images, and the student has no camera")
        return InstanceTerm(self, student.camera.image.channels, student.camera.image.stride)


class InstanceTerm(nn.Module):
    """Owns the head, which only training needs."""

    def __init__(self, spec: InstanceSpec, image_channels: int, stride: int) -> None:
        super().__init__()
        self.spec = spec
        self.stride = stride
        self.head = spec.head.build(image_channels)

    def forward(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput | None,
        batch: Batch,
        shares: Float[Tensor, "2"] | None = None,
    ) -> Float[Tensor, ""]:
        """Loss of the head on the student's image features against the labels in the batch."""
        if batch.instances is None:
            raise ValueError("the batch carries no labels of an image teacher")
        assert student.image_features is not None
        maps = self.head(rearrange(student.image_features, "b n c h w -> (b n) c h w"))
        loss = self.head.loss(maps, self._targets(batch.instances, maps.size))
        if shares is None:
            return loss.heatmap + self.spec.head.mask_weight * loss.masks
        return shares[0] * loss.heatmap + self.spec.head.mask_weight * shares[1] * loss.masks

    def counts(self, teacher: Callable[[], DetectorOutput], batch: Batch) -> Float[Tensor, "2"]:
        """Centres and masks."""
        assert batch.instances is not None
        rows, columns = (size // self.stride * UPSAMPLE for size in batch.instances.owner.shape[-2:])
        return instance_counts(self._targets(batch.instances, (rows, columns)))

    def _targets(self, instances: Instances, cells: tuple[int, int]) -> InstanceTargets:
        """Those of the sure instances of all views, on maps of so many rows and columns."""
        is_sure = instances.score.flatten(0, 1) > self.spec.score_threshold
        return instance_targets(self._flat(instances), cells, self.spec.head, is_sure)

    def _flat(self, instances: Instances) -> Instances:
        """Those of all views one after the other."""
        owner, label, score = (
            rearrange(each, "b n ... -> (b n) ...") for each in (instances.owner, instances.label, instances.score)
        )
        return Instances(
            owner, label, score if self.spec.confidence == "masks" else torch.ones_like(score), instances.count
        )
