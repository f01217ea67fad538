"""Resampling: a teacher's maps and boxes, brought from its own frame and grid to those of the student's batch."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from detectors.batch import Batch, Frames, Points
from detectors.geometry.grid import BevFrame, BevGrid
from detectors.outputs import DetectorOutput, HeadOutput

NOTHING = -9.2
"""Logit of a class beyond the teacher's grid: a probability of one in ten thousand."""


def between(frames: Frames, source: BevFrame, undo_augmentation: bool) -> Float[Tensor, "b 4 4"]:
    """From the BEV frame of each sample of a batch to another one.

    Args:
        frames: Of the batch.
        source: The frame that is wanted.
        undo_augmentation: Whether it is that of the recorded world, or of the world as augmentation left it.
    """
    matrix = (
        torch.linalg.inv_ex(frames.moved).inverse
        if undo_augmentation
        else torch.eye(4).to(frames.moved).expand_as(frames.moved)
    )
    if source == frames.bev_frame:
        return matrix
    mount = frames.lidar_from_ego if source == "lidar" else torch.linalg.inv_ex(frames.lidar_from_ego).inverse
    return mount @ matrix


def batch_in(batch: Batch, frame: BevFrame) -> Batch:
    """The sensors of a batch in another BEV frame, for a detector that was trained in it.

    Annotations stay as they are, and plans of a lift are dropped, for they hold in the frame that they were made in.
    """
    assert batch.frames is not None, "a batch that was read from a root says where its frame lies"
    if frame == batch.frames.bev_frame:
        return batch
    matrix = between(batch.frames, frame, undo_augmentation=False)
    views = batch.views
    if views is not None:
        back = torch.linalg.inv_ex(matrix).inverse
        views = replace(
            views,
            ego_from_camera=einsum(matrix, views.ego_from_camera, "b i j, b n j k -> b n i k"),
            moved=einsum(matrix, views.moved, back, "b i j, b n j k, b k l -> b n i l"),
        )
    return replace(
        batch,
        views=views,
        lidar=batch.lidar and _moved(batch.lidar, matrix),
        radar=batch.radar and _moved(batch.radar, matrix, velocity=slice(4, 6)),
        lifts={},
        frames=None,
    )


def _moved(points: Points, matrix: Float[Tensor, "b 4 4"], velocity: slice | None = None) -> Points:
    of_point = matrix[points.sample]
    values = points.values.clone()
    values[:, :3] = einsum(of_point[:, :3, :3], points.values[:, :3], "p i j, p j -> p i") + of_point[:, :3, 3]
    if velocity is not None:
        values[:, velocity] = einsum(of_point[:, :2, :2], points.values[:, velocity], "p i j, p j -> p i")
    return Points(values, points.sample, points.lengths)


@dataclass(frozen=True)
class Resampling:
    """The way from the maps of a teacher to those of the same place on a student's grid.

    Maps are read bilinearly at the place of each cell's middle on the ground, and are zero beyond the teacher's grid.
    """

    source_from_target: Float[Tensor, "b 4 4"]
    """From the student's BEV frame, augmentation included, to the teacher's."""
    source: BevGrid
    target: BevGrid

    @cached_property
    def where(self) -> Float[Tensor, "b y x 2"]:
        """For ``grid_sample``: where in the teacher's maps each of the student's cells lies."""
        grid, matrix = self.target, self.source_from_target
        rows, columns = (torch.arange(count).to(matrix) + 0.5 for count in (grid.rows, grid.columns))
        row, column = torch.meshgrid(rows, columns, indexing="ij")
        middle = grid.metres_from_cells(torch.stack([column, row], dim=-1))
        turned = einsum(matrix[:, :2, :2], middle, "b i j, y x j -> b y x i")
        return self.source.sampling_from_metres(turned + rearrange(matrix[:, :2, 3], "b i -> b 1 1 i"))

    def maps(self, values: Float[Tensor, "b c y_in x_in"], padding: str = "zeros") -> Float[Tensor, "b c y x"]:
        """A map of features, whose channels mean the same in every frame."""
        # In half precision a coordinate at the rim of 180 cells would be off by 0.2 cells.
        dtype = torch.promote_types(values.dtype, self.where.dtype)
        where = self.where.to(dtype)
        sampled = F.grid_sample(values.to(dtype), where, "bilinear", padding, align_corners=False)
        return sampled.to(values.dtype)

    def head(self, output: HeadOutput) -> HeadOutput:
        """The class maps, and the box maps with places, sizes, headings and velocities of the student's frame."""
        heatmap = self.maps(output.heatmap - NOTHING) + NOTHING
        tasks = output.boxes.shape[1]
        absolute = self._absolute(output.boxes.to(torch.promote_types(output.boxes.dtype, torch.float32)))
        # Beyond the grid no class is there, and any box will do.
        sampled = self.maps(rearrange(absolute, "b tasks code y x -> b (tasks code) y x"), padding="border")
        boxes = self._coded(rearrange(sampled, "b (tasks code) y x -> b tasks code y x", tasks=tasks))
        iou = None if output.iou is None else self.maps(output.iou, padding="border")
        return HeadOutput(heatmap, boxes.to(output.boxes.dtype), iou)

    def _absolute(self, codes: Float[Tensor, "b tasks code y_in x_in"]) -> Float[Tensor, "b tasks code y_in x_in"]:
        """BOX_CODE with metres in the place of parts of a cell."""
        return torch.cat([self.source.cell * codes[:, :, :2] + _corners(codes, self.source), codes[:, :, 2:]], dim=2)

    def _coded(self, absolute: Float[Tensor, "b tasks code y x"]) -> Float[Tensor, "b tasks code y x"]:
        """BOX_CODE on the student's grid of boxes with metres in the teacher's frame."""
        matrix = torch.linalg.inv_ex(self.source_from_target).inverse.to(absolute.dtype)
        center, log_size, heading, velocity = absolute.split([3, 3, 2, 2], dim=2)
        shift = rearrange(matrix[:, :3, 3], "b i -> b 1 i 1 1")
        center = einsum(matrix[:, :3, :3], center, "b i j, b tasks j y x -> b tasks i y x") + shift
        plane = matrix[:, :2, :2]
        scale = torch.linalg.det(matrix[:, :3, :3]).abs() ** (1 / 3)
        # The code has the sine first.
        forward = einsum(plane, heading.flip(2), "b i j, b tasks j y x -> b tasks i y x").flip(2)
        across = (center[:, :, :2] - _corners(absolute, self.target)) / self.target.cell
        return torch.cat(
            [
                across,
                center[:, :, 2:],
                log_size + rearrange(scale.log(), "b -> b 1 1 1 1"),
                forward / rearrange(scale, "b -> b 1 1 1 1"),
                einsum(plane, velocity, "b i j, b tasks j y x -> b tasks i y x"),
            ],
            dim=2,
        )


def _corners(codes: Float[Tensor, "b tasks code y x"], grid: BevGrid) -> Float[Tensor, "2 y x"]:
    """Metres of the lower corner of each cell, along x and along y."""
    rows, columns = (torch.arange(count).to(codes) for count in (grid.rows, grid.columns))
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return rearrange(grid.metres_from_cells(torch.stack([column, row], dim=-1)), "y x xy -> xy y x")


class Resampled(DetectorOutput):
    """A teacher's maps on the student's grid; the high-level one and the head's are made when they are first read."""

    _seen: DetectorOutput
    _way: Resampling

    def __init__(self, seen: DetectorOutput, way: Resampling) -> None:
        # The fields of a frozen dataclass, but for the two below. Images have no frame in BEV.
        sensors = {name: getattr(seen, name) for name in ("camera_bev", "lidar_bev", "radar_bev", "bev_low")}
        moved = {name: bev if bev is None else way.maps(bev) for name, bev in sensors.items()}
        self.__dict__.update(moved, image_features=seen.image_features, depth=seen.depth, _seen=seen, _way=way)

    @cached_property
    def bev_high(self) -> Float[Tensor, "b c_high y x"]:
        """As in `DetectorOutput`."""
        return self._way.maps(self._seen.bev_high)

    @cached_property
    def head(self) -> HeadOutput:
        """As in `DetectorOutput`."""
        return self._way.head(self._seen.head)
