"""Boxes: the convention for classes, sizes, yaw and velocity, with corners and keypoints."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detectors.asynchronous import constant, sent

CLASSES = (
    "car",
    "truck",
    "bus",
    "trailer",
    "construction_vehicle",
    "pedestrian",
    "motorcycle",
    "bicycle",
    "traffic_cone",
    "barrier",
)
"""The ten nuScenes detection classes; ``Boxes.label`` is an index into this tuple."""

ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.moving",
    "pedestrian.standing",
    "pedestrian.sitting_lying_down",
)
"""The nuScenes attributes; barriers and cones have none."""
MOVING = 0.5
"""Speed in m/s above which an object counts as moving."""

FOOTPRINT = ((0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5))
"""Corners seen from above in units of (length, width), counter-clockwise from the front left."""
CORNERS = tuple((x, y, z) for x in (0.5, -0.5) for y, z in ((0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5)))
"""Corners in units of (length, width, height), ordered as the devkit's: four of the front face, i + 4 lies behind i."""

# The nine points of UniDistill: centre, four corners, four edge midpoints.
_KEYPOINTS = ((0.0, 0.0), *FOOTPRINT, (0.5, 0.0), (0.0, 0.5), (-0.5, 0.0), (0.0, -0.5))


@dataclass(frozen=True)
class Boxes:
    """Boxes of one sample (no leading axis) or a padded batch of samples (leading axis b)."""

    center: Float[Tensor, "*b k 3"]
    """Middle of the box in the BEV frame, metres."""
    size: Float[Tensor, "*b k 3"]
    """Length (along the heading), width, height, metres. nuScenes stores width first."""
    yaw: Float[Tensor, "*b k"]
    """Counter-clockwise from +x, radians."""
    velocity: Float[Tensor, "*b k 2"]
    """Along x and y of the BEV frame, m/s; NaN where it was not annotated."""
    label: Int[Tensor, "*b k"]
    """Index into CLASSES."""
    score: Float[Tensor, "*b k"]
    """Confidence in [0, 1]; 1 for annotations."""

    def __len__(self) -> int:
        """Boxes per sample, padding included."""
        return self.yaw.shape[-1]

    def __getitem__(self, index: Any) -> Self:
        """Index or mask the first axis of every field."""
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device | str) -> Self:
        """The same boxes on another device."""
        return type(self)(**{f.name: sent(getattr(self, f.name), device) for f in fields(self)})

    def moved(self, matrix: Float[Tensor, "4 4"]) -> Self:
        """The same boxes in another frame, or in a world that was changed: what was at a place is at `matrix @ place`.

        Args:
            matrix: A turn or flip within the ground plane, times a scale, and a shift. Of a frame that is not quite
                level with this one, as LIDAR_TOP's, boxes stay upright in either.
        """
        linear, plane, shift = matrix[:3, :3], matrix[:2, :2], matrix[:3, 3]
        heading = torch.stack([self.yaw.cos(), self.yaw.sin()], dim=-1) @ plane.T
        return replace(
            self,
            center=self.center @ linear.T + shift,
            size=self.size * torch.linalg.det(linear).abs() ** (1 / 3),
            yaw=torch.atan2(heading[..., 1], heading[..., 0]),
            velocity=self.velocity @ plane.T,
        )

    def keypoints(self) -> Float[Tensor, "*b k 9 2"]:
        """The nine BEV points of each box: centre, corners, edge midpoints (UniDistill, Sec. 3), metres."""
        return points_of_boxes(self.center[..., :2], self.size[..., :2], self.yaw, _KEYPOINTS)

    def corners(self) -> Float[Tensor, "*b k 8 3"]:
        """The eight corners of each box in the order of CORNERS, metres."""
        return points_of_boxes(self.center, self.size, self.yaw, CORNERS)


def points_of_boxes(
    center: Float[Tensor, "*b k s"],
    size: Float[Tensor, "*b k s"],
    yaw: Float[Tensor, "*b k"],
    unit: Sequence[Sequence[float]],
) -> Float[Tensor, "*b k p s"]:
    """The same points of every box, in the frame that its centre and yaw are given in.

    Args:
        center: Along x and y, or along x, y and z.
        size: Length and width, or length, width and height.
        yaw: Counter-clockwise from +x, radians.
        unit: The p points in units of the size, from the middle: forward, left and, where s is 3, up.
    """
    offset = constant(tuple(map(tuple, unit)), center) * rearrange(size, "... k s -> ... k 1 s")
    cos, sin = (rearrange(f(yaw), "... k -> ... k 1") for f in (torch.cos, torch.sin))
    along, across, *up = offset.unbind(-1)
    turned = torch.stack([cos * along - sin * across, sin * along + cos * across, *up], dim=-1)
    return rearrange(center, "... k s -> ... k 1 s") + turned


def pad_boxes(samples: list[Boxes]) -> tuple[Boxes, Tensor]:
    """Stack samples of different length into one padded batch.

    Returns:
        The boxes ``[b, k]``, zero where padded, and the mask ``[b, k]`` of what is a box. k is at least 1.
    """
    longest = max([len(boxes) for boxes in samples] + [1])
    real = torch.stack([torch.arange(longest, device=boxes.center.device) < len(boxes) for boxes in samples])

    def padded(name: str) -> Tensor:
        values = [getattr(boxes, name) for boxes in samples]
        # One row more, which is dropped again, for where no sample has a box.
        return pad_sequence([*values, values[0].new_zeros(longest, *values[0].shape[1:])], batch_first=True)[:-1]

    return Boxes(**{f.name: padded(f.name) for f in fields(Boxes)}), real
