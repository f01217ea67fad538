"""Relation distillation: copy the relations between the parts of an object, not their features."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import einsum, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from detectors.detector import DetectorSpec
from distill.adapters import AdapterKind, build_adapter
from distill.keypoints import KeypointTerm
from distill.loss import DetectorLossSpec, MapName, Reading
from distill.maps import TeacherMaps
from distill.regions import Level, PointOrder, level_channels, mean_over_boxes


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


class RelationSpec(DetectorLossSpec):
    """UniDistill's relation loss; by default on the high level, where the paper found it to work best."""

    level: Level = "high"
    adapter: AdapterKind = "none"
    """Never needed for the widths; the paper adapts a student that is stronger than its teacher."""
    points: PointOrder = "on_box"

    @property
    def reads(self) -> frozenset[Reading]:
        """Its points on one map."""
        field: MapName = "bev_low" if self.level == "low" else "bev_high"
        return frozenset({Reading(field, "points" if self.points == "on_box" else "swapped points")})

    def build(self, student: DetectorSpec, teacher: TeacherMaps) -> KeypointTerm:
        """The term between one student and one teacher."""
        channels = level_channels(student, self.level), level_channels(teacher, self.level)
        adapter = nn.Identity() if self.adapter == "none" else build_adapter(self.adapter, *channels)
        return KeypointTerm(relation_loss, student.grid, self.level, adapter, self.points)
