"""Feature distillation: copy the teacher's BEV features at nine points of every object."""

from einops import reduce
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from detectors.detector import DetectorSpec
from detectors.spec import Spec
from distill.adapters import AdapterKind, build_adapter
from distill.keypoints import KeypointTerm
from distill.regions import Level, PointOrder, level_channels, mean_over_boxes


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
    points: PointOrder = "on_box"

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> KeypointTerm:
        """The term between one student and one teacher."""
        channels = level_channels(student, self.level), level_channels(teacher, self.level)
        return KeypointTerm(feature_loss, student.grid, self.level, build_adapter(self.adapter, *channels), self.points)
