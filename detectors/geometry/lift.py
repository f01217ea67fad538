"""Lift: finds the BEV cell of each depth bin of each image feature, and the order of summation in a cell."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Self

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int, Int32
from torch import Tensor

from detectors.checks import check_indices, check_starts
from detectors.geometry.grid import BevGrid
from detectors.spec import Spec


@dataclass(frozen=True)
class LiftPlan:
    """What the view transform adds up: the terms of each BEV cell, and once more the terms of each feature.

    A term is a depth bin of a feature, if it lies on the grid. It depends on cameras alone; as finding the terms takes
    a sort of all bins, the loader does it ahead of the detector. Indices of a batch count over all its samples.
    """

    feature: Int32[Tensor, " p"]
    """Cell by cell, the feature (n h w) of each term."""
    bin: Int32[Tensor, " p"]
    """Cell by cell, the probability (n d h w) that each term is weighed with."""
    cell_starts: Int32[Tensor, " cells_and_one"]
    """Where the terms of each cell (y x) begin; at the end, the number of all terms."""
    cell: Int32[Tensor, " p"]
    """Feature by feature, the cell of each term: along this order the gradient flows back."""
    bin_by_feature: Int32[Tensor, " p"]
    feature_starts: Int32[Tensor, " features_and_one"]

    def to(self, device: torch.device | str) -> Self:
        """The same plan on another device."""
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def check(self, features: int, bins: int) -> None:
        """Raise IndexError if the plan is not one of so many features and bins: it was made for other views."""
        cells = len(self.cell_starts) - 1
        for name, count in {"feature": features, "bin": bins, "cell": cells, "bin_by_feature": bins}.items():
            check_indices(f"lift plan, {name}", getattr(self, name), count)
        if len(self.feature_starts) != features + 1:
            raise IndexError(f"lift plan: made for {len(self.feature_starts) - 1} features, not for {features}")
        for name in ("cell_starts", "feature_starts"):
            check_starts(f"lift plan, {name}", getattr(self, name), len(self.cell))

    @property
    def nbytes(self) -> int:
        """Memory of its tensors."""
        return sum(getattr(self, f.name).nbytes for f in fields(self))


class LiftGeometry(Spec):
    """All that the plan of a camera detector depends on, besides its cameras."""

    later = frozenset({"keyframes"})

    grid: BevGrid
    feature_size: tuple[int, int]
    """h and w of a view's feature map."""
    stride: int
    """Image pixels per feature; a feature sits in the middle of its pixels."""
    depth_range: tuple[float, float]
    """Along the optical axis, metres."""
    depth_bins: int
    """All of one width."""
    keyframes: int = 1
    """The views of each fall into cells of their own, those of the newest first."""

    def counts(self, views: int) -> tuple[int, int]:
        """Features (n h w) and bins (n d h w) of so many views."""
        features = views * self.feature_size[0] * self.feature_size[1]
        return features, features * self.depth_bins

    def depths(self) -> Float[Tensor, " d"]:
        """The middle of each depth bin, metres."""
        low, high = self.depth_range
        return low + (torch.arange(self.depth_bins) + 0.5) * ((high - low) / self.depth_bins)

    def cells(
        self, intrinsics: Float[Tensor, "n 3 3"], ego_from_camera: Float[Tensor, "n 4 4"]
    ) -> Int[Tensor, "n d h w"]:
        """The BEV cell (y x) that each depth bin of each feature falls into.

        Args:
            intrinsics: Pixels of the input image from the camera frame.
            ego_from_camera: BEV frame from camera frame.

        Returns:
            Outside of the grid, above or below included, y * x: one past the last cell.
        """
        h, w = self.feature_size
        rows = (torch.arange(h, device=intrinsics.device) + 0.5) * self.stride
        columns = (torch.arange(w, device=intrinsics.device) + 0.5) * self.stride
        row, column = torch.meshgrid(rows, columns, indexing="ij")
        pixel = torch.stack([column, row, torch.ones_like(row)], dim=-1)

        rotation, origin = ego_from_camera[:, :3, :3], ego_from_camera[:, :3, 3]
        # Autocast would round positions to half a cell.
        with torch.autocast(intrinsics.device.type, enabled=False):
            ray = einsum(rotation @ torch.linalg.inv(intrinsics), pixel, "n i j, h w j -> n h w i")
            along = einsum(ray, self.depths().to(ray), "n h w i, d -> n d h w i")
        position = along + rearrange(origin, "n i -> n 1 1 1 i")

        x, y = self.grid.cells_from_metres(position[..., :2]).floor().long().unbind(dim=-1)
        z, (bottom, top) = position[..., 2], self.grid.z_range
        inside = (x >= 0) & (x < self.grid.columns) & (y >= 0) & (y < self.grid.rows) & (z >= bottom) & (z < top)
        return torch.where(inside, y * self.grid.columns + x, self.grid.rows * self.grid.columns)

    def plan(self, intrinsics: Float[Tensor, "n 3 3"], ego_from_camera: Float[Tensor, "n 4 4"]) -> LiftPlan:
        """The plan of one sample's cameras: of every keyframe the same number, those of the newest first."""
        cells = self.cells(intrinsics, ego_from_camera)
        if len(cells) % self.keyframes:
            raise ValueError(f"{len(cells)} views are not those of {self.keyframes} keyframes")
        plans = [plan_of_cells(part, self.grid.rows * self.grid.columns) for part in cells.chunk(self.keyframes)]
        return plans[0] if len(plans) == 1 else join_plans(plans, *self.counts(len(cells) // self.keyframes))


def plan_of_cells(cells: Int[Tensor, "n d h w"], count: int) -> LiftPlan:
    """The plan that fills so many cells, given the cell of each bin; bins whose cell is `count` are left out."""
    d = cells.shape[1]
    bins = torch.arange(cells.numel(), device=cells.device, dtype=torch.int32).reshape(cells.shape)
    # Feature by feature, and of each the bins by depth.
    cell = rearrange(cells, "n d h w -> (n h w d)")
    on_grid = (cell < count).nonzero()[:, 0]
    cell, bins = cell[on_grid], rearrange(bins, "n d h w -> (n h w d)")[on_grid]
    feature = on_grid.div(d, rounding_mode="floor").int()
    # A stable sort fixes the order of the sums and with it their last bit; in 16 bits it takes an eighth of the time.
    key, order = torch.sort(cell.to(torch.int16) if count <= torch.iinfo(torch.int16).max else cell, stable=True)
    return LiftPlan(
        feature=feature[order],
        bin=bins[order],
        cell_starts=_starts(key, count),
        cell=cell.int(),
        bin_by_feature=bins,
        feature_starts=_starts(feature, cells.numel() // d),
    )


def _starts(ordered: Int[Tensor, " p"], count: int) -> Int32[Tensor, " count_and_one"]:
    """Where each number from 0 begins in a list in which they ascend, up to and with `count`."""
    numbers = torch.arange(count + 1, device=ordered.device, dtype=ordered.dtype)
    return torch.searchsorted(ordered, numbers, out_int32=True)


def join_plans(plans: Sequence[LiftPlan], features: int, bins: int) -> LiftPlan:
    """The plan of a batch, or of the keyframes of a sample, whose cells follow each other.

    Args:
        plans: Of its samples.
        features: Of one sample: n h w.
        bins: Of one sample: n d h w.
    """
    cells = len(plans[0].cell_starts) - 1
    terms = [0, *accumulate(len(plan.cell) for plan in plans)]
    end = plans[0].cell_starts.new_tensor(terms[-1:])

    def indices(name: str, step: int) -> Int32[Tensor, " p"]:
        return torch.cat([getattr(plan, name) + i * step for i, plan in enumerate(plans)])

    def starts(name: str) -> Int32[Tensor, " starts"]:
        begun = [getattr(plan, name)[:-1] + term for plan, term in zip(plans, terms, strict=False)]
        return torch.cat([*begun, end])

    return LiftPlan(
        feature=indices("feature", features),
        bin=indices("bin", bins),
        cell_starts=starts("cell_starts"),
        cell=indices("cell", cells),
        bin_by_feature=indices("bin_by_feature", bins),
        feature_starts=starts("feature_starts"),
    )
