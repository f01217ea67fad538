"""Feature distillation: copy the teacher's BEV features, at nine points of every object or in a region."""

from collections.abc import Callable
from functools import partial
from typing import Literal, Self

import torch
import torch.nn as nn
from einops import reduce
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from detectors.batch import Batch
from detectors.detector import DetectorSpec
from detectors.geometry.grid import BevGrid
from detectors.outputs import DetectorOutput
from distill.adapters import AdapterKind, build_adapter
from distill.gap import Distance, Normaliser, feature_gap
from distill.keypoints import KeypointTerm
from distill.loss import DetectorLossSpec, MapName, Reading
from distill.maps import TeacherMaps
from distill.regions import (
    Level,
    PointOrder,
    Region,
    center_gaussians,
    level_channels,
    level_map,
    mean_over_boxes,
    mean_over_region,
    scaled_foreground,
)


def feature_loss(
    student: Float[Tensor, "b k p c"],
    teacher: Float[Tensor, "b k p c"],
    is_object: Bool[Tensor, "b k"],
    norm: Distance = "l1",
    normalise: Normaliser = "none",
) -> Float[Tensor, ""]:
    """Difference of the two models' features, averaged over channels, keypoints and objects.

    UniDistill's L_fea, which compares features as they are, not normalised.

    Args:
        student: BEV features sampled at the p keypoints of each of the k objects.
        teacher: The same keypoints in the teacher's BEV map.
        is_object: False where nothing is to be compared.
        norm: Absolute, as the paper's, or another.
        normalise: What both are divided by, over the keypoints of all objects.
    """
    counts = is_object[..., None].expand(student.shape[:-1]).to(student.dtype)
    gaps = feature_gap(student, teacher, counts, -1, norm, normalise)
    return mean_over_boxes(reduce(gaps, "b k p c -> b k", "mean"), is_object)


class FeatureSpec(DetectorLossSpec):
    """UniDistill's feature loss; by default at nine points of the low level, where the paper found it to work best.

    ``region: map`` with ``norm: l2`` is FitNet's loss (Romero et al., ICLR 2015) on BEV maps, ``gaussian`` with ``l2``
    the dense one of BEVDistill (ICLR 2023) without its auxiliary branch, ``foreground`` with ``l2`` that of CRKD (CVPR
    2024). Their gaps are averaged over channels, as UniDistill's are, not summed. ``region: map`` with ``norm: l2`` and
    ``normalise: teacher`` is that of FSD-BEV (ECCV 2024), with ``normalise: channels`` PKD (NeurIPS 2022).
    """

    later = frozenset({"region", "norm", "normalise", "min_overlap"})

    level: Level = "low"
    region: Literal["points"] | Region = "points"
    norm: Distance = "l1"
    normalise: Normaliser = "none"
    adapter: AdapterKind = "none"
    points: PointOrder = "on_box"
    """Applies only to region: points."""
    min_overlap: float = Field(default=0.1, gt=0, lt=1)
    """Applies only to region: gaussian: the width of the Gaussian, as in ``ResponseSpec``."""

    @model_validator(mode="after")
    def _normalises_what_matters(self) -> Self:
        if self.norm == "cosine" and self.normalise == "teacher":
            raise ValueError(
                "norm: cosine compares directions, so normalise: teacher has no effect; allowed: none, channels"
            )
        return self

    @property
    def reads(self) -> frozenset[Reading] | None:
        """Its points or its region, on one map."""
        field: MapName = "bev_low" if self.level == "low" else "bev_high"
        match self.region:
            case "points":
                return frozenset({Reading(field, "points" if self.points == "on_box" else "swapped points")})
            case "gaussian":
                return frozenset({Reading(field, "gaussian", self.min_overlap)})
            case "foreground":
                return frozenset({Reading(field, "foreground")})
            case _:
                return None

    def build(self, student: DetectorSpec, teacher: TeacherMaps) -> nn.Module:
        """The term between one student and one teacher."""
        adapter = build_adapter(self.adapter, level_channels(student, self.level), level_channels(teacher, self.level))
        if self.region == "points":
            loss = partial(feature_loss, norm=self.norm, normalise=self.normalise)
            return KeypointTerm(loss, student.grid, self.level, adapter, self.points)
        return RegionTerm(self, student.grid, adapter)


class RegionTerm(nn.Module):
    """Owns the adapter of the student's map, and compares it with the teacher's cell by cell."""

    def __init__(self, spec: FeatureSpec, grid: BevGrid, adapter: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.grid = grid
        self.adapter = adapter

    def forward(self, student: DetectorOutput, teacher: DetectorOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean gap over the cells of the region."""
        spec = self.spec
        wanted = level_map(teacher, spec.level).detach()
        region = self._region(wanted, batch)
        gaps = feature_gap(self.adapter(level_map(student, spec.level)), wanted, region, 1, spec.norm, spec.normalise)
        return mean_over_region(gaps.mean(dim=1), region)

    def counts(self, teacher: Callable[[], DetectorOutput], batch: Batch) -> Float[Tensor, "1"]:
        """The sum over its region."""
        return self._region(level_map(teacher(), self.spec.level), batch).sum().float()[None]

    def _region(self, wanted: Float[Tensor, "b c y x"], batch: Batch) -> Float[Tensor, "b y x"]:
        """The weight of each cell, given the teacher's map."""
        match self.spec.region:
            case "gaussian":
                return center_gaussians(batch.boxes, batch.is_box, self.grid, self.spec.min_overlap)
            case "foreground":
                # Where the teacher has nothing at all, as between a LiDAR's returns, it has nothing to say.
                return scaled_foreground(batch.boxes, batch.is_box, self.grid) * wanted.any(dim=1)
            case "active":
                return wanted.any(dim=1).to(wanted.dtype)
            case _:
                return torch.ones_like(wanted[:, 0])
