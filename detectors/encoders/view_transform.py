"""View transform: image features lifted along their rays by a depth distribution and splatted into BEV (LSS)."""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int32
from torch import Tensor

from detectors.checks import checking
from detectors.geometry.grid import BevGrid
from detectors.geometry.lift import LiftPlan


def splat(
    features: Float[Tensor, "b n c h w"],
    depth: Float[Tensor, "b n d h w"],
    plan: LiftPlan,
    grid: BevGrid,
) -> Float[Tensor, "maps c y x"]:
    """Sum over the features that fall into a cell, each weighed by the probability of the depth that leads there.

    A weighted sum of rows per cell: the features of the frustum, d times those of the images, are never built.

    Args:
        features: Per view.
        depth: Probability of each bin.
        plan: Of the whole batch.
        grid: Of the result.

    Returns:
        As many maps as the plan has grids of cells: one a sample, or of each sample one a keyframe.
    """
    # Sums of hundreds of terms: in float32 at least, also under autocast.
    dtype = torch.promote_types(features.dtype, torch.float32)
    rows = rearrange(features, "b n c h w -> (b n h w) c").to(dtype)
    weights = rearrange(depth, "b n d h w -> (b n h w) d").to(dtype)
    if checking():
        plan.check(len(rows), weights.numel())
    # One core adds fastest feature by feature, as the plan has them. Many need the terms of each cell together.
    way = _LoopedSums if rows.device.type == "cpu" else _GatheredSums
    bev = way.apply(rows, weights, plan)
    return rearrange(bev, "(maps y x) c -> maps c y x", y=grid.rows, x=grid.columns)


def splat_frustum(frustum: Float[Tensor, "b n c d h w"], plan: LiftPlan, grid: BevGrid) -> Float[Tensor, "maps c y x"]:
    """Sum over the features of a frustum that fall into a cell, of a frustum that is more than a product (`splat`).

    Args:
        frustum: A feature of each bin of each view's features.
        plan: As there.
        grid: As there.
    """
    rows = rearrange(frustum, "b n c d h w -> (b n h w d) c")
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    terms = plan.terms
    if checking():
        plan.check(len(plan.cell), len(rows))
    bev = F.embedding_bag(terms.bin, rows, terms.starts, mode="sum", include_last_offset=True)[: plan.cells]
    return rearrange(bev, "(maps y x) c -> maps c y x", y=grid.rows, x=grid.columns)


class _LoopedSums(torch.autograd.Function):
    """Sum of weighted rows per cell, and its gradients, by compiled loops that gather nothing."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, plan: LiftPlan) -> Tensor:
        # Imported where it is needed: numba takes half a second.
        from detectors.loops import add_weighted

        rows, weights = rows.detach().contiguous(), weights.detach().contiguous()
        ctx.save_for_backward(rows, weights)
        ctx.plan = plan
        total = rows.new_zeros(plan.cells, rows.shape[1])
        add_weighted(rows.numpy(), weights.numpy(), plan.cell.numpy(), total.numpy())
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from detectors.loops import weighted_gradients

        rows, weights = ctx.saved_tensors
        grad, of_rows, of_weights = grads[0].contiguous(), torch.zeros_like(rows), torch.zeros_like(weights)
        given = (grad, rows, weights, ctx.plan.cell, of_rows, of_weights)
        weighted_gradients(*(tensor.numpy() for tensor in given))
        return of_rows, of_weights, None


class _GatheredSums(torch.autograd.Function):
    """The same from the plan's terms, cell by cell.

    The gradient of a feature is a weighted sum of its cells' gradients, so that it follows the plan feature by feature;
    the library's own takes three times as long, scatters and, on a GPU, adds in any order.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, plan: LiftPlan) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.plan = plan
        terms = plan.terms
        return _sums(terms.feature, rows, terms.starts, weights.flatten().index_select(0, terms.bin))[: plan.cells]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (rows, weights), cell = ctx.saved_tensors, ctx.plan.cell
        grad, on_grid = grads[0].contiguous(), cell >= 0
        # Bins off the grid read the first cell, and count for nothing.
        cell, weights = cell.clamp(min=0), weights * on_grid
        starts = torch.arange(0, cell.numel() + 1, cell.shape[1], device=cell.device, dtype=cell.dtype)
        grad_rows = _sums(cell.flatten(), grad, starts, weights.flatten())
        grad_weights = _dots(cell.flatten(), grad, starts, rows).reshape(cell.shape) * on_grid
        return grad_rows, grad_weights, None


def _sums(
    index: Int32[Tensor, " p"], rows: Float[Tensor, "r c"], starts: Int32[Tensor, " s"], weights: Float[Tensor, " p"]
) -> Float[Tensor, "cells c"]:
    return F.embedding_bag(index, rows, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _dots(
    index: Int32[Tensor, " p"], rows: Float[Tensor, "r c"], starts: Int32[Tensor, " s"], others: Float[Tensor, "bags c"]
) -> Float[Tensor, " p"]:
    """One dot product a term, of the row that it names and the row of its bag; neither is gathered for it.

    This is the gradient of `_sums` by its weights. torch (seen in 2.13) has it under a private name only; its public
    functions also compute the gradient by the rows, which is wanted in another order here.
    """
    bag = torch.repeat_interleave(starts.diff(), output_size=len(index)).int()
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(others, rows, index, starts[:-1], bag, 0)
