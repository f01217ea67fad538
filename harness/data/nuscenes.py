"""Reads samples of a nuScenes root, synthetic or real, through its index.

The BEV frame of a sample is the ego frame at the time of its LIDAR_TOP keyframe, or that sensor's if a detector asks
for it (`BevFrame`). Sensors and boxes are moved into it here and nowhere else, and `global_from_bev` leads back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from pyquaternion import Quaternion
from torch import Tensor

from detectors.batch import RADAR_STATES, BoxFacts, CameraViews, Frames, Inputs, Instances, Sample, stack_instances
from detectors.geometry.boxes import ATTRIBUTES, CLASSES, Boxes
from detectors.geometry.grid import BevFrame
from harness.data.pseudo_labels import PseudoLabels
from harness.data.root import LIDAR, RADARS, NuScenesRoot
from harness.data.sensor_files import open_image, read_lidar, read_radar
from harness.study.schedule import ImageAugmentSpec

_CLOSE = 1.0
"""Metres along x and y of a sensor: returns of earlier sweeps that are nearer come from the ego car and would smear."""
_MICROSECONDS = 1e-6
_UNIT = 1e-14
"""How far from 1 the square of a unit quaternion's length may be."""


def read(
    root: NuScenesRoot,
    token: str,
    inputs: Inputs,
    cropped_later: ImageAugmentSpec | None = None,
    labels: PseudoLabels | None = None,
) -> Sample:
    """One keyframe, and what came before it as far as the inputs ask for it.

    Args:
        root: The dataset.
        token: Of the sample table.
        inputs: Which sensors, how many keyframes and sweeps.
        cropped_later: Where given, images are whole and as large as this augmentation wants them, which crops them to
            `inputs.image_size` itself.
        labels: An image teacher's, of every image that is read here; they come with the sample.

    Raises:
        InputError: A sensor file is missing or damaged.
    """
    boxes, facts = annotations(root, token, inputs.bev_frame)
    # The evaluation ignores objects that no sensor point fell on; training does the same.
    seen = facts.lidar_points + facts.radar_points > 0
    place = _Place(root, root.sweeps(token, LIDAR, 1)[0], inputs.bev_frame)
    return Sample(
        token=token,
        views=_views(place, token, inputs, cropped_later),
        instances=None if labels is None else _instances(root, token, inputs, cropped_later, labels),
        lidar=_lidar(place, token, inputs) if inputs.lidar_read else None,
        radar=_radar(place, token, inputs) if inputs.radar_sweeps else None,
        boxes=boxes[seen],
        facts=facts[seen],
        frames=place.frames,
    )


def global_from_bev(root: NuScenesRoot, token: str, frame: BevFrame = "ego") -> Float[np.ndarray, "4 4"]:
    """The pose of a sample's BEV frame."""
    now = root.sweeps(token, LIDAR, 1)[0]
    return _ego_pose(root, now) if frame == "ego" else _ego_pose(root, now) @ _mount(root, now)


def annotations(root: NuScenesRoot, token: str, frame: BevFrame = "ego") -> tuple[Boxes, BoxFacts]:
    """All annotated boxes of the ten detection classes in a BEV frame, and what else is known of each."""
    pose = global_from_bev(root, token, frame)
    turn = Quaternion(matrix=pose).inverse
    rows, facts = [], []
    for annotation, name, global_velocity in root.annotations(token):
        if name is None:
            continue
        center = turn.rotate(np.array(annotation["translation"]) - pose[:3, 3])
        heading = (turn * Quaternion(annotation["rotation"])).rotation_matrix[:, 0]
        width, length, height = annotation["size"]
        velocity = turn.rotate(global_velocity)
        yaw = np.arctan2(heading[1], heading[0])
        rows.append([*center, length, width, height, yaw, *velocity[:2], CLASSES.index(name)])
        attributes = [root.index.value("attribute", t, "name") for t in annotation["attribute_tokens"]]
        facts.append(
            (
                ATTRIBUTES.index(attributes[0]) if attributes and attributes[0] in ATTRIBUTES else -1,
                int(annotation["visibility_token"] or 0),
                annotation["num_lidar_pts"],
                annotation["num_radar_pts"],
            )
        )
    table = torch.tensor(np.array(rows, dtype=np.float32).reshape(-1, 10))
    boxes = Boxes(
        center=table[:, 0:3],
        size=table[:, 3:6],
        yaw=table[:, 6],
        velocity=table[:, 7:9],
        label=table[:, 9].long(),
        score=torch.ones(len(table)),
    )
    return boxes, BoxFacts(*torch.tensor(facts, dtype=torch.long).reshape(-1, 4).unbind(dim=1))


@dataclass(frozen=True)
class _Place:
    """Time and BEV frame of a sample, into which its sensors and sweeps are moved."""

    root: NuScenesRoot
    now: dict
    """The sample_data row of its LiDAR keyframe."""
    frame: BevFrame

    @cached_property
    def _ego_from_global(self) -> Float[np.ndarray, "4 4"]:
        return np.linalg.inv(_ego_pose(self.root, self.now))

    @cached_property
    def _lidar_from_ego(self) -> Float[np.ndarray, "4 4"]:
        return np.linalg.inv(_mount(self.root, self.now))

    @property
    def frames(self) -> Frames:
        return Frames(self.frame, torch.tensor(self._lidar_from_ego, dtype=torch.float32), torch.eye(4))

    def from_sensor(self, record: dict) -> Float[np.ndarray, "4 4"]:
        """Through the global frame, by the ego poses of both times: the ego motion in between is taken out."""
        same_time = record["ego_pose_token"] == self.now["ego_pose_token"]
        same_sensor = record["calibrated_sensor_token"] == self.now["calibrated_sensor_token"]
        # To the last bit, without a way there and back.
        if self.frame == "lidar" and same_time and same_sensor:
            return np.eye(4)
        ego_from_sensor = _mount(self.root, record)
        if not same_time:
            ego_from_sensor = self._ego_from_global @ _ego_pose(self.root, record) @ ego_from_sensor
        return ego_from_sensor if self.frame == "ego" else self._lidar_from_ego @ ego_from_sensor

    def age(self, record: dict) -> float:
        """Seconds."""
        return (self.now["timestamp"] - record["timestamp"]) * _MICROSECONDS


def _views(place: _Place, token: str, inputs: Inputs, cropped_later: ImageAugmentSpec | None) -> CameraViews | None:
    if inputs.image_size is None:
        return None
    root = place.root
    images, fits, intrinsics, extrinsics, ages = [], [], [], [], []
    for record in root.images(token, inputs.keyframes):
        file = open_image(root.path / record["filename"])
        file.check_size(record)
        fit = _Fit.of(file.size, inputs.image_size, cropped_later)
        sensor = root.index.get("calibrated_sensor", record["calibrated_sensor_token"])
        images.append(fit.cut(file.resized(*fit.full)))
        fits.append(fit.matrix)
        intrinsics.append(fit.matrix @ np.array(sensor["camera_intrinsic"]))
        extrinsics.append(place.from_sensor(record))
        ages.append(place.age(record))
    return CameraViews(
        # OpenCV takes an image apart several times as fast as a copy with its axes moved.
        images=torch.from_numpy(np.array([cv2.split(image) for image in images])),
        intrinsics=torch.tensor(np.stack(intrinsics), dtype=torch.float32),
        ego_from_camera=torch.tensor(np.stack(extrinsics), dtype=torch.float32),
        age=torch.tensor(ages, dtype=torch.float32),
        from_file=torch.tensor(np.stack(fits), dtype=torch.float32),
    )


def _instances(
    root: NuScenesRoot, token: str, inputs: Inputs, cropped_later: ImageAugmentSpec | None, labels: PseudoLabels
) -> Instances:
    """An image teacher's labels of the images that `_views` reads, fitted as these are."""
    assert inputs.image_size is not None, "labels of images are for detectors that see some"
    fitted = []
    for record in root.images(token, inputs.keyframes):
        seen = labels.instances(record["filename"])
        owner = seen.owner.numpy()
        fit = _Fit.of(owner.shape, inputs.image_size, cropped_later)
        owner = cv2.resize(owner, fit.full[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        fitted.append(replace(seen, owner=torch.from_numpy(np.ascontiguousarray(fit.cut(owner)))))
    instances = stack_instances(fitted)
    assert instances is not None, "a sample without a view"
    return instances


def _lidar(place: _Place, token: str, inputs: Inputs) -> Tensor:
    rows = place.root.sweeps(token, LIDAR, inputs.lidar_read)
    if inputs.lidar_fill:
        rows += rows[-1:] * (inputs.lidar_read - len(rows))
    clouds = [read_lidar(place.root.path / record["filename"]) for record in rows]
    for i, cloud in enumerate(clouds[1:] if not inputs.lidar_near else (), start=1):
        is_far = (np.abs(cloud[:, 0]) >= _CLOSE) | (np.abs(cloud[:, 1]) >= _CLOSE)
        clouds[i] = cloud.take(np.flatnonzero(is_far), axis=0)  # several times as fast as by the mask
    points = np.empty((sum(map(len, clouds)), 5), np.float32)
    end = 0
    for record, cloud in zip(rows, clouds, strict=True):
        begin, end = end, end + len(cloud)
        points[begin:end, :3] = _moved(place.from_sensor(record), cloud[:, :3])
        points[begin:end, 3] = cloud[:, 3] / 255
        points[begin:end, 4] = place.age(record)
    return torch.from_numpy(points)


def _radar(place: _Place, token: str, inputs: Inputs) -> Tensor:
    root = place.root
    clouds = []
    for channel in RADARS:
        for record in root.sweeps(token, channel, inputs.radar_sweeps):
            raw = read_radar(root.path / record["filename"])
            if not inputs.radar_states:
                # What the devkit keeps by default: valid, of any dynamic property, unambiguous Doppler.
                raw = raw[(raw["invalid_state"] == 0) & (raw["dyn_prop"] <= 6) & (raw["ambig_state"] == 3)]
            states = [raw[name] for name in RADAR_STATES] if inputs.radar_states else []
            xyz = np.stack([raw[name] for name in ("x", "y", "z")], axis=1)
            velocity = np.stack([raw["vx_comp"], raw["vy_comp"], np.zeros(len(raw))], axis=1)
            cloud = np.empty((len(raw), 7 + len(states)), np.float32)
            matrix = place.from_sensor(record)
            cloud[:, :3] = _moved(matrix, xyz)
            cloud[:, 3] = raw["rcs"]
            cloud[:, 4:6] = (velocity @ matrix[:3, :3].T)[:, :2]
            cloud[:, 6] = place.age(record)
            for column, state in enumerate(states, start=7):
                cloud[:, column] = state
            clouds.append(cloud)
    return torch.from_numpy(np.concatenate(clouds))


def _moved(matrix: Float[np.ndarray, "4 4"], xyz: Float[np.ndarray, "p 3"]) -> Float[np.ndarray, "p 3"]:
    """Points in another frame."""
    # A product with three long rows takes a fifth of the time of one with many rows of three.
    moved = matrix[:3, :3] @ np.ascontiguousarray(xyz.T, dtype=np.float64)
    moved += matrix[:3, 3:]
    return moved.T


def _mount(root: NuScenesRoot, record: dict) -> Float[np.ndarray, "4 4"]:
    """Ego frame from the frame of the sensor that took a record."""
    return _pose(root.index.get("calibrated_sensor", record["calibrated_sensor_token"]))


def _ego_pose(root: NuScenesRoot, record: dict) -> Float[np.ndarray, "4 4"]:
    return _pose(root.index.get("ego_pose", record["ego_pose_token"]))


def _pose(record: dict) -> Float[np.ndarray, "4 4"]:
    """target_from_source of an ego_pose (global from ego) or a calibrated_sensor (ego from sensor)."""
    matrix = np.eye(4)
    matrix[:3, :3] = _rotation(record["rotation"])
    matrix[:3, 3] = record["translation"]
    return matrix


def _rotation(wxyz: Sequence[float]) -> Float[np.ndarray, "3 3"]:
    """The rotation of a quaternion, to the last bit as pyquaternion has it, in a tenth of its time.

    A vector v turns to q v / q: the product of the matrices that multiply by q from the left and by its conjugate from
    the right.
    """
    q = np.array(wxyz, dtype=np.float64)
    square = np.dot(q, q)
    if abs(1.0 - square) >= _UNIT:
        q = q / np.sqrt(square)
    w, x, y, z = q
    left = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    right = np.array([[w, -x, -y, -z], [x, w, z, -y], [y, -z, w, x], [z, y, -x, w]])
    return np.dot(left, right.T)[1:, 1:]


@dataclass(frozen=True)
class _Fit:
    """How an image is resized to cover a size, then cropped: sides equally, and the sky before the road."""

    full: tuple[int, int]
    """Height and width before it is cropped."""
    top: int
    left: int
    size: tuple[int, int]
    """Height and width after."""
    matrix: Float[np.ndarray, "3 3"]
    """From its pixels before to its pixels after. Pixel (0, 0) has its edge at 0."""

    @classmethod
    def of(cls, image: tuple[int, ...], size: tuple[int, int], cropped_later: ImageAugmentSpec | None) -> Self:
        """How an image of a height and width is made to fit, or only resized where it is cropped later."""
        scale = (cropped_later or ImageAugmentSpec()).largest(image, size)
        full = round(image[0] * scale), round(image[1] * scale)
        if cropped_later is None or cropped_later.resize is None:
            full = max(size[0], full[0]), max(size[1], full[1])
        matrix = np.diag([full[1] / image[1], full[0] / image[0], 1.0])
        if cropped_later is not None:
            return cls(full, 0, 0, full, matrix)
        top, left = full[0] - size[0], (full[1] - size[1]) // 2
        matrix[:2, 2] = -left, -top
        return cls(full, top, left, size, matrix)

    def cut(self, image: UInt8[np.ndarray, "h w *rgb"]) -> UInt8[np.ndarray, "h_out w_out *rgb"]:
        """What is left of a resized image."""
        return image[self.top : self.top + self.size[0], self.left : self.left + self.size[1]]
