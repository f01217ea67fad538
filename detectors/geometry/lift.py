"""Lift: finds the BEV cell of each depth bin of each image feature, and the order of summation in a cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal, Self

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int, Int32
from torch import Tensor

from detectors.asynchronous import constant, sent
from detectors.checks import check_indices
from detectors.geometry.grid import BevGrid
from detectors.spec import Spec


@dataclass(frozen=True)
class LiftTerms:
    """What the view transform adds up: the terms of each BEV cell, one after the other.

    A term is a depth bin of a feature. Indices of a batch count over all its samples.
    """

    feature: Int32[Tensor, " p"]
    """Cell by cell, the feature (n h w) of each term."""
    bin: Int32[Tensor, " p"]
    """Cell by cell, the probability (n h w d) that each term is weighed with."""
    starts: Int32[Tensor, " bags_and_one"]
    """Where the terms of each cell (y x) begin; at the end, the number of all terms. On other devices than a CPU, a
    bag of each feature follows the cells', with its bins that lie off the grid."""


@dataclass(frozen=True)
class LiftPlan:
    """Where the view transform carries each depth bin of each feature; it depends on cameras alone."""

    cell: Int32[Tensor, "features d"]
    """The BEV cell (y x) of each bin of each feature (n h w), those of all samples of a batch counted through; -1 off
    the grid."""
    cells: int
    """Of all maps together."""

    def to(self, device: torch.device | str) -> Self:
        """The same plan on another device."""
        return type(self)(sent(self.cell, device), self.cells)

    def check(self, features: int, bins: int) -> None:
        """Raise IndexError if the plan is not one of so many features and bins: it was made for other views."""
        if len(self.cell) != features:
            raise IndexError(f"lift plan: made for {len(self.cell)} features, not for {features}")
        if self.cell.numel() != bins:
            raise IndexError(f"lift plan: made for {self.cell.numel()} bins, not for {bins}")
        check_indices("lift plan, cell", self.cell.flatten() + 1, self.cells + 1)

    @property
    def nbytes(self) -> int:
        """Memory of its tensor."""
        return self.cell.nbytes

    @cached_property
    def terms(self) -> LiftTerms:
        """The terms cell by cell, as a processor wants them that adds many cells at a time."""
        return self.terms_on_grid() if self.cell.device.type == "cpu" else self.terms_anywhere()

    def terms_on_grid(self) -> LiftTerms:
        """The terms that lie on the grid."""
        flat = self.cell.flatten()
        bins = (flat >= 0).nonzero()[:, 0]
        return self._sorted(flat[bins], bins, self.cells)

    def terms_anywhere(self) -> LiftTerms:
        """All terms; how many of them are on the grid, the host would have to ask a GPU."""
        flat = self.cell.flatten()
        # Those off the grid must not end up in one bag, which a single thread would add up.
        beyond = torch.arange(self.cells, self.cells + len(self.cell), device=flat.device, dtype=flat.dtype)
        key = torch.where(self.cell < 0, rearrange(beyond, "features -> features 1"), self.cell)
        return self._sorted(key.flatten(), torch.arange(len(flat), device=flat.device), self.cells + len(self.cell))

    def _sorted(self, key: Int32[Tensor, " p"], bins: Int[Tensor, " p"], bags: int) -> LiftTerms:
        # Stable, so that a sum always adds up in the same order. Radix sort of 16 bits takes an eighth of the time.
        short = bags <= torch.iinfo(torch.int16).max
        ordered, order = torch.sort(key.to(torch.int16) if short else key, stable=True)
        term = bins[order]
        return LiftTerms(feature=(term // self.cell.shape[1]).int(), bin=term.int(), starts=_starts(ordered, bags))


Frustum = Literal["middles", "lift_splat"]
"""Where features and bins stand: each feature in the middle of its pixels and each bin in the middle of its depths; or,
as in Lift-Splat and what follows it (BEVDet, BEVDepth, UniDistill), features spread evenly from the first pixel to the
last, and bins at their near ends."""


class LiftGeometry(Spec):
    """All that the plan of a camera detector depends on, besides its cameras."""

    later = frozenset({"keyframes", "frustum"})

    grid: BevGrid
    feature_size: tuple[int, int]
    """h and w of a view's feature map."""
    stride: int
    """Image pixels per feature."""
    depth_range: tuple[float, float]
    """Along the optical axis, metres."""
    depth_bins: int
    """All of one width."""
    keyframes: int = 1
    """The views of each fall into cells of their own, those of the newest first."""
    frustum: Frustum = "middles"

    def depths(self) -> Float[Tensor, " d"]:
        """What each depth bin stands for, metres."""
        low, high = self.depth_range
        within = 0.5 if self.frustum == "middles" else 0.0
        return low + (torch.arange(self.depth_bins) + within) * ((high - low) / self.depth_bins)

    def pixels(self, features: int) -> Float[Tensor, " features"]:
        """Where the features of a row or column of an image sit, in pixels."""
        if self.frustum == "lift_splat":
            return torch.linspace(0, features * self.stride - 1, features)
        return (torch.arange(features) + 0.5) * self.stride

    def cells(
        self, intrinsics: Float[Tensor, "n 3 3"], ego_from_camera: Float[Tensor, "n 4 4"]
    ) -> Int32[Tensor, "n h w d"]:
        """The BEV cell (y x) that each depth bin of each feature falls into.

        Args:
            intrinsics: Pixels of the input image from the camera frame.
            ego_from_camera: BEV frame from camera frame.

        Returns:
            Outside of the grid, above or below included, -1.
        """
        ray, origin = self.rays(intrinsics, ego_from_camera)
        return self.cells_by_loop(ray, origin) if ray.device.type == "cpu" else self.cells_by_torch(ray, origin)

    def rays(
        self, intrinsics: Float[Tensor, "n 3 3"], ego_from_camera: Float[Tensor, "n 4 4"]
    ) -> tuple[Float[Tensor, "n h w 3"], Float[Tensor, "n 3"]]:
        """What a metre along the optical axis adds to the position of each feature, and where each camera hangs."""
        h, w = self.feature_size
        device = intrinsics.device
        row, column = torch.meshgrid(
            *(constant(tuple(self.pixels(n).tolist()), intrinsics) for n in (h, w)), indexing="ij"
        )
        rotation, origin = ego_from_camera[:, :3, :3], ego_from_camera[:, :3, 3]
        # Autocast would round positions to half a cell.
        with torch.autocast(device.type, enabled=False):
            if device.type == "cpu":
                pixel = torch.stack([column, row, torch.ones_like(row)], dim=-1)
                return einsum(rotation @ torch.linalg.inv(intrinsics), pixel, "n i j, h w j -> n h w i"), origin
            # Not as products of matrices, which a GPU may compute in TF32.
            inverse = rearrange(torch.linalg.inv_ex(intrinsics).inverse, "n j i -> n 1 j i")
            turned = rearrange((rearrange(rotation, "n i j -> n i j 1") * inverse).sum(dim=2), "n i j -> n 1 1 i j")
            across, down = (rearrange(each, "h w -> h w 1") for each in (column, row))
            return turned[..., 0] * across + turned[..., 1] * down + turned[..., 2], origin

    def cells_by_torch(self, ray: Float[Tensor, "n h w 3"], origin: Float[Tensor, "n 3"]) -> Int32[Tensor, "n h w d"]:
        """`cells` of these rays, many at a time."""
        depths = constant(tuple(self.depths().tolist()), ray)
        along = rearrange(ray, "n h w i -> n h w 1 i") * rearrange(depths, "d -> d 1")
        position = along + rearrange(origin, "n i -> n 1 1 1 i")
        x, y = self.grid.cells_from_metres(position[..., :2]).floor().int().unbind(dim=-1)
        z, (bottom, top) = position[..., 2], self.grid.z_range
        inside = (x >= 0) & (x < self.grid.columns) & (y >= 0) & (y < self.grid.rows) & (z >= bottom) & (z < top)
        return torch.where(inside, y * self.grid.columns + x, -1)

    def cells_by_loop(self, ray: Float[Tensor, "n h w 3"], origin: Float[Tensor, "n 3"]) -> Int32[Tensor, "n h w d"]:
        """`cells` of these rays, one after the other, with nothing held in between."""
        # Imported where it is needed: numba takes half a second.
        from detectors.loops import find_cells

        grid, (n, h, w, _) = self.grid, ray.shape
        cells = torch.empty(n, h, w, self.depth_bins, dtype=torch.int32)
        find_cells(
            rearrange(ray, "n h w i -> n (h w) i").contiguous().numpy(),
            origin.contiguous().numpy(),
            self.depths().to(ray).numpy(),
            ray.new_tensor([grid.x_range[0], grid.y_range[0]]).numpy(),
            ray.new_tensor(grid.cell).numpy()[()],
            ray.new_tensor(grid.z_range).numpy(),
            rearrange(cells, "n h w d -> n (h w) d").numpy(),
            grid.columns,
            grid.rows,
        )
        return cells

    def plan(self, intrinsics: Float[Tensor, "n 3 3"], ego_from_camera: Float[Tensor, "n 4 4"]) -> LiftPlan:
        """The plan of one sample's cameras: of every keyframe the same number, those of the newest first."""
        cells = self.cells(intrinsics, ego_from_camera)
        if len(cells) % self.keyframes:
            raise ValueError(f"{len(cells)} views are not those of {self.keyframes} keyframes")
        plans = [plan_of_cells(part, self.grid.rows * self.grid.columns) for part in cells.chunk(self.keyframes)]
        return plans[0] if len(plans) == 1 else join_plans(plans)

    def batch_plan(self, intrinsics: Float[Tensor, "b n 3 3"], ego_from_camera: Float[Tensor, "b n 4 4"]) -> LiftPlan:
        """The plan of a batch, all of its views at a time: the same as `plan` of each sample, joined."""
        b, n = intrinsics.shape[:2]
        if n % self.keyframes:
            raise ValueError(f"{n} views are not those of {self.keyframes} keyframes")
        cells = self.cells(intrinsics.flatten(0, 1), ego_from_camera.flatten(0, 1))
        maps, count = b * self.keyframes, self.grid.rows * self.grid.columns
        cells = rearrange(cells, "(maps n) h w d -> maps (n h w) d", maps=maps)
        before = torch.arange(maps, device=cells.device, dtype=cells.dtype) * count
        moved = torch.where(cells < 0, -1, cells + rearrange(before, "maps -> maps 1 1"))
        return LiftPlan(moved.flatten(0, 1), maps * count)


def plan_of_cells(cells: Int32[Tensor, "n h w d"], count: int) -> LiftPlan:
    """The plan that fills so many cells, given the cell of each bin; bins whose cell is -1 are left out."""
    return LiftPlan(rearrange(cells, "n h w d -> (n h w) d"), count)


def _starts(ordered: Int[Tensor, " p"], count: int) -> Int32[Tensor, " count_and_one"]:
    """Where each number from 0 begins in a list in which they ascend, up to and with `count`."""
    numbers = torch.arange(count + 1, device=ordered.device, dtype=ordered.dtype)
    return torch.searchsorted(ordered, numbers, out_int32=True)


def join_plans(plans: Sequence[LiftPlan]) -> LiftPlan:
    """The plan of a batch, or of the keyframes of a sample, whose cells follow each other."""
    before = [0, *accumulate(plan.cells for plan in plans)]
    moved = [torch.where(plan.cell < 0, -1, plan.cell + b) for plan, b in zip(plans, before, strict=False)]
    return LiftPlan(torch.cat(moved), before[-1])
