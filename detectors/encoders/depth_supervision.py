"""Depth supervision: LiDAR returns in the images teach a camera its depths, as a loss of the detector's own."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detectors.batch import CameraViews, Points
from detectors.geometry.lift import LiftGeometry

NOW = 0.01
"""Seconds: returns that are not older are of the keyframe's own sweep; what moved since has not moved yet."""


def depth_loss(
    depth: Float[Tensor, "b n d h w"], views: CameraViews, lidar: Points, geometry: LiftGeometry
) -> Float[Tensor, ""]:
    """BEVDepth's loss: binary cross entropy of each bin, summed, divided by the number of features of known depth.

    Features of the newest keyframe alone, in which a return falls; 0 without any. The paper's weight of 3 is not in it
    (base_exp.py of the BEVDepth repository; Li et al., AAAI 2023, section 4.1).

    Args:
        depth: Probability of each bin.
        views: Of a batch.
        lidar: Returns; those of older sweeps do not count.
        geometry: Of the camera.
    """
    bins = batch_depth_targets(views, lidar, geometry)
    known = bins >= 0
    predicted = rearrange(depth[:, : bins.shape[1]], "b n d h w -> b n h w d")
    count = known.sum().clamp(min=1)
    if known.device.type == "cpu":
        # The fewer the quicker; of a GPU the host would have to ask how many these are.
        predicted, bins, known = predicted[known], bins[known], known[known]
    with torch.autocast(depth.device.type, enabled=False):
        predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
        wanted = F.one_hot(bins.clamp(min=0), geometry.depth_bins).to(predicted)
        costs = known[..., None].to(predicted)
        return F.binary_cross_entropy(predicted, wanted, costs, reduction="sum") / count


def batch_depth_targets(views: CameraViews, lidar: Points, geometry: LiftGeometry) -> Int[Tensor, "b n h w"]:
    """`depth_targets` of each sample of a batch, in the views of its newest keyframe."""
    samples, every = views.images.shape[:2]
    newest = slice(0, every // geometry.keyframes)
    return torch.stack(
        [
            depth_targets(points[:, :3], views[number, newest], geometry, points[:, 4] <= NOW)
            for number, points in enumerate(lidar.of_samples(samples))
        ]
    )


def depth_targets(
    points: Float[Tensor, "p 3"], views: CameraViews, geometry: LiftGeometry, counts: Bool[Tensor, " p"] | None = None
) -> Int[Tensor, "n h w"]:
    """The bin of the nearest point that falls into each feature; -1 without one, or if it is in no bin.

    Args:
        points: In the BEV frame, metres.
        views: Of one sample.
        geometry: Features and bins.
        counts: Which points there are; all if not given.
    """
    low, high = geometry.depth_range
    nearest = nearest_depth(points, views, geometry, (0.0, torch.inf), counts)
    bins = ((nearest - low) / ((high - low) / geometry.depth_bins)).floor()
    return torch.where((bins >= 0) & (bins < geometry.depth_bins), bins, -1).long()


def nearest_depth(
    points: Float[Tensor, "p 3"],
    views: CameraViews,
    geometry: LiftGeometry,
    between: tuple[float, float],
    counts: Bool[Tensor, " p"] | None = None,
) -> Float[Tensor, "n h w"]:
    """Depth of the nearest point that falls into each feature, metres; infinite without one.

    Args:
        points: In the BEV frame, metres.
        views: Of one sample.
        geometry: Features.
        between: Points nearer than the first depth or not nearer than the second do not count; nor do those at 0.
        counts: Which points there are; all if not given.
    """
    (h, w), (low, high) = geometry.feature_size, between
    if counts is not None and points.device.type == "cpu":
        # The fewer the quicker; of a GPU the host would have to ask how many these are.
        points, counts = points[counts], None
    with torch.autocast(points.device.type, enabled=False):
        rotation, origin = torch.linalg.inv_ex(views.ego_from_camera).inverse[:, :3].split([3, 1], dim=2)
        inside = einsum(rotation, points.to(rotation), "n i j, p j -> n p i") + rearrange(origin, "n i 1 -> n 1 i")
        pixel = einsum(views.intrinsics, inside, "n i j, n p j -> n p i")
    z = inside[..., 2]
    ahead = z.clamp(min=low or torch.finfo(z.dtype).tiny)
    column, row = (pixel[..., :2] / ahead[..., None] / geometry.stride).floor().unbind(dim=-1)
    seen = (z >= low) & (z > 0) & (z < high) & (row >= 0) & (row < h) & (column >= 0) & (column < w)
    seen = seen if counts is None else seen & counts
    cell = torch.where(seen, row * w + column, h * w).long()
    nearest = z.new_full((len(z), h * w + 1), torch.inf).scatter_reduce(1, cell, z, "amin")[:, :-1]
    return rearrange(nearest, "n (h w) -> n h w", h=h)
