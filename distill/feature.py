"""Feature distillation: copy the teacher's BEV features at nine points of every object."""

import torch.nn as nn
from einops import reduce
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


def feature_loss(
    student: Float[Tensor, "b k p c"],
    teacher: Float[Tensor, "b k p c"],
    is_object: Bool[Tensor, "b k"],
) -> Float[Tensor, ""]:
    """Absolute difference of the two models' features, averaged over channels, keypoints and objects.

    UniDistill's L_fea. Features are compared as they are, not normalised.

    Args:
        student: BEV features sampled at the p keypoints of each of the k objects.
        teacher: The same keypoints in the teacher's BEV map.
        is_object: False where nothing is to be compared.
    """
    gap = (student - teacher.detach()).abs()
    return mean_over_boxes(reduce(gap, "b k p c -> b k", "mean"), is_object)


class FeatureSpec(Spec):
    """UniDistill's feature loss; by default on the low level, where the paper found it to work best."""

    weight: float = Field(ge=0, allow_inf_nan=False)
    level: Level = "low"
    adapter: AdapterKind = "none"

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "FeatureTerm":
        """The term between one student and one teacher."""
        channels = level_channels(student, self.level), level_channels(teacher, self.level)
        return FeatureTerm(student.grid, self.level, build_adapter(self.adapter, *channels))


class FeatureTerm(nn.Module):
    """Owns the adapter of the student's map."""

    def __init__(self, grid: BevGrid, level: Level, adapter: nn.Module):
        super().__init__()
        self.grid = grid
        self.level = level
        self.adapter = adapter

    def forward(self, student: DetectorOutput, teacher: DetectorOutput, batch: Batch) -> Float[Tensor, ""]:
        """Feature loss at the keypoints of the annotated boxes inside the grid."""
        adapted = self.adapter(level_map(student, self.level))
        return feature_loss(
            sample_keypoints(adapted, batch.boxes, self.grid),
            sample_keypoints(level_map(teacher, self.level), batch.boxes, self.grid),
            boxes_inside(batch.boxes, batch.is_box, self.grid),
        )
