"""Converts the boxes of a split from nuScenes' mappings to columns, and checks and filters them as the devkit does."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import msgspec
import numpy as np
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES
from nuscenes.eval.detection.data_classes import DetectionConfig
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box
from pyquaternion import Quaternion

from harness.errors import InputError, unknown
from harness.evaluate.box_loops import Places

_LABELS = {name: number for number, name in enumerate(DETECTION_NAMES)}
_ATTRIBUTES = {"": -1} | {name: number for number, name in enumerate(ATTRIBUTE_NAMES)}
_AT_ONCE = 500
"""Boxes that are turned to columns together: as lists they would fill the memory."""
_IN_RACKS = [_LABELS["bicycle"], _LABELS["motorcycle"]]


@dataclass(frozen=True)
class BoxColumns:
    """n boxes in the global frame, in the devkit's order: sample after sample, in each as they are listed."""

    sample: np.ndarray
    """int64 (n,): number of the sample in its split."""
    label: np.ndarray
    """int64 (n,): number of the class in the devkit's DETECTION_NAMES."""
    center: np.ndarray
    """float64 (n, 3), metres."""
    size: np.ndarray
    """float64 (n, 3): width, length, height, metres."""
    yaw: np.ndarray
    """float64 (n,), radians; NaN of a rotation without length."""
    velocity: np.ndarray
    """float64 (n, 2), m/s; NaN where unknown."""
    attribute: np.ndarray
    """int64 (n,): number in the devkit's ATTRIBUTE_NAMES; -1 for none."""
    score: np.ndarray
    """float64 (n,); -1 of annotations."""

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.sample)

    @property
    def places(self) -> Places:
        """Where they are, and what, for compiled loops."""
        return Places(self.center, self.sample, self.label)

    def where(self, chosen: np.ndarray) -> Self:
        """The boxes of a mask, or of indices."""
        return type(self)(**{name: values[chosen] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Annotations(BoxColumns):
    """Boxes with what only annotations have."""

    lidar_points: np.ndarray
    """int64 (n,)."""
    visibility: np.ndarray
    """int64 (n,): the number of nuScenes' level, 1 (up to 40 % of its pixels are seen) to 4 (80 % or more)."""

    @classmethod
    def of(cls, boxes: BoxColumns, lidar_points: np.ndarray, visibility: np.ndarray) -> Self:
        """The boxes with that."""
        return cls(**vars(boxes), lidar_points=lidar_points, visibility=visibility)


@dataclass(frozen=True)
class Split:
    """What a split has besides its boxes, by number of the sample."""

    tokens: tuple[str, ...]
    scene: np.ndarray
    """int64 (samples,): number of each sample's scene."""
    ego: np.ndarray
    """float64 (samples, 3): global position of the car at the LiDAR's keyframe, metres."""
    rack_sample: np.ndarray
    """int64 (racks,): number of the sample of each annotated bicycle rack."""
    rack: np.ndarray
    """float64 (racks, 10): its translation, size and rotation as nuScenes writes them."""

    @property
    def scenes(self) -> int:
        """Number of scenes."""
        return int(self.scene.max(initial=-1)) + 1


def predictions(results: Any, split: Split, max_boxes: int, in_file_order: bool = True) -> BoxColumns:
    """The boxes of the `results` of a result file.

    Args:
        results: Sample tokens to lists of boxes.
        split: The samples that there have to be.
        max_boxes: Of a sample.
        in_file_order: The order of samples, which decides between equal scores, is the file's, else the split's. The
            devkit has the one for nuScenes' own splits and the other for those of a user.

    Raises:
        InputError: They are not what nuScenes allows; names sample and field.
    """
    if not isinstance(results, Mapping):
        raise InputError("the results must be a mapping of sample tokens to lists of boxes")
    numbers = {token: number for number, token in enumerate(split.tokens)}
    if missing := numbers.keys() - results.keys():
        raise InputError(f"the results lack {len(missing)} samples of the split, such as {min(missing)}")
    if extra := results.keys() - numbers.keys():
        raise InputError(f"the results have {len(extra)} samples that are not in the split, such as {min(extra)}")
    parts: list[BoxColumns] = []
    sample_of: list[int] = []
    chunk: list[Any] = []
    for token in results if in_file_order else split.tokens:
        boxes = results[token]
        if not isinstance(boxes, list):
            raise InputError(f"sample {token}: its boxes are not a list")
        if len(boxes) > max_boxes:
            raise InputError(f"sample {token} has {len(boxes)} boxes; at most {max_boxes} are allowed")
        chunk += boxes
        sample_of += [numbers[token]] * len(boxes)
        if len(chunk) > _AT_ONCE:
            parts.append(columns(sample_of, chunk, split.tokens))
            sample_of, chunk = [], []
    all_boxes = concatenated([*parts, columns(sample_of, chunk, split.tokens)])
    _require_valid(all_boxes, split)
    return all_boxes


def concatenated(parts: Sequence[BoxColumns]) -> BoxColumns:
    """The boxes of all parts."""
    return BoxColumns(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


class _Box(msgspec.Struct, gc=False):
    """A box as nuScenes writes it."""

    translation: tuple[float, float, float]
    size: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    velocity: tuple[float, float]
    detection_name: str
    detection_score: float
    attribute_name: str
    sample_token: Any = None


def columns(sample: Sequence[int], boxes: Sequence[Any], tokens: Sequence[str]) -> BoxColumns:
    """Boxes as nuScenes writes them, as columns.

    Args:
        sample: Number of each box's sample.
        boxes: Mappings with nuScenes' fields.
        tokens: Of the samples, to say where a box cannot be read.
    """
    try:
        read = msgspec.convert(boxes, list[_Box])
    except msgspec.ValidationError as error:
        place = re.search(r"\$\[(\d+)\]\.?(\w*)", str(error))
        assert place is not None, "msgspec says where it is"
        wrong = _what_is_wrong(boxes[int(place[1])], place[2])
        raise InputError(f"sample {tokens[sample[int(place[1])]]}: {wrong}") from error
    values = dict.fromkeys(_Box.__struct_fields__, ()) | dict(
        zip(_Box.__struct_fields__, zip(*map(msgspec.structs.astuple, read), strict=True), strict=False)
    )
    for name, known in (("detection_name", _LABELS), ("attribute_name", _ATTRIBUTES)):
        if strangers := set(values[name]) - known.keys():
            number = next(n for n, value in enumerate(values[name]) if value in strangers)
            raise InputError(f"sample {tokens[sample[number]]}: {unknown(name, values[name][number], known)}")
    # Where a box names another sample than the one that it is listed for, there the devkit would match it.
    for number, named in zip(sample, values["sample_token"], strict=True):
        if named != tokens[number]:
            raise InputError(
                f"sample {tokens[number]}: a box has sample_token {named!r}; it must be that of its sample"
            )

    def floats(name: str, shape: int) -> np.ndarray:
        return np.fromiter(chain.from_iterable(values[name]), np.float64, shape * len(read)).reshape(-1, shape)

    rotation = floats("rotation", 4)
    length = np.sqrt((rotation**2).sum(axis=1, keepdims=True))
    return BoxColumns(
        sample=np.array(sample, dtype=np.int64),
        label=np.array([_LABELS[name] for name in values["detection_name"]], dtype=np.int64),
        center=floats("translation", 3),
        size=floats("size", 3),
        # Of a rotation without length or with an infinite one there is no yaw.
        yaw=_yaw(np.divide(rotation, length, out=np.full_like(rotation, np.nan), where=length > 0)),
        velocity=floats("velocity", 2),
        attribute=np.array([_ATTRIBUTES[name] for name in values["attribute_name"]], dtype=np.int64),
        score=np.array(values["detection_score"], dtype=np.float64),
    )


def _what_is_wrong(box: Any, name: str) -> str:
    """Of a box that cannot be read; `name` is that of a field with a wrong value, empty where one is missing."""
    needed = [field.name for field in msgspec.structs.fields(_Box) if field.required]
    if not isinstance(box, Mapping):
        return f"a box is {type(box).__name__}, not a mapping with {', '.join(needed)}"
    if not name:
        return f"a box lacks {next(name for name in needed if name not in box)}"
    return f"{name} of a box has the wrong shape or type: {box[name]!r}"[:200]


def _yaw(rotation: np.ndarray) -> np.ndarray:
    """Direction of the box's length in the ground plane, of unit quaternions (w, x, y, z)."""
    w, x, y, z = rotation.T
    # The first column of the rotation matrix.
    return np.arctan2(2 * (x * y + w * z), w * w + x * x - y * y - z * z)


def _require_valid(boxes: BoxColumns, split: Split) -> None:
    for name, values in (("translation", boxes.center), ("size", boxes.size)):
        _require(np.isfinite(values), name, "is not finite", boxes, split)
    _require(np.isfinite(boxes.yaw), "rotation", "has no length, or is not finite", boxes, split)
    _require(np.isfinite(boxes.score), "detection_score", "is not finite", boxes, split)
    _require(boxes.score >= 0, "detection_score", "is negative", boxes, split)
    _require(~np.isinf(boxes.velocity), "velocity", "is infinite (NaN is allowed)", boxes, split)
    _require(boxes.size > 0, "size", "is not positive", boxes, split)


def _require(good: np.ndarray, name: str, what: str, boxes: BoxColumns, split: Split) -> None:
    bad = ~good.reshape(len(boxes), math.prod(good.shape[1:])).all(axis=1)
    if bad.any():
        raise InputError(f"sample {split.tokens[boxes.sample[bad.argmax()]]}: {name} of a box {what}")


def ego_distance(boxes: BoxColumns, split: Split) -> np.ndarray:
    """Distance of each box from the car in the ground plane, metres."""
    gap = boxes.center[:, :2] - split.ego[boxes.sample, :2]
    return np.sqrt(gap[:, 0] ** 2 + gap[:, 1] ** 2)


def scored(boxes: BoxColumns, split: Split, config: DetectionConfig) -> np.ndarray:
    """Mask of the boxes that count: nearer than their class's range, and no bicycle or motorcycle in a bicycle rack."""
    reach = np.array([config.class_range[name] for name in DETECTION_NAMES], dtype=np.float64)
    is_scored = ego_distance(boxes, split) < reach[boxes.label]
    if not len(split.rack):
        return is_scored
    racks = {
        number: [_box(rack) for rack in split.rack[split.rack_sample == number]] for number in set(split.rack_sample)
    }
    doubtful = is_scored & np.isin(boxes.label, _IN_RACKS) & np.isin(boxes.sample, split.rack_sample)
    for index in doubtful.nonzero()[0]:
        # One point at a time, as the devkit asks: the last bit of a product may depend on how many there are.
        point = boxes.center[index][:, None]
        is_scored[index] = not any(points_in_box(rack, point).any() for rack in racks[boxes.sample[index]])
    return is_scored


def _box(rack: np.ndarray) -> Box:
    return Box(rack[:3].tolist(), rack[3:6].tolist(), Quaternion(rack[6:].tolist()))
