"""The splat of the view transform against LSS's sort and cumulative sum, at the papers' sizes."""

import torch

from detectors.encoders.view_transform import splat
from detectors.geometry.grid import BevGrid
from detectors.geometry.lift import join_plans, plan_of_cells
from tests.gpu.common import Rows, difference, milliseconds

SIZES = {
    "256x704, stride 16, 59 bins, 64 channels": (59, 16, 44, 64, 128),
    "256x704, stride 16, 118 bins, 80 channels": (118, 16, 44, 80, 128),
    "512x1408, stride 16, 118 bins, 80 channels": (118, 32, 88, 80, 128),
}
"""Depth bins, rows, columns, channels of a view's features, and cells along the side of the map."""


def main() -> None:
    """One row a size and batch."""
    rows, rng = Rows(), torch.Generator().manual_seed(0)
    for name, (bins, height, width, channels, cells) in SIZES.items():
        for batch in (1, 8):
            grid = BevGrid(x_range=(-51.2, 51.2), y_range=(-51.2, 51.2), z_range=(-5, 3), cell=102.4 / cells)
            features = torch.randn(batch, 6, channels, height, width, generator=rng).cuda().requires_grad_()
            depth = torch.randn(batch, 6, bins, height, width, generator=rng).softmax(2).cuda().requires_grad_()
            landed = torch.randint(int(1.1 * cells**2), (batch, 6, height, width, bins), generator=rng).int()
            landed = torch.where(landed < cells**2, landed, -1).cuda()
            plan = join_plans([plan_of_cells(one, cells**2) for one in landed]).to("cuda")

            def ours(features=features, depth=depth, plan=plan, grid=grid) -> torch.Tensor:
                return splat(features, depth, plan, grid)

            offset = torch.arange(batch, device="cuda").reshape(-1, 1, 1, 1, 1) * cells**2
            flat = torch.where(landed >= 0, landed + offset, batch * cells**2)

            def theirs(features=features, depth=depth, flat=flat, cells=cells, batch=batch) -> torch.Tensor:
                pooled = _cumsum(features, depth, flat, batch * cells**2)
                return pooled.reshape(batch, cells, cells, -1).permute(0, 3, 1, 2)

            # A difference of cumulative sums over millions of rows leaves few digits: it is what LSS computes.
            apart = difference(ours(), theirs())
            row = {"size": name, "batch": batch, "ok": apart < 1e-2, "apart": apart}
            for label, way in (("ours", ours), ("sort and cumsum", theirs)):
                with torch.no_grad():
                    row[f"{label}, forward, ms"] = milliseconds(way)
                row[f"{label}, forward + backward, ms"] = milliseconds(lambda way=way: way().square().sum().backward())
            rows.add(**row)


def _cumsum(features: torch.Tensor, depth: torch.Tensor, flat: torch.Tensor, count: int) -> torch.Tensor:
    """Pooling as LSS published it, in float32: outer product, sort, cumulative sum, difference at the ends of cells."""
    frustum = torch.einsum("bnchw,bndhw->bnhwdc", features, depth).reshape(-1, features.shape[2])
    kept = flat.flatten() < count
    frustum, cell = frustum[kept], flat.flatten()[kept]
    order = cell.argsort()
    total, cell = frustum[order].cumsum(0), cell[order]
    last = torch.ones_like(cell, dtype=torch.bool)
    last[:-1] = cell[1:] != cell[:-1]
    ends = total[last]
    sums = torch.cat([ends[:1], ends[1:] - ends[:-1]])
    return torch.zeros(count, features.shape[2], device=features.device).index_copy(0, cell[last], sums)


if __name__ == "__main__":
    main()
