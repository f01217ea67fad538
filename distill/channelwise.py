"""Channel-wise distillation: match where each channel of the teacher's BEV map is active."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from detectors.batch import Batch
from detectors.detector import DetectorSpec
from detectors.outputs import DetectorOutput
from distill.adapters import AdapterKind, build_adapter
from distill.loss import DetectorLossSpec
from distill.maps import TeacherMaps
from distill.regions import Level, level_channels, level_map


def channelwise_loss(
    student: Float[Tensor, "b c y x"], teacher: Float[Tensor, "b c y x"], temperature: float
) -> Float[Tensor, ""]:
    """Divergence of the two models' distributions over cells, in the mean over channels and samples (CWD, eq. 5).

    Args:
        student: BEV features.
        teacher: BEV features; taken as constants.
        temperature: Divides both before the softmax over cells; its square weighs the result, which keeps gradients
            alike whatever it is.
    """
    student_logits, teacher_logits = (
        (rearrange(maps, "b c y x -> (b c) (y x)") / temperature).to(torch.promote_types(maps.dtype, torch.float32))
        for maps in (student, teacher.detach())
    )
    divergence = F.kl_div(
        student_logits.log_softmax(dim=1), teacher_logits.log_softmax(dim=1), reduction="batchmean", log_target=True
    )
    return temperature**2 * divergence


class ChannelwiseSpec(DetectorLossSpec):
    """CWD (Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021), on BEV maps."""

    level: Level = "high"
    temperature: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """That of the paper's segmentation, as it is recalled."""
    adapter: AdapterKind = "none"

    def build(self, student: DetectorSpec, teacher: TeacherMaps) -> "ChannelwiseTerm":
        """The term between one student and one teacher."""
        channels = level_channels(student, self.level), level_channels(teacher, self.level)
        return ChannelwiseTerm(self, build_adapter(self.adapter, *channels))


class ChannelwiseTerm(nn.Module):
    """Owns the adapter of the student's map."""

    def __init__(self, spec: ChannelwiseSpec, adapter: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.adapter = adapter

    def forward(self, student: DetectorOutput, teacher: DetectorOutput, batch: Batch) -> Float[Tensor, ""]:
        """The loss on the maps of the level; the annotations do not enter."""
        adapted = self.adapter(level_map(student, self.spec.level))
        return channelwise_loss(adapted, level_map(teacher, self.spec.level), self.spec.temperature)
