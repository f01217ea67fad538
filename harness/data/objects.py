"""A database of the annotated objects of training samples with their LiDAR returns, from which others are pasted.

It lies in the cache folder, `crossbev/objects`, and is made on first use. It may be deleted at any time.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from detectors.batch import Inputs
from detectors.geometry.boxes import Boxes
from harness.data.index.array_file import map_arrays, new_arrays
from harness.data.nuscenes import read
from harness.data.processes import made
from harness.data.root import NuScenesRoot
from harness.errors import input_error_on_os_error
from harness.runs.folder import atomic_write
from harness.runs.locks import FileLock

FORMAT = 1
"""Of the files: those of another one are made anew."""
_MANIFEST = "manifest.json"
"""Written last: without it some parts may be missing."""
_PART = 128
"""Samples of a file."""
_COLUMNS = 5
"""Of a return, as in `Sample.lidar`: it lies where it lay."""


def returns_in(boxes: Boxes, index: int, lidar: Float[np.ndarray, "p 5"]) -> Int[np.ndarray, " inside"]:
    """Which returns lie in a box or on its border.

    Args:
        boxes: Of one sample.
        index: Of the box.
        lidar: As in `Sample`.
    """
    (x, y, z), (length, width, height) = boxes.center[index].tolist(), boxes.size[index].tolist()
    cos, sin = math.cos(boxes.yaw[index]), math.sin(boxes.yaw[index])
    # Most of a scan is far away from any one box.
    reach = math.hypot(length, width) / 2 + 1e-3
    near = np.flatnonzero((np.abs(lidar[:, 0] - x) <= reach) & (np.abs(lidar[:, 1] - y) <= reach))
    right, ahead, up = lidar[near, :3].astype(np.float64).T - np.array([[x], [y], [z]])
    is_inside = np.abs(cos * right + sin * ahead) <= length / 2
    is_inside &= np.abs(cos * ahead - sin * right) <= width / 2
    return near[is_inside & (np.abs(up) <= height / 2)]


@dataclass(frozen=True)
class _Part:
    """A file of objects, mapped."""

    returns: Float[np.ndarray, "p 5"]
    starts: Int[np.ndarray, " objects_and_1"]
    box: Float[np.ndarray, "objects 9"]
    label: Int[np.ndarray, " objects"]


class Objects:
    """The objects of some samples. `make` has to be called before any of them is asked for.

    Args:
        root: The dataset.
        tokens: Its samples.
        inputs: What a detector reads of them. The returns are those of its nearest sweeps, in its frame.
    """

    def __init__(self, root: NuScenesRoot, tokens: Sequence[str], inputs: Inputs) -> None:
        self._root, self._tokens = root, list(tokens)
        self._inputs = Inputs(
            bev_frame=inputs.bev_frame,
            lidar_sweeps=inputs.lidar_sweeps,
            lidar_fill=inputs.lidar_fill,
            lidar_near=inputs.lidar_near,
        )
        of = {
            "format": FORMAT,
            "root": root.state(),
            "tokens": self._tokens,
            "frame": self._inputs.bev_frame,
            "sweeps": [self._inputs.lidar_sweeps, self._inputs.lidar_fill, self._inputs.lidar_near],
        }
        self._name = hashlib.sha256(json.dumps(of).encode()).hexdigest()[:24]
        self._folder = platformdirs.user_cache_path("crossbev") / "objects" / self._name

    def make(self, stop: Callable[[], bool] = lambda: False, workers: int = 0) -> bool:
        """Read the samples, where that was not done before; one training does it, and others wait.

        Args:
            stop: Asked between parts. What is there by then is not read again.
            workers: Processes that read; 0: this one does.

        Returns:
            Whether the database is there; False if `stop` said so.

        Raises:
            InputError: The cache folder cannot be written to; or a sensor file is missing or damaged.
        """
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / "lock"):
                if not self._is_there():
                    missing = [number for number in range(self._parts) if self._arrays(number) is None]
                    for _ in made(self._write, missing, workers):
                        if stop():
                            return False
                    counts = np.bincount(self._small[1]).tolist()
                    manifest = {"name": self._name, "parts": self._parts, "objects": counts}
                    atomic_write(self._folder / _MANIFEST, json.dumps(manifest).encode())
        _ = self.boxes  # before processes are forked, which then share it
        return True

    def _writing(self) -> AbstractContextManager[None]:
        return input_error_on_os_error(f"objects to paste cannot be stored in {self._folder}")

    @property
    def _parts(self) -> int:
        return -(-len(self._tokens) // _PART)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05d}.objects"

    def _header(self, number: int) -> dict[str, Any]:
        return {"name": self._name, "part": number}

    def _arrays(self, number: int) -> dict[str, memoryview] | None:
        """A part, mapped; None where it is not there, or torn."""
        return map_arrays(self._path(number), self._header(number))

    def _is_there(self) -> bool:
        try:
            manifest = json.loads((self._folder / _MANIFEST).read_bytes())
        except (OSError, ValueError):
            return False
        # A part may have been torn or deleted since.
        return bool(manifest.get("parts") == self._parts) and all(
            self._arrays(number) is not None for number in range(self._parts)
        )

    def _write(self, number: int) -> int:
        """Read some samples and write their objects; return the number of the part."""
        with self._writing(), new_arrays(self._path(number), self._header(number)) as writer:
            writer.append_lists("returns", np.empty(0, "f"), [])
            for name, kind in (("box", "f"), ("label", "q")):
                writer.append(name, np.empty(0, kind))
            for token in self._tokens[number * _PART : (number + 1) * _PART]:
                sample = read(self._root, token, self._inputs)
                assert sample.lidar is not None
                lidar = sample.lidar.numpy()
                boxes = sample.boxes
                rows = torch.cat([boxes.center, boxes.size, boxes.yaw[:, None], boxes.velocity], dim=1).numpy()
                for index, row in enumerate(rows):
                    inside = returns_in(boxes, index, lidar)
                    if len(inside):
                        writer.append_lists("returns", lidar[inside].ravel(), [_COLUMNS * len(inside)])
                        writer.append("box", row)
                        writer.append("label", boxes.label[index : index + 1].numpy())
        return number

    @cached_property
    def _mapped(self) -> list[_Part]:
        parts = []
        for number in range(self._parts):
            arrays = self._arrays(number)
            assert arrays is not None, f"{self._path(number)} has not been made"
            read_ = {name: np.asarray(array) for name, array in arrays.items()}
            parts.append(
                _Part(
                    read_["returns"].reshape(-1, _COLUMNS),
                    read_["returns starts"] // _COLUMNS,
                    read_["box"].reshape(-1, 9),
                    read_["label"].astype(np.int64),
                )
            )
        return parts

    @cached_property
    def _small(self) -> tuple[Tensor, Tensor, np.ndarray]:
        """Boxes, classes and numbers of returns of all objects."""
        boxes = np.concatenate([part.box for part in self._mapped])
        labels = np.concatenate([part.label for part in self._mapped])
        counts = np.concatenate([np.diff(part.starts) for part in self._mapped])
        return torch.from_numpy(boxes), torch.from_numpy(labels), counts

    @cached_property
    def boxes(self) -> Boxes:
        """Of all objects, where they stood."""
        box, label, _ = self._small
        center, size, yaw, velocity = box.split([3, 3, 1, 2], dim=1)
        return Boxes(center, size, yaw[:, 0], velocity, label, torch.ones(len(label)))

    @cached_property
    def _first_of_part(self) -> Int[np.ndarray, " parts"]:
        sizes = [len(part.label) for part in self._mapped]
        return np.cumsum([0, *sizes[:-1]])

    def of_class(self, label: int, min_returns: int) -> Int[Tensor, " objects"]:
        """Numbers of the objects of a class that have at least so many returns."""
        key = label, min_returns
        if key not in self._of_class:
            _, labels, counts = self._small
            self._of_class[key] = ((labels == label) & torch.from_numpy(counts >= min_returns)).nonzero()[:, 0]
        return self._of_class[key]

    @cached_property
    def _of_class(self) -> dict[tuple[int, int], Tensor]:
        return {}

    def returns(self, number: int) -> Float[Tensor, "p 5"]:
        """The returns of an object where it stood."""
        place = int(np.searchsorted(self._first_of_part, number, side="right")) - 1
        part, within = self._mapped[place], number - int(self._first_of_part[place])
        return torch.from_numpy(part.returns[part.starts[within] : part.starts[within + 1]].copy())
