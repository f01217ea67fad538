"""View transform: image features lifted along their rays by a depth distribution and splatted into BEV (LSS)."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from detectors.geometry.grid import BevGrid


def frustum_cells(
    intrinsics: Float[Tensor, "b n 3 3"],
    ego_from_camera: Float[Tensor, "b n 4 4"],
    depths: Float[Tensor, " d"],
    feature_size: tuple[int, int],
    stride: int,
    grid: BevGrid,
) -> Int[Tensor, "b n d h w"]:
    """The BEV cell, counted over the whole batch (b y x), that each depth bin of each feature falls into.

    Args:
        intrinsics: Pixels of the input image from the camera frame.
        ego_from_camera: BEV frame from camera frame.
        depths: Middle of each bin along the optical axis, metres.
        feature_size: h and w of the feature map.
        stride: Image pixels per feature; a feature sits in the middle of its pixels.
        grid: Points outside of it, above or below included, get b * y * x: one past the last cell.
    """
    h, w = feature_size
    rows = (torch.arange(h, device=depths.device) + 0.5) * stride
    columns = (torch.arange(w, device=depths.device) + 0.5) * stride
    row, column = torch.meshgrid(rows.to(depths), columns.to(depths), indexing="ij")
    pixel = torch.stack([column, row, torch.ones_like(row)], dim=-1)

    rotation, origin = ego_from_camera[..., :3, :3], ego_from_camera[..., :3, 3]
    # Autocast would round positions to half a cell.
    with torch.autocast(depths.device.type, enabled=False):
        ray = einsum(rotation @ torch.linalg.inv(intrinsics), pixel, "b n i j, h w j -> b n h w i")
        along = einsum(ray, depths, "b n h w i, d -> b n d h w i")
    position = along + rearrange(origin, "b n i -> b n 1 1 1 i")

    cell = grid.cells_from_metres(position[..., :2])
    x, y = cell.floor().long().unbind(dim=-1)
    z = position[..., 2]
    inside = (x >= 0) & (x < grid.columns) & (y >= 0) & (y < grid.rows)
    inside &= (z >= grid.z_range[0]) & (z < grid.z_range[1])
    samples = len(intrinsics)
    sample = rearrange(torch.arange(samples, device=x.device), "b -> b 1 1 1 1")
    index = (sample * grid.rows + y) * grid.columns + x
    return torch.where(inside, index, samples * grid.rows * grid.columns)


def splat(
    features: Float[Tensor, "b n c h w"],
    depth: Float[Tensor, "b n d h w"],
    cells: Int[Tensor, "b n d h w"],
    grid: BevGrid,
) -> Float[Tensor, "b c y x"]:
    """Sum over the features that fall into a cell, each weighed by the probability of the depth that leads there.

    A weighted sum of gathered rows per cell: the features of the frustum, d times those of the images, are never built.

    Args:
        features: Per view.
        depth: Probability of each bin.
        cells: From `frustum_cells`.
        grid: Of the result.
    """
    b, _, d, _, _ = depth.shape
    bags = b * grid.rows * grid.columns
    # The sort is stable, so that the order of the sums, and with it their last bit, is fixed.
    cell, order = torch.sort(rearrange(cells, "b n d h w -> (b n h w d)"), stable=True)
    starts = torch.searchsorted(cell, torch.arange(bags + 1, device=cell.device))
    order = order[: starts[-1]]
    # Sums of hundreds of terms: in float32 also under autocast.
    rows = rearrange(features, "b n c h w -> (b n h w) c").float()
    weights = rearrange(depth, "b n d h w -> (b n h w d)").float().index_select(0, order)
    bev = F.embedding_bag(order // d, rows, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)
    return rearrange(bev, "(b y x) c -> b c y x", y=grid.rows, x=grid.columns)


def bin_centres(depth_range: tuple[float, float], bins: int) -> Float[Tensor, " d"]:
    """The middle of each of equally wide depth bins, metres."""
    low, high = depth_range
    return low + (torch.arange(bins) + 0.5) * ((high - low) / bins)
