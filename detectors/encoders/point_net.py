"""PointNet over the points of pillars, and the map that their features are written to."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detectors.conv_block import NormSpec
from detectors.encoders.sparse_conv import norm_rows


class PointNet(nn.Module):
    """Layers of linear map, batch norm and ReLU on each slot, and in the end the maximum over the slots of a pillar.

    As in SECOND and PointPillars (Lang et al., 2019), empty slots are zeros that go through all layers: they count in
    the statistics of the batch norm, and what they become competes in the maximum.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], norm: NormSpec, repeats_maximum: bool) -> None:
        """Make the layers.

        Args:
            in_channels: Of a point.
            widths: Of each layer's output.
            norm: Constants of the batch norms.
            repeats_maximum: Whether half of a layer's output, but the last one's, is the maximum over the pillar
                (PointPillars), or all of it is of the point alone (BEVFusion's RADAR).
        """
        super().__init__()
        self.repeats_maximum = repeats_maximum
        self.linears, self.norms = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            units = width // 2 if repeats_maximum and i + 1 < len(widths) else width
            self.linears.append(nn.Linear(in_channels, units, bias=False))
            self.norms.append(norm.build_rows(units))
            in_channels = width

    def forward(self, points: Float[Tensor, "v slots c_in"], is_point: Bool[Tensor, "v slots"]) -> Float[Tensor, "v c"]:
        """Features of pillars.

        Args:
            points: Of each pillar; what is in empty slots does not matter.
            is_point: The slots that are not empty.
        """
        features = points * is_point[..., None]
        last = len(self.linears) - 1
        for i, (linear, norm) in enumerate(zip(self.linears, self.norms, strict=True)):
            rows = rearrange(linear(features), "v slots c -> (v slots) c")
            features = torch.relu(norm_rows(norm, rows)).unflatten(0, is_point.shape)  # type: ignore[arg-type]
            if self.repeats_maximum and i < last:
                features = torch.cat([features, features.amax(dim=1, keepdim=True).expand_as(features)], dim=-1)
        return features.amax(dim=1)
