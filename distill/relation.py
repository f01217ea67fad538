"""Relation distillation: copy how the parts of an object relate, not what their features are."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import einsum, reduce
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from detectors.batch import Batch
from detectors.detector import DetectorSpec
from detectors.geometry.grid import BevGrid
from detectors.outputs import DetectorOutput
from detectors.spec import Spec
from distill.adapters import AdapterKind, build_adapter
from distill.regions import Level, boxes_inside, level_channels, level_map, mean_over_boxes, sample_keypoints


def relation_loss(
    student: Float[Tensor, "b k p c_student"],
    teacher: Float[Tensor, "b k p c_teacher"],
    is_object: Bool[Tensor, "b k"],
) -> Float[Tensor, ""]:
    """Mean gap between the two models' keypoint affinities, averaged over objects; in [0, 2].

    UniDistill's L_rel. Affinities have no channel axis, so the models may differ in width.

    Args:
        student: BEV features sampled at the p keypoints of each of the k objects.
        teacher: The same keypoints in the teacher's BEV map.
        is_object: False where nothing is to be compared.
    """
    gap = (_affinity(student) - _affinity(teacher.detach())).abs()
    return mean_over_boxes(reduce(gap, "b k p q -> b k", "mean"), is_object)


def _affinity(keypoints: Float[Tensor, "b k p c"]) -> Float[Tensor, "b k p p"]:
    """Cosine similarity between every two keypoints of the same object."""
    # Empty BEV cells are exactly zero after ReLU; eps bounds the gradient there by 1 / eps.
    unit = F.normalize(keypoints, dim=-1, eps=1e-3)
    # Gaps between affinities are small against the affinities: half precision would round many of them away.
    with torch.autocast(unit.device.type, enabled=False):
        return einsum(unit, unit, "b k p c, b k q c -> b k p q")


class RelationSpec(Spec):
    """UniDistill's relation loss; by default on the high level, where the paper found it to work best."""

    weight: float = Field(ge=0, allow_inf_nan=False)
    level: Level = "high"
    adapter: AdapterKind = "none"
    """Never needed for the widths; the paper adapts a student that is stronger than its teacher."""

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "RelationTerm":
        """The term between one student and one teacher."""
        channels = level_channels(student, self.level), level_channels(teacher, self.level)
        adapter = nn.Identity() if self.adapter == "none" else build_adapter(self.adapter, *channels)
        return RelationTerm(student.grid, self.level, adapter)


class RelationTerm(nn.Module):
    """Owns the adapter of the student's map."""

    def __init__(self, grid: BevGrid, level: Level, adapter: nn.Module):
        super().__init__()
        self.grid = grid
        self.level = level
        self.adapter = adapter

    def forward(self, student: DetectorOutput, teacher: DetectorOutput, batch: Batch) -> Float[Tensor, ""]:
        """Relation loss at the keypoints of the annotated boxes inside the grid."""
        adapted = self.adapter(level_map(student, self.level))
        return relation_loss(
            sample_keypoints(adapted, batch.boxes, self.grid),
            sample_keypoints(level_map(teacher, self.level), batch.boxes, self.grid),
            boxes_inside(batch.boxes, batch.is_box, self.grid),
        )
