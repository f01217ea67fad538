"""Control teachers: one that draws the annotations, and one whose maps are mirrored, the wrong answer on purpose."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool
from torch import Tensor

from detectors.asynchronous import constant
from detectors.batch import Batch
from detectors.detector import DetectorSpec
from detectors.geometry.boxes import Boxes
from detectors.geometry.grid import BevGrid
from detectors.heads.center import TASK_GROUPS, TASK_OF_CLASS, CenterHeadSpec, encode_boxes
from detectors.heads.center_loss import center_bumps, center_targets
from detectors.outputs import DetectorOutput, HeadOutput
from distill.objective import FrozenTeacher

SURE = 1e-3
"""What the oracle's scores stay away from 0 and 1: logits are finite."""
DRAWN_CELLS = 2
"""The least number of cells from a centre in which its box is drawn: the nine nearest cells are among them."""


class Oracle:
    """A teacher that knows the annotations and has nothing else: neither weights nor BEV features.

    Its head says what a perfect one would: class heatmaps as the student's own targets are drawn, and at every cell of
    an object's Gaussian the box that is there.

    Args:
        spec: The student's, whose grid and head it has.
    """

    def __init__(self, spec: DetectorSpec) -> None:
        self.spec = spec

    @torch.no_grad()
    def observe(self, batch: Batch) -> DetectorOutput:
        """The head's maps of a batch; NaN for its features, which no loss may read."""
        grid = self.spec.grid
        head = oracle_head(batch.boxes, batch.is_box, self.spec.head, grid)
        nothing = head.heatmap.new_full((), torch.nan)
        low, high = (
            nothing.expand(len(batch), channels, grid.rows, grid.columns)
            for channels in (self.spec.low_channels, self.spec.high_channels)
        )
        return DetectorOutput(None, None, None, None, None, low, high, head)

    def move(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> None:
        """Nothing has to be moved: its maps are made where the batch is."""

    def check_unchanged(self) -> None:
        """Nothing can have changed."""


def oracle_head(boxes: Boxes, is_box: Bool[Tensor, "b k"], spec: CenterHeadSpec, grid: BevGrid) -> HeadOutput:
    """What a head would say that is never wrong.

    Args:
        boxes: Annotations.
        is_box: False where they are padding.
        spec: The head, whose targets the heatmaps are.
        grid: Ground that the maps cover.
    """
    heatmap = center_targets(boxes, is_box, spec, grid).heatmap
    # One more box that covers nothing, for samples without any.
    wide = spec.model_copy(update={"min_radius_cells": max(DRAWN_CELLS, spec.min_radius_cells)})
    bumps = F.pad(center_bumps(boxes, is_box, wide, grid), (0, 0, 0, 0, 0, 1))
    place = F.pad(grid.cells_from_metres(boxes.center[..., :2]), (0, 0, 0, 1))
    code = F.pad(encode_boxes(boxes, grid).nan_to_num(0.0), (0, 0, 0, 1))
    task = F.pad(constant(TASK_OF_CLASS, boxes.label)[boxes.label], (0, 1), value=-1)
    down, across = (torch.arange(n, device=bumps.device, dtype=bumps.dtype) for n in (grid.rows, grid.columns))
    corner = torch.stack([repeat(across, "x -> y x", y=grid.rows), repeat(down, "y -> y x", x=grid.columns)])
    maps = []
    for number in range(len(TASK_GROUPS)):
        height, which = (bumps * (task == number)[..., None, None]).max(dim=1)
        index = rearrange(which, "b y x -> b (y x) 1")
        at, what = (each.gather(1, index.expand(-1, -1, each.shape[2])) for each in (place, code))
        at, what = (rearrange(each, "b (y x) c -> b c y x", y=grid.rows) for each in (at, what))
        # Where the centre lies is told from the cell itself, which need not be the one that holds it.
        drawn = torch.cat([at - corner, what[:, 2:]], dim=1)
        maps.append(drawn * (height > 0)[:, None])
    return HeadOutput(heatmap.clamp(SURE, 1 - SURE).logit(), torch.stack(maps, dim=1))


class Mirrored(FrozenTeacher):
    """A trained detector whose BEV maps and predictions are mirrored left to right: the right kind of numbers, and as
    many of them, in the wrong places."""

    @torch.no_grad()
    def observe(self, batch: Batch) -> DetectorOutput:
        """Its maps with the rows in reverse, which is the other side of the car."""
        seen = super().observe(batch)
        head = HeadOutput(
            seen.head.heatmap.flip(-2),
            seen.head.boxes.flip(-2),
            None if seen.head.iou is None else seen.head.iou.flip(-2),
        )
        sensors = (seen.camera_bev, seen.lidar_bev, seen.radar_bev)
        camera, lidar, radar = (None if maps is None else maps.flip(-2) for maps in sensors)
        low, high = seen.bev_low.flip(-2), seen.bev_high.flip(-2)
        return DetectorOutput(seen.image_features, seen.depth, camera, lidar, radar, low, high, head)
