"""Augments training samples: images, matrices, points and boxes are transformed together."""

import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from detectors.batch import CameraViews, Instances, Sample
from harness.study.schedule import AugmentSpec


def augment(
    sample: Sample, spec: AugmentSpec, image_size: tuple[int, int] | None, generator: torch.Generator
) -> Sample:
    """A variant of a sample; the BEV part of the draw is the same for any set of sensors.

    Args:
        sample: Its images are whole, resized by `spec.image.largest`.
        spec: The ranges to draw from.
        image_size: Height and width of the resulting images.
        generator: Draws.
    """
    chance = torch.rand(7, generator=generator).tolist()
    shift = [spec.shift * (2 * share - 1) for share in chance[5:]]
    if any(spec.shift_std):
        normal = torch.randn(3, generator=generator).tolist()
        shift = [by + std * far for by, std, far in zip([*shift, 0.0], spec.shift_std, normal, strict=True)]
    mirrored = chance[0] < spec.mirror_probability
    sideways_is_x = sample.frames is not None and sample.frames.bev_frame == "lidar"
    matrix = bev_matrix(
        angle=math.radians(spec.rotation_degrees) * (2 * chance[1] - 1),
        scale=_between(spec.scale, chance[2]),
        # A mirrored world is one that is flipped sideways together with its images.
        flip_x=(chance[3] < spec.flip_probability) != (mirrored and sideways_is_x),
        flip_y=(chance[4] < spec.flip_probability) != (mirrored and not sideways_is_x),
        shift=tuple(shift),
    )
    if sample.views is not None and image_size is not None:
        draws = torch.rand(len(sample.views.age), 4, generator=generator).tolist()
        source_size = sample.views.images.shape[-2:]
        warps = [_image_matrix(spec, source_size, image_size, mirrored, draw) for draw in draws]
        matrices = torch.tensor(np.stack(warps)).float()
        sample = replace(
            sample,
            views=warp_images(sample.views, matrices, image_size),
            instances=sample.instances and warp_instances(sample.instances, matrices, image_size),
        )
    return move_bev(sample, matrix)


def draw_sweeps(sample: Sample, sweeps: int, generator: torch.Generator) -> Sample:
    """The sample with the LiDAR keyframe and others at random, so that they are `sweeps`, of those that it has."""
    assert sample.lidar is not None
    ages, lengths = sample.lidar[:, 4].unique_consecutive(return_counts=True)
    earlier = (ages > 0).nonzero()[:, 0]
    stays = ages <= 0
    stays[earlier[torch.randperm(len(earlier), generator=generator)[: sweeps - 1]]] = True
    return replace(sample, lidar=sample.lidar[stays.repeat_interleave(lengths)])


def augment_image(
    image: UInt8[Tensor, "3 h_in w_in"],
    instances: Instances,
    spec: AugmentSpec,
    size: tuple[int, int],
    generator: torch.Generator,
) -> tuple[UInt8[Tensor, "3 h w"], Instances]:
    """A variant of an annotated image that belongs to no sample: mirrored or not, and what `spec.image` says.

    Args:
        image: At `spec.image.zoom[1]` times `size`.
        instances: Of this image.
        spec: The ranges to draw from; what it says of BEV has no meaning here.
        size: Height and width of the result.
        generator: Draws.
    """
    chance, *draw = torch.rand(5, generator=generator).tolist()
    warp = _image_matrix(spec, image.shape[-2:], size, chance < spec.mirror_probability, draw)
    owner = _moved(instances.owner.numpy()[None], warp, size, cv2.INTER_NEAREST)[0]
    moved = _moved(image.numpy(), warp, size, cv2.INTER_LINEAR)
    return torch.from_numpy(np.ascontiguousarray(moved)), replace(instances, owner=torch.from_numpy(owner.copy()))


def bev_matrix(
    angle: float = 0.0,
    scale: float = 1.0,
    flip_x: bool = False,
    flip_y: bool = False,
    shift: tuple[float, ...] = (0.0, 0.0),
) -> Float[Tensor, "4 4"]:
    """Flips x and y to -x and -y, turns counter-clockwise (radians), scales, then shifts along x, y and z (metres)."""
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = torch.eye(4)
    matrix[:2, :2] = torch.tensor([[cos, -sin], [sin, cos]]) * torch.tensor([1 - 2.0 * flip_x, 1 - 2.0 * flip_y])
    matrix[:3, :3] *= scale
    matrix[: len(shift), 3] = torch.tensor(shift)
    return matrix


def move_bev(sample: Sample, matrix: Float[Tensor, "4 4"]) -> Sample:
    """The BEV frame changed, so that what was at a place is at `matrix @ place`.

    Args:
        sample: Its images stay as they are; where their cameras hang changes.
        matrix: A turn or flip within the ground plane, times a scale, and a shift.
    """
    linear, plane, shift = matrix[:3, :3], matrix[:2, :2], matrix[:3, 3]
    views = sample.views
    lidar, radar = (None if p is None else p.clone() for p in (sample.lidar, sample.radar))
    if lidar is not None:
        lidar[:, :3] = lidar[:, :3] @ linear.T + shift
    if radar is not None:
        radar[:, :3] = radar[:, :3] @ linear.T + shift
        radar[:, 4:6] = radar[:, 4:6] @ plane.T
    return replace(
        sample,
        views=views and replace(views, ego_from_camera=matrix @ views.ego_from_camera, moved=matrix @ views.moved),
        lidar=lidar,
        radar=radar,
        boxes=sample.boxes.moved(matrix),
        frames=sample.frames and replace(sample.frames, moved=matrix @ sample.frames.moved),
    )


def warp_images(views: CameraViews, matrices: Float[Tensor, "n 3 3"], size: tuple[int, int]) -> CameraViews:
    """Every image moved by its own affine matrix (pixels after from pixels before, edges at 0), black where it ends."""
    pairs = zip(views.images.numpy(), matrices.double().numpy(), strict=True)
    warped = [_moved(image, matrix, size, cv2.INTER_LINEAR) for image, matrix in pairs]
    return replace(
        views,
        images=torch.from_numpy(np.stack(warped)),
        intrinsics=matrices @ views.intrinsics,
        from_file=matrices @ views.from_file,
    )


def warp_instances(instances: Instances, matrices: Float[Tensor, "n 3 3"], size: tuple[int, int]) -> Instances:
    """Instance masks moved as `warp_images` moves their images; no pixel is shared."""
    pairs = zip(instances.owner.numpy()[:, None], matrices.double().numpy(), strict=True)
    moved = [_moved(owner, matrix, size, cv2.INTER_NEAREST)[0] for owner, matrix in pairs]
    return replace(instances, owner=torch.from_numpy(np.stack(moved)))


def _moved(
    image: UInt8[np.ndarray, "c h_in w_in"], matrix: Float[np.ndarray, "3 3"], size: tuple[int, int], how: int
) -> UInt8[np.ndarray, "c h w"]:
    source_size = image.shape[1:]
    return _cropped(image, matrix, size) if _is_crop(matrix, source_size, size) else _warped(image, matrix, size, how)


def _warped(image: UInt8[np.ndarray, "c h_in w_in"], matrix: np.ndarray, size: tuple[int, int], how: int) -> np.ndarray:
    height, width = size
    # OpenCV counts from the middle of the first pixel.
    to_centre = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    affine = (to_centre @ matrix @ np.linalg.inv(to_centre))[:2]
    channels_last = np.ascontiguousarray(image.transpose(1, 2, 0))
    # It drops the axis of a single channel.
    return np.atleast_3d(cv2.warpAffine(channels_last, affine, (width, height), flags=how)).transpose(2, 0, 1)


def _is_crop(matrix: Float[np.ndarray, "3 3"], source_size: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether whole pixels move to whole pixels, at most left and right exchanged, and none comes from outside."""
    (flip, shear, across), (lean, stretch, down) = matrix[:2]
    if abs(flip) != 1 or shear != 0 or lean != 0 or stretch != 1 or across % 1 != 0 or down % 1 != 0:
        return False
    left = -across if flip > 0 else across - size[1]
    return bool(0 <= left <= source_size[1] - size[1] and 0 <= -down <= source_size[0] - size[0])


def _cropped(image: UInt8[np.ndarray, "c h_in w_in"], matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What `_warped` gives, without interpolating: a tenth of the time."""
    (flip, _, across), (_, _, down) = matrix[:2].astype(int)
    rows = image[:, -down : size[0] - down]
    return rows[:, :, -across : size[1] - across] if flip > 0 else rows[:, :, across - size[1] : across][:, :, ::-1]


def _image_matrix(
    spec: AugmentSpec, source_size: Sequence[int], size: tuple[int, int], mirrored: bool, draw: Sequence[float]
) -> Float[np.ndarray, "3 3"]:
    """Resize, crop (the sky before the road), turn about the middle, flip: pixels after from pixels before."""
    zoom_share, turn_share, crop_share, flip_chance = draw
    height, width = size
    bounds = spec.image.resize or spec.image.zoom
    zoom = _between(bounds, zoom_share) / bounds[1]
    left, top = crop_share * (source_size[1] * zoom - width), source_size[0] * zoom - height
    if spec.image.resize is not None:
        # As papers have it: a whole column; what is too narrow begins at the left border.
        left = math.floor(max(0.0, left))
    crop = np.array([[zoom, 0, -left], [0, zoom, -top], [0, 0, 1]])
    angle = math.radians(spec.image.rotation_degrees) * (2 * turn_share - 1)
    cos, sin = math.cos(angle), math.sin(angle)
    to_middle, from_middle = (np.array([[1, 0, s * width / 2], [0, 1, s * height / 2], [0, 0, 1]]) for s in (-1, 1))
    turn = from_middle @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ to_middle
    flipped = (flip_chance < spec.image.flip_probability) != mirrored
    flip = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]]) if flipped else np.eye(3)
    return flip @ turn @ crop


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * share
