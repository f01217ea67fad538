"""Instance segmentation in the perspective view: object centres, and a small network per object for its mask."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from detectors.asynchronous import places, unravelled
from detectors.batch import Instances
from detectors.conv_block import conv_norm_relu
from detectors.geometry.boxes import CLASSES
from detectors.heads.center_loss import draw_centers, focal_loss, gaussian_radius
from detectors.heads.decoding import peaks, suppress
from detectors.spec import Spec

UPSAMPLE = 2
"""How much finer the head's maps are than the features, for small objects."""

MASKS_AT_ONCE = 16
"""Masks that are there in an image's full resolution at the same time: each takes five bytes a pixel."""


class InstanceMaskSpec(Spec):
    """A head without proposals, as CondInst (Tian et al., 2020, eq. 2-5): three 1x1 layers drawn anew for each object.

    Objects are found at their masks' centroids, as peaks of class heatmaps (CenterNet), not by anchor-free boxes.
    """

    width: PositiveInt
    mask_channels: PositiveInt = 8
    """Channels of the mask features of an image, and of the layers that predict the masks from them."""
    mask_weight: float = Field(default=2.0, ge=0)
    """Weight of the mask loss relative to the loss of the centres."""
    prior: float = Field(default=0.02, gt=0, lt=1)
    """Probability of every class in every cell before training."""
    min_overlap: float = Field(default=0.3, gt=0, lt=1)
    """Intersection over union that a mask's bounding box keeps when it is as far off as its centre's Gaussian."""
    min_cells: float = Field(default=1.0, gt=0)
    """Instances that cover fewer cells of the head's maps are not looked for."""

    def build(self, in_channels: int) -> "InstanceMaskHead":
        """The head with fresh weights."""
        return InstanceMaskHead(self, in_channels)


class InstanceDecodeSpec(Spec):
    """Which of the peaks of a head's maps are instances."""

    score_threshold: float = Field(default=0.05, ge=0, lt=1)
    max_instances: int = Field(default=50, ge=1, le=255)
    """Most instances of an image."""
    nms_overlap: float = Field(default=0.5, gt=0, lt=1)
    """Largest overlap of two masks of a class. Of two masks above it, the better one stays."""


@dataclass(frozen=True)
class InstanceMaps:
    """What the head says of every cell; views of all samples one after the other."""

    heatmap: Float[Tensor, "v classes h w"]
    """Logits of centres."""
    kernel: Float[Tensor, "v weights h w"]
    """Weights of the layers that draw the mask of an object whose centre is here."""
    feature: Float[Tensor, "v c h w"]
    """What masks are drawn from."""

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        _, _, rows, columns = self.heatmap.shape
        return rows, columns


@dataclass(frozen=True)
class InstanceTargets:
    """What the head should say; of k instances in all views together."""

    heatmap: Float[Tensor, "v classes h w"]
    mask: Float[Tensor, "k h w"]
    """Share of each cell that an instance covers."""
    view: Int[Tensor, " k"]
    row: Int[Tensor, " k"]
    column: Int[Tensor, " k"]
    """Cell of the mask's centroid."""
    confidence: Float[Tensor, " k"]
    counts: Bool[Tensor, " k"]
    """On a CPU all of them; a GPU also lists instances that nobody is to look for."""


@dataclass(frozen=True)
class InstanceLoss:
    """The two unweighted losses of a head."""

    heatmap: Float[Tensor, ""]
    masks: Float[Tensor, ""]


@dataclass(frozen=True)
class FoundInstances:
    """The instances found in one image, best first."""

    mask: Bool[Tensor, "k h w"]
    """In pixels of the network's input."""
    label: Int[Tensor, " k"]
    """Index into CLASSES."""
    score: Float[Tensor, " k"]


class InstanceMaskHead(nn.Module):
    """Features of a view, at any stride, to maps of twice their size."""

    def __init__(self, spec: InstanceMaskSpec, in_channels: int) -> None:
        super().__init__()
        self.spec = spec
        c = spec.mask_channels
        # Inputs: the features and the place relative to the centre, along w and h.
        self.layers = ((c + 2, c), (c, c), (c, 1))
        self.coarse = conv_norm_relu(in_channels, spec.width)
        self.fine = conv_norm_relu(spec.width, spec.width)
        self.heatmap = nn.Conv2d(spec.width, len(CLASSES), 1)
        self.kernel = nn.Conv2d(spec.width, sum((inputs + 1) * outputs for inputs, outputs in self.layers), 1)
        self.feature = nn.Conv2d(spec.width, c, 1)
        nn.init.constant_(self.heatmap.bias, math.log(spec.prior / (1 - spec.prior)))  # type: ignore[arg-type]

    def forward(self, features: Float[Tensor, "v c_image h w"]) -> InstanceMaps:
        """All maps."""
        larger = F.interpolate(self.coarse(features), scale_factor=UPSAMPLE, mode="bilinear", align_corners=False)
        shared = self.fine(larger)
        return InstanceMaps(self.heatmap(shared), self.kernel(shared), self.feature(shared))

    def loss(self, maps: InstanceMaps, targets: InstanceTargets) -> InstanceLoss:
        """Focal loss of the centres; Dice loss of the masks, each weighed by its confidence, in the mean."""
        dtype = torch.promote_types(maps.heatmap.dtype, torch.float32)
        heatmap = focal_loss(maps.heatmap.to(dtype), targets.heatmap.to(dtype))
        drawn = self.draw(maps, targets.view, targets.row, targets.column).to(dtype).sigmoid()
        errors = targets.confidence * dice_loss(drawn, targets.mask.to(dtype))
        masks = errors.masked_fill(~targets.counts, 0).sum() / targets.counts.sum().clamp(min=1)
        return InstanceLoss(heatmap=heatmap, masks=masks)

    def draw(
        self, maps: InstanceMaps, view: Int[Tensor, " k"], row: Int[Tensor, " k"], column: Int[Tensor, " k"]
    ) -> Float[Tensor, "k h w"]:
        """Mask logits of the objects whose centres are in these cells."""
        _, _, rows, columns = maps.heatmap.shape
        weights = rearrange(maps.kernel, "v weights h w -> (v h w) weights")
        weights = weights.index_select(0, (view * rows + row) * columns + column)
        feature = rearrange(maps.feature, "v c h w -> v c (h w)").index_select(0, view)
        down, across = (torch.arange(size, device=view.device) for size in (rows, columns))
        # In units of a larger object's size, so that weights of one order serve places and features alike.
        relative = torch.stack(
            [
                repeat(across - rearrange(column, "k -> k 1"), "k w -> k h w", h=rows),
                repeat(down - rearrange(row, "k -> k 1"), "k h -> k h w", w=columns),
            ],
            dim=1,
        ) / (rows / 2)
        drawn = torch.cat([rearrange(relative, "k xy h w -> k xy (h w)").to(feature.dtype), feature], dim=1)
        used = 0
        for inputs, outputs in self.layers:
            matrix, bias = weights[:, used : used + (inputs + 1) * outputs].split([inputs * outputs, outputs], dim=1)
            matrix = rearrange(matrix, "k (outputs inputs) -> k outputs inputs", outputs=outputs)
            drawn = torch.baddbmm(rearrange(bias, "k outputs -> k outputs 1"), matrix, F.relu(drawn) if used else drawn)
            used += (inputs + 1) * outputs
        return rearrange(drawn, "k 1 (h w) -> k h w", w=columns)

    @torch.no_grad()
    def decode(self, maps: InstanceMaps, size: tuple[int, int], spec: InstanceDecodeSpec) -> list[FoundInstances]:
        """The instances of each view, as masks of a size: peaks whose masks are no duplicates of better ones.

        The score is the centre's probability times the mean one of the mask's own cells (SOLOv2's maskness).
        """
        instances = []
        for view, peaks_here in enumerate(zip(*peaks(maps.heatmap, spec.max_instances), strict=True)):
            is_sure = peaks_here[0] > spec.score_threshold
            score, label, row, column = (each[is_sure] for each in peaks_here)
            logits = self.draw(maps, torch.full_like(row, view), row, column).float()
            inside = logits > 0
            maskness = (logits.sigmoid() * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
            order = (score * maskness).argsort(descending=True, stable=True)
            label, rated, logits = label[order], (score * maskness)[order], logits[order]
            overlap = mask_iou(logits > 0, logits > 0)
            keep = suppress((overlap > spec.nms_overlap)[None], label[None], (rated > spec.score_threshold)[None])[0]
            instances.append(FoundInstances(_resized(logits[keep], size) > 0, label[keep], rated[keep]))
        return instances


def instance_targets(
    instances: Instances,
    cells: tuple[int, int],
    spec: InstanceMaskSpec,
    is_sure: Bool[Tensor, "v m"] | None = None,
) -> InstanceTargets:
    """Targets of images on maps of so many rows and columns, a whole part of the images' pixels.

    Args:
        instances: Of v images.
        cells: Rows and columns of the head's maps.
        spec: Of the head.
        is_sure: Which instances are looked for; all if not given.

    Raises:
        ValueError: The maps' cells do not divide the images' pixels.
    """
    rows, columns = cells
    pixels = instances.owner.shape[-2:]
    if pixels[0] % rows or pixels[1] % columns:
        raise ValueError(f"maps of {cells} cells do not divide {tuple(pixels)} pixels")
    labelled = instances.label >= 0
    count = int(labelled.sum()) if instances.count is None else instances.count
    view, number = unravelled(places(labelled.flatten(), count), labelled.shape)
    some = zip(view.split(MASKS_AT_ONCE), number.split(MASKS_AT_ONCE), strict=True)
    share = torch.cat([_covered(instances.owner, *each, cells) for each in some])
    counts = share.sum((1, 2)) >= spec.min_cells
    if is_sure is not None:
        counts = counts & is_sure[view, number]
    if counts.device.type == "cpu":
        # Of a GPU the host would have to ask how many these are.
        view, number, share, counts = (each[counts] for each in (view, number, share, counts))

    # Only of what does not count it is 0.
    area = share.sum((1, 2)).clamp(min=torch.finfo(share.dtype).tiny)
    down, across = (torch.arange(size, device=area.device, dtype=share.dtype) for size in cells)
    # Sums, not matrix products: under autocast those would round a place to bfloat16's eight bits.
    row = ((reduce(share, "k h w -> k h", "sum") * down).sum(1) / area).round().long()
    column = ((reduce(share, "k h w -> k w", "sum") * across).sum(1) / area).round().long()
    # Cells of which half is covered, or more; of the thinnest objects, one.
    covered = share >= 0.5
    extent = torch.stack([covered.any(2).sum(1), covered.any(1).sum(1)], dim=-1).clamp(min=1)
    radius = gaussian_radius(extent.to(share.dtype), spec.min_overlap).floor().clamp(min=1)
    # Scattered into padded rows a view, as `draw_centers` wants them.
    shape = instances.label.shape

    def padded(each: Tensor) -> Tensor:
        return each.new_zeros(shape).index_put((view, number), each)

    heatmap = draw_centers(
        padded(row), padded(column), padded(radius), instances.label.clamp(min=0), padded(counts), cells
    )
    return InstanceTargets(heatmap, share, view, row, column, instances.score[view, number], counts)


def _covered(
    owner: UInt8[Tensor, "v h_in w_in"], view: Int[Tensor, " k"], number: Int[Tensor, " k"], cells: tuple[int, int]
) -> Float[Tensor, "k h w"]:
    """The share of each cell that the instances of these views and numbers cover."""
    mask = owner.index_select(0, view) == rearrange(number + 1, "k -> k 1 1")
    return reduce(mask.float(), "k (h dh) (w dw) -> k h w", "mean", h=cells[0], w=cells[1])


def instance_counts(targets: InstanceTargets) -> Float[Tensor, "2"]:
    """What the two losses of a head divide by: centres, and masks."""
    centers = (targets.heatmap == 1).sum()
    return torch.stack([centers, targets.counts.sum()]).float()


def dice_loss(drawn: Float[Tensor, "k h w"], target: Float[Tensor, "k h w"]) -> Float[Tensor, " k"]:
    """One minus the Dice coefficient of each mask (V-Net's, with squares below); 0 where they agree."""
    shared = 2 * (drawn * target).sum((1, 2))
    return 1 - (shared + 1) / ((drawn**2).sum((1, 2)) + (target**2).sum((1, 2)) + 1)


def mask_iou(first: Bool[Tensor, "k h w"], second: Bool[Tensor, "m h w"]) -> Float[Tensor, "k m"]:
    """Intersection over union of every two masks; 0 of two empty ones."""
    a, b = (rearrange(masks, "k h w -> k (h w)").float() for masks in (first, second))
    shared = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1)[None, :] - shared
    return shared / union.clamp(min=1)


def _resized(logits: Float[Tensor, "k h_in w_in"], size: tuple[int, int]) -> Float[Tensor, "k h w"]:
    return F.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
