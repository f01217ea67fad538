"""Boxes of a whole split as columns: ground truth from the tables, predictions from a result file's dictionary."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES
from nuscenes.eval.detection.data_classes import DetectionConfig
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box
from pyquaternion import Quaternion

from harness.errors import InputError, unknown

_LABELS = {name: number for number, name in enumerate(DETECTION_NAMES)}
_ATTRIBUTES = {"": -1} | {name: number for number, name in enumerate(ATTRIBUTE_NAMES)}
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
    """float64 (n,), radians."""
    velocity: np.ndarray
    """float64 (n, 2), m/s; NaN where unknown."""
    attribute: np.ndarray
    """int64 (n,): number in the devkit's ATTRIBUTE_NAMES; -1 for none."""
    score: np.ndarray
    """float64 (n,); -1 of annotations."""

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.sample)

    def where(self, keep: np.ndarray) -> "BoxColumns":
        """The boxes of a mask."""
        return BoxColumns(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})


@dataclass(frozen=True)
class Split:
    """What a split has besides its boxes, by number of the sample."""

    tokens: tuple[str, ...]
    scene: np.ndarray
    """int64 (samples,): number of each sample's scene."""
    ego: np.ndarray
    """float64 (samples, 3): global position of the car at the LiDAR's keyframe, metres."""
    racks: Mapping[int, Sequence[Box]]
    """Bicycle racks of the samples that have any."""


def ground_truth(nusc: NuScenes, tokens: Sequence[str]) -> tuple[Split, BoxColumns]:
    """A split's samples and annotations, those that no sensor hit left out, as the devkit does."""
    attributes = {row["token"]: row["name"] for row in nusc.attribute}
    scenes: dict[str, int] = {}
    numbers, ego, sample_of, boxes = [], [], [], []
    racks: dict[int, list[Box]] = {}
    for number, token in enumerate(tokens):
        sample = nusc.get("sample", token)
        numbers.append(scenes.setdefault(sample["scene_token"], len(scenes)))
        keyframe = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        ego.append(nusc.get("ego_pose", keyframe["ego_pose_token"])["translation"])
        for annotation_token in sample["anns"]:
            annotation = nusc.get("sample_annotation", annotation_token)
            if annotation["category_name"] == "static_object.bicycle_rack":
                box = Box(annotation["translation"], annotation["size"], Quaternion(annotation["rotation"]))
                racks.setdefault(number, []).append(box)
            name = category_to_detection_name(annotation["category_name"])
            if name is None or annotation["num_lidar_pts"] + annotation["num_radar_pts"] == 0:
                continue
            if len(annotation["attribute_tokens"]) > 1:
                raise InputError(f"annotation {annotation_token} has more than one attribute")
            sample_of.append(number)
            boxes.append(
                {
                    **{key: annotation[key] for key in ("translation", "size", "rotation")},
                    "velocity": nusc.box_velocity(annotation_token)[:2],
                    "detection_name": name,
                    "detection_score": -1.0,
                    "attribute_name": next((attributes[key] for key in annotation["attribute_tokens"]), ""),
                }
            )
    split = Split(tuple(tokens), np.array(numbers), np.array(ego, dtype=np.float64).reshape(-1, 3), racks)
    return split, columns(sample_of, boxes, tokens)


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
        raise InputError(f"the results have {len(extra)} samples that the split has not, such as {min(extra)}")
    sample_of: list[int] = []
    found: list[Any] = []
    for token in results if in_file_order else split.tokens:
        boxes = results[token]
        if not isinstance(boxes, list):
            raise InputError(f"sample {token}: its boxes are no list")
        if len(boxes) > max_boxes:
            raise InputError(f"sample {token} has {len(boxes)} boxes; at most {max_boxes} are allowed")
        found += boxes
        sample_of += [numbers[token]] * len(boxes)
    whole = columns(sample_of, found, split.tokens)
    _require_valid(whole, split)
    return whole


def columns(sample: Sequence[int], boxes: Sequence[Any], tokens: Sequence[str]) -> BoxColumns:
    """Boxes as nuScenes writes them, as columns.

    Args:
        sample: Number of each box's sample.
        boxes: Mappings with nuScenes' fields.
        tokens: Of the samples, to say where a box cannot be read.
    """

    def floats(name: str, *shape: int) -> np.ndarray:
        values = [box[name] for box in boxes]
        try:
            if shape and set(map(len, values)) - set(shape):
                raise ValueError("of another length")
            flat = chain.from_iterable(values) if shape else values
            return np.fromiter(flat, dtype=np.float64, count=len(values) * math.prod(shape)).reshape(-1, *shape)
        except (TypeError, ValueError):
            number, value = next((n, value) for n, value in enumerate(values) if not _fits(value, shape))
            shown = f"{name} of a box has another shape or type than nuScenes': {value!r}"
            raise InputError(f"sample {tokens[sample[number]]}: {shown[:200]}") from None

    try:
        label = [_LABELS[box["detection_name"]] for box in boxes]
        attribute = [_ATTRIBUTES[box["attribute_name"]] for box in boxes]
        rotation = floats("rotation", 4)
        length = np.sqrt((rotation**2).sum(axis=1, keepdims=True))
        return BoxColumns(
            sample=np.array(sample, dtype=np.int64),
            label=np.array(label, dtype=np.int64),
            center=floats("translation", 3),
            size=floats("size", 3),
            # Of a rotation without length or with an infinite one there is no yaw.
            yaw=_yaw(np.divide(rotation, length, out=np.full_like(rotation, np.nan), where=length > 0)),
            velocity=floats("velocity", 2),
            attribute=np.array(attribute, dtype=np.int64),
            score=floats("detection_score"),
        )
    except (KeyError, TypeError) as error:
        number, wrong = next((n, what) for n, box in enumerate(boxes) if (what := _what_is_wrong(box)))
        raise InputError(f"sample {tokens[sample[number]]}: {wrong}") from error


def _fits(value: Any, shape: tuple[int, ...]) -> bool:
    try:
        return np.array(value, dtype=np.float64).shape == shape
    except (TypeError, ValueError):
        return False


def _what_is_wrong(box: Any) -> str:
    """Of a box that cannot be read; nothing of one that can."""
    needed = ("translation", "size", "rotation", "velocity", "detection_name", "detection_score", "attribute_name")
    if not isinstance(box, Mapping):
        return f"a box is {type(box).__name__}, not a mapping with {', '.join(needed)}"
    for name in needed:
        if name not in box:
            return f"a box lacks {name}"
    for name, known in (("detection_name", _LABELS), ("attribute_name", _ATTRIBUTES)):
        if not isinstance(box[name], str) or box[name] not in known:
            return unknown(name, str(box[name]), known)
    return ""


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
    _require(~np.isinf(boxes.velocity), "velocity", "is infinite (NaN is allowed)", boxes, split)
    _require(boxes.size > 0, "size", "is not positive", boxes, split)


def _require(good: np.ndarray, name: str, what: str, boxes: BoxColumns, split: Split) -> None:
    bad = ~good.reshape(len(boxes), math.prod(good.shape[1:])).all(axis=1)
    if bad.any():
        raise InputError(f"sample {split.tokens[boxes.sample[bad.argmax()]]}: {name} of a box {what}")


def filtered(boxes: BoxColumns, split: Split, config: DetectionConfig) -> BoxColumns:
    """The boxes that are scored: nearer than their class's range, and no bicycle or motorcycle in a bicycle rack."""
    gap = boxes.center[:, :2] - split.ego[boxes.sample, :2]
    reach = np.array([config.class_range[name] for name in DETECTION_NAMES], dtype=np.float64)
    near = boxes.where(np.sqrt(gap[:, 0] ** 2 + gap[:, 1] ** 2) < reach[boxes.label])
    keep = np.ones(len(near), dtype=bool)
    if split.racks:
        doubtful = np.isin(near.label, _IN_RACKS) & np.isin(near.sample, list(split.racks))
        for index in doubtful.nonzero()[0]:
            # One point at a time, as the devkit asks: the last bit of a product may depend on how many there are.
            point = near.center[index][:, None]
            keep[index] = not any(points_in_box(rack, point).any() for rack in split.racks[near.sample[index]])
    return near.where(keep)
