"""UniDistill's targets: the cells nearest to the centre of each box are positive, and nothing is drawn around them."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detectors.asynchronous import constant

COUNT = 9
"""Positive cells of a box (target_assigner_topk of UniDistill's configuration)."""
_REACH = 4
"""Along an axis no lower corner of a cell that is among the nine nearest is further off, not even at a grid's edge."""


def nearest_cells(
    center: Float[Tensor, "b k 2"], task: Int[Tensor, "b k"], is_target: Bool[Tensor, "b k"], cells: tuple[int, int]
) -> tuple[Int[Tensor, "b p"], Int[Tensor, "b p"], Int[Tensor, "b p"], Bool[Tensor, "b p"]]:
    """The positive cells, COUNT for each box: whose they are, their row, their column, and whether they count.

    As in UniDistill's FCOSAssigner, distances are those to a cell's lower corner, from which the box code also counts
    its offsets; a cell belongs to the nearest box of its task, and counts once even if several boxes chose it.

    Args:
        center: Continuous column and row.
        task: Index into TASK_GROUPS.
        is_target: Boxes that are none have no cells.
        cells: Rows and columns of the grid.
    """
    rows, columns = cells
    step = torch.arange(-_REACH, _REACH + 1, device=center.device)
    around = torch.stack(torch.meshgrid(step, step, indexing="xy"), dim=-1).flatten(0, 1)
    candidates = rearrange(center.floor().long(), "b k xy -> b k 1 xy") + around
    inside = ((candidates >= 0) & (candidates < constant((columns, rows), candidates))).all(dim=-1)
    distance = (candidates - rearrange(center, "b k xy -> b k 1 xy")).pow(2).sum(dim=-1)
    # Stable, so that of equally near cells the first rows and columns count.
    distance, order = distance.where(inside, torch.inf).sort(dim=-1, stable=True)
    chosen = candidates.gather(2, order[..., :COUNT, None].expand(-1, -1, -1, 2))
    counts = (distance[..., :COUNT] < torch.inf) & is_target[..., None]

    chosen, counts = rearrange(chosen, "b k n xy -> b (k n) xy"), rearrange(counts, "b k n -> b (k n)")
    task = task.repeat_interleave(COUNT, dim=1)
    same = (rearrange(task, "b p -> b p 1") == rearrange(task[:, ::COUNT], "b k -> b 1 k")) & is_target[:, None]
    apart = (rearrange(chosen, "b p xy -> b p 1 xy") - rearrange(center, "b k xy -> b 1 k xy")).pow(2).sum(dim=-1)
    owner = apart.where(same, torch.inf).argmin(dim=-1)

    column, row = (chosen * counts[..., None]).unbind(dim=-1)
    return owner, row, column, counts & _is_first((task * rows + row) * columns + column, counts)


def _is_first(key: Int[Tensor, "b p"], counts: Bool[Tensor, "b p"]) -> Bool[Tensor, "b p"]:
    """Whether no earlier one that counts has the same key."""
    key, order = key.where(counts, -1).sort(dim=1, stable=True)
    first = torch.cat([torch.ones_like(key[:, :1], dtype=torch.bool), key[:, 1:] != key[:, :-1]], dim=1)
    return torch.zeros_like(first).scatter(1, order, first)
