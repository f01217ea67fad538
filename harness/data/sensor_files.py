"""Reads sensor files as arrays: JPEG images, LiDAR `.pcd.bin` and RADAR `.pcd`; damaged ones raise an error."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from harness.errors import InputError, input_error_on_os_error

LIDAR_BYTES = 20
"""A LiDAR point is x, y, z, intensity and ring, each a float32."""
_LIDAR_LAYOUT = "expected float32 of five columns, x, y, z, intensity and ring"
_RADAR_KINDS = {
    **dict.fromkeys(("x", "y", "z"), "<f4"),
    "dyn_prop": "i1",
    "id": "<i2",
    **dict.fromkeys(("rcs", "vx", "vy", "vx_comp", "vy_comp"), "<f4"),
    **dict.fromkeys(("is_quality_valid", "ambig_state", "x_rms", "y_rms"), "i1"),
    **dict.fromkeys(("invalid_state", "pdh0", "vx_rms", "vy_rms"), "i1"),
}
RADAR_FIELDS = np.dtype(list(_RADAR_KINDS.items()))
"""The 18 fields of a nuScenes RADAR return, packed.

Sensor frame: x forward, y left, metres; velocities m/s, `_comp` with the ego motion taken out; rcs in dBsm. The rest
are states of the sensor's own processing, as the devkit's `RadarPointCloud` explains them.
"""
LFS_POINTER = b"version https://git-lfs"
_POINTER_BYTES = 1024
"""No git-LFS pointer is longer, so only files that are shorter need a look inside."""


def check_file(path: Path, what: str) -> None:
    """Raise InputError if a file is missing, empty or a git-LFS pointer. This is cheap enough for a whole dataset.

    Args:
        path: A table or a sensor file.
        what: The expected content, for the message.
    """
    with input_error_on_os_error(f"{path} cannot be read", f"; expected {what}"):  # such as a name that is too long
        if not path.is_file():
            raise InputError(f"{path} is missing; expected {what}")
        size = path.stat().st_size
    if not size:
        raise InputError(f"{path} is empty; expected {what}")
    if size < _POINTER_BYTES and path.read_bytes().startswith(LFS_POINTER):
        raise InputError(
            f"{path} is a git-LFS pointer, not {what}: fetch the real file, for example with `git lfs pull`"
        )


def check_sensor_file(path: Path, modality: str, what: str) -> None:
    """Check a file as `check_file` does; a LiDAR sweep must also have a whole number of points."""
    check_file(path, what)
    if modality == "lidar":
        _check_lidar_size(path, path.stat().st_size)


@dataclass(frozen=True)
class ImageFile:
    """The content of a JPEG file, complete but not decoded."""

    path: Path
    content: bytes

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, as its header says; raises InputError where that is damaged."""
        try:
            with Image.open(BytesIO(self.content)) as header:
                return header.height, header.width
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(self._damaged) from error

    def pixels(self, reduction: int = 1) -> UInt8[np.ndarray, "h w 3"]:
        """The image, RGB, decoded at its own size, or at a half or a quarter of it (rounded up)."""
        # Calibrations know of no orientation tag, and the devkit ignores it, too.
        flags = _REDUCTIONS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(self.content, np.uint8), flags)
        if image is None:
            raise InputError(self._damaged)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def resized(self, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
        """The image, RGB, as if each pixel of the result were the mean over its area.

        Where a half or a quarter of the image's size is enough, it is decoded at that, which the JPEG format allows:
        most of the work falls away, and the result differs with a PSNR above 35 dB. Else the result is exact.
        """
        height_in, width_in = self.size
        enough = [n for n in _REDUCTIONS if -(-height_in // n) >= height and -(-width_in // n) >= width]
        reduction = max(enough, default=1)
        image = self.pixels(reduction)
        if image.shape[:2] == (height, width):
            return image
        # Between neighbours of an image that is less than twice as large, the mean over an area is not worth its time.
        is_near = reduction > 1 and image.shape[0] < 2 * height and image.shape[1] < 2 * width
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR if is_near else cv2.INTER_AREA)

    def check_size(self, row: Mapping[str, Any]) -> None:
        """Raise InputError if its size differs from that in its sample_data row, and so of its calibration."""
        _check_size(self.path, self.size, row)

    @property
    def _damaged(self) -> str:
        return f"{self.path} cannot be read as a JPEG image: it is truncated or damaged"


_REDUCTIONS = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
"""By what the decoder divides the size. At an eighth it would keep the mean of each block of 8 x 8 pixels only."""


def open_image(path: Path) -> ImageFile:
    """A JPEG file; raises InputError where it is not there, none, or cut off."""
    content = _content(path, "a JPEG image")
    if not content.startswith(b"\xff\xd8"):
        raise InputError(f"{path} is not a JPEG image: it begins with {content[:8]!r}")
    file = ImageFile(path, content)
    # OpenCV pads what is cut off with grey and says nothing.
    if not content.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise InputError(file._damaged)
    return file


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """A JPEG image, RGB, as large as it is."""
    return open_image(path).pixels()


def check_image_size(path: Path, image: UInt8[np.ndarray, "h w 3"], row: Mapping[str, Any]) -> None:
    """Raise InputError if the size of a whole image differs from that in its sample_data row."""
    _check_size(path, image.shape[:2], row)


def _check_size(path: Path, size: tuple[int, ...], row: Mapping[str, Any]) -> None:
    height, width = size
    stated = (row.get("width") or width, row.get("height") or height)
    if (width, height) != stated:
        raise InputError(
            f"{path} has {width} x {height} pixels, but {stated[0]} x {stated[1]} by sample_data.json; "
            "its calibration is for that size only"
        )


def read_lidar(path: Path) -> Float[np.ndarray, "p 5"]:
    """A LiDAR sweep: x, y, z (sensor frame, metres), intensity in [0, 255], ring."""
    content = _content(path, "a LiDAR sweep")
    _check_lidar_size(path, len(content))
    points = np.frombuffer(content, dtype=np.float32).reshape(-1, 5)
    intensity, ring = points[:, 3], points[:, 4]
    # A file of other columns, or of doubles, may have the size of whole points.
    if not np.isfinite(points).all():
        raise InputError(f"{path} contains NaN or infinity; {_LIDAR_LAYOUT}")
    with np.errstate(invalid="ignore"):
        is_ring = ring.astype(np.uint8) == ring
    if not is_ring.all():
        raise InputError(f"{path} has rings that are not whole numbers from 0 to 255; {_LIDAR_LAYOUT}")
    if len(points) and not (intensity.min() >= 0 and intensity.max() <= 255):
        raise InputError(f"{path} has intensities outside of 0 to 255; {_LIDAR_LAYOUT}")
    return points


def _check_lidar_size(path: Path, size: int) -> None:
    if size % LIDAR_BYTES:
        raise InputError(f"{path} is truncated: {size} bytes are not a whole number of points of {LIDAR_BYTES} bytes")


def read_radar(path: Path) -> np.ndarray:
    """A RADAR sweep: a structured array of `RADAR_FIELDS`, unfiltered; raises InputError for any other layout."""
    content = _content(path, "a RADAR sweep (binary PCD)")
    header, mark, body = content.partition(b"DATA binary\n")
    lines = dict(line.split(" ", 1) for line in header.decode("ascii", "replace").splitlines() if " " in line)
    wanted = _radar_layout()
    if not mark or {key: lines.get(key) for key in wanted} != wanted:
        raise InputError(f"{path} is not a binary PCD with the 18 fields of a nuScenes RADAR: {' '.join(_RADAR_KINDS)}")
    count = _announced(path, lines)
    if len(body) < count * RADAR_FIELDS.itemsize:
        raise InputError(
            f"{path} is truncated: its header announces {count} points of {RADAR_FIELDS.itemsize} bytes, "
            f"but {len(body)} bytes follow"
        )
    returns = np.frombuffer(body, RADAR_FIELDS, count=count)
    # nuScenes writes a sweep without returns as one return of NaNs: PCD cannot be empty.
    if len(returns) and any(map(math.isnan, returns[0].item())):
        return returns[:0]
    if not all(np.isfinite(returns[name]).all() for name in ("x", "y", "z", "rcs", "vx_comp", "vy_comp")):
        raise InputError(f"{path} contains NaN or infinity")
    return returns


def _announced(path: Path, lines: Mapping[str, str]) -> int:
    """Return the number of points in a PCD's header, which may be in several rows."""
    size = {key: lines.get(key, "").strip() for key in ("WIDTH", "HEIGHT", "POINTS")}
    if not all(re.fullmatch(r"[0-9]{1,12}", text) for text in size.values()):
        raise InputError(f"{path} is truncated: its header lacks a whole number for WIDTH, HEIGHT or POINTS")
    width, height, points = map(int, size.values())
    if width * height != points:
        raise InputError(f"{path} has a contradictory header: WIDTH {width} x HEIGHT {height} is not POINTS {points}")
    return points


def encode_radar(returns: np.ndarray) -> bytes:
    """A structured array of `RADAR_FIELDS` as the content of a file that nuScenes' devkit reads."""
    if returns.dtype != RADAR_FIELDS:
        raise ValueError(f"returns have the fields {returns.dtype}; allowed: {RADAR_FIELDS}")
    if not len(returns):
        returns = np.zeros(1, RADAR_FIELDS)
        for name in ("x", "y", "z"):
            returns[name] = np.nan
    count = len(returns)
    header = {**_radar_layout(), "WIDTH": count, "HEIGHT": 1, "VIEWPOINT": "0 0 0 1 0 0 0", "POINTS": count}
    lines = "".join(f"{key} {value}\n" for key, value in header.items())
    # The devkit insists on at least one byte after the last point.
    return f"# .PCD v0.7 - Point Cloud Data file format\n{lines}DATA binary\n".encode() + returns.tobytes() + b"\n"


def _radar_layout() -> dict[str, str]:
    kinds = [RADAR_FIELDS[name] for name in _RADAR_KINDS]
    return {
        "VERSION": "0.7",
        "FIELDS": " ".join(_RADAR_KINDS),
        "SIZE": " ".join(str(kind.itemsize) for kind in kinds),
        "TYPE": " ".join("F" if kind.kind == "f" else "I" for kind in kinds),
        "COUNT": " ".join("1" for _ in kinds),
    }


def _content(path: Path, what: str) -> bytes:
    check_file(path, what)
    with input_error_on_os_error(f"{path} cannot be read", f"; expected {what}"):
        return path.read_bytes()


READERS = {"camera": read_image, "lidar": read_lidar, "radar": read_radar}
"""By the modality that the sensor table names."""
