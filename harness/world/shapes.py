"""Shapes of the synthetic world's classes: sizes, cuboid parts and textures, without colours."""

from dataclasses import dataclass
from typing import Literal

Paint = Literal["body", "accent", "dark"]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Texture:
    """Stripes on a cuboid's sides: where both stripe waves are on, `second` replaces the part's paint."""

    columns: int = 1
    """Stripes over the width of a side."""
    column_duty: float = 0.0
    """Share of a column that is painted; 0 paints nothing."""
    rows: int = 1
    row_duty: float = 1.0
    slant: float = 0.0
    """Columns that a stripe moves sideways from the lower to the upper edge."""
    band: Bounds = (0.0, 1.0)
    """Lower and upper end of the painted band, as shares of the height."""
    second: Paint = "dark"


PLAIN = Texture()
GLASS = Texture(columns=1, column_duty=0.92, band=(0.1, 0.8))
WINDOWS = Texture(columns=7, column_duty=0.8, band=(0.42, 0.8))
RIBS = Texture(columns=16, column_duty=0.35)
TREAD = Texture(columns=10, column_duty=0.5, second="accent")
BANDS = Texture(columns=1, column_duty=1.0, rows=1, row_duty=0.5, second="accent")
CHEVRONS = Texture(columns=6, column_duty=0.5, slant=1.0, second="accent")
FACADE = Texture(columns=8, column_duty=0.55, rows=5, row_duty=0.55)


@dataclass(frozen=True)
class Part:
    """An upright cuboid in shares of its object's box: x forward and y left in [-0.5, 0.5], z up in [0, 1]."""

    x: Bounds
    y: Bounds
    z: Bounds
    paint: Paint = "body"
    texture: Texture = PLAIN


def _axle(x: float, height: float, half_length: float = 0.06) -> Part:
    """Two wheels as one bar across the whole width."""
    return Part((x - half_length, x + half_length), (-0.5, 0.5), (0.0, height), "dark")


_CAR = (
    Part((-0.5, 0.5), (-0.48, 0.48), (0.17, 0.58)),
    Part((-0.34, 0.2), (-0.43, 0.43), (0.58, 1.0), "body", GLASS),
    _axle(-0.31, 0.38, 0.08),
    _axle(0.31, 0.38, 0.08),
)
_TRUCK = (
    Part((0.22, 0.5), (-0.46, 0.46), (0.14, 0.82), "accent", Texture(column_duty=0.9, band=(0.5, 0.88))),
    Part((-0.5, 0.18), (-0.5, 0.5), (0.24, 1.0)),
    Part((-0.48, 0.48), (-0.3, 0.3), (0.13, 0.24), "dark"),
    _axle(-0.32, 0.27, 0.07),
    _axle(0.34, 0.27, 0.07),
)
_BUS = (
    Part((-0.5, 0.5), (-0.5, 0.5), (0.1, 1.0), "body", WINDOWS),
    Part((0.3, 0.4), (-0.5, -0.3), (0.1, 0.75), "dark"),
    _axle(-0.28, 0.24, 0.045),
    _axle(0.33, 0.24, 0.045),
)
_TRAILER = (
    Part((-0.5, 0.36), (-0.5, 0.5), (0.32, 1.0), "body", RIBS),
    Part((-0.5, 0.5), (-0.42, 0.42), (0.24, 0.32), "dark"),
    _axle(-0.4, 0.24, 0.04),
    _axle(-0.3, 0.24, 0.04),
    Part((0.22, 0.26), (-0.35, 0.35), (0.0, 0.24), "dark"),
)
_CONSTRUCTION_VEHICLE = (
    Part((-0.5, 0.12), (-0.5, 0.5), (0.0, 0.25), "dark", TREAD),
    Part((-0.48, -0.05), (-0.42, 0.42), (0.25, 0.66)),
    Part((-0.1, 0.14), (0.0, 0.42), (0.25, 0.86), "body", GLASS),
    Part((-0.08, 0.08), (-0.2, -0.02), (0.4, 1.0), "accent"),
    Part((0.08, 0.46), (-0.2, -0.02), (0.86, 1.0), "accent"),
    Part((0.38, 0.46), (-0.2, -0.02), (0.2, 0.86), "accent"),
    Part((0.32, 0.5), (-0.32, 0.1), (0.0, 0.22), "dark"),
)
_PEDESTRIAN = (
    Part((0.0, 0.5), (-0.24, -0.02), (0.0, 0.47), "accent"),
    Part((-0.5, 0.0), (0.02, 0.24), (0.0, 0.47), "accent"),
    Part((-0.2, 0.2), (-0.32, 0.32), (0.45, 0.84)),
    Part((-0.14, 0.14), (-0.5, -0.34), (0.42, 0.82)),
    Part((-0.14, 0.14), (0.34, 0.5), (0.42, 0.82)),
    Part((-0.15, 0.15), (-0.16, 0.16), (0.86, 1.0), "dark"),
)
_MOTORCYCLE = (
    Part((-0.5, -0.2), (-0.14, 0.14), (0.0, 0.5), "dark"),
    Part((0.2, 0.5), (-0.14, 0.14), (0.0, 0.5), "dark"),
    Part((-0.36, 0.26), (-0.26, 0.26), (0.22, 0.72)),
    Part((0.14, 0.22), (-0.5, 0.5), (0.86, 1.0), "dark"),
    Part((0.14, 0.26), (-0.08, 0.08), (0.5, 0.86), "accent"),
)
_MOTORCYCLE_RIDDEN = (
    Part((-0.5, -0.2), (-0.14, 0.14), (0.0, 0.34), "dark"),
    Part((0.2, 0.5), (-0.14, 0.14), (0.0, 0.34), "dark"),
    Part((-0.36, 0.26), (-0.26, 0.26), (0.16, 0.5)),
    Part((0.14, 0.22), (-0.5, 0.5), (0.56, 0.63), "dark"),
    Part((-0.22, 0.04), (-0.3, 0.3), (0.48, 0.84), "accent"),
    Part((-0.12, 0.06), (-0.17, 0.17), (0.84, 1.0), "dark"),
)
_BICYCLE = (
    Part((-0.5, -0.14), (-0.07, 0.07), (0.0, 0.62), "dark", Texture(columns=3, column_duty=0.5, second="accent")),
    Part((0.14, 0.5), (-0.07, 0.07), (0.0, 0.62), "dark", Texture(columns=3, column_duty=0.5, second="accent")),
    Part((-0.3, 0.3), (-0.05, 0.05), (0.58, 0.68)),
    Part((0.2, 0.26), (-0.5, 0.5), (0.92, 1.0), "dark"),
    Part((0.2, 0.26), (-0.05, 0.05), (0.62, 0.92)),
    Part((-0.28, -0.16), (-0.14, 0.14), (0.8, 0.88), "dark"),
)
_BICYCLE_RIDDEN = (
    Part((-0.5, -0.14), (-0.07, 0.07), (0.0, 0.4), "dark", Texture(columns=3, column_duty=0.5, second="accent")),
    Part((0.14, 0.5), (-0.07, 0.07), (0.0, 0.4), "dark", Texture(columns=3, column_duty=0.5, second="accent")),
    Part((-0.3, 0.3), (-0.05, 0.05), (0.36, 0.44)),
    Part((0.2, 0.26), (-0.5, 0.5), (0.56, 0.62), "dark"),
    Part((-0.12, 0.08), (-0.2, 0.2), (0.2, 0.52), "accent"),
    Part((-0.2, 0.08), (-0.3, 0.3), (0.5, 0.84)),
    Part((-0.06, 0.12), (-0.17, 0.17), (0.85, 1.0), "dark"),
)
_TRAFFIC_CONE = (
    Part((-0.5, 0.5), (-0.5, 0.5), (0.0, 0.06), "dark"),
    Part((-0.34, 0.34), (-0.34, 0.34), (0.06, 0.36), "body", BANDS),
    Part((-0.23, 0.23), (-0.23, 0.23), (0.36, 0.7), "body", BANDS),
    Part((-0.12, 0.12), (-0.12, 0.12), (0.7, 1.0), "body", BANDS),
)
_BARRIER = (
    Part((-0.14, 0.14), (-0.5, 0.5), (0.62, 1.0), "body", CHEVRONS),
    Part((-0.14, 0.14), (-0.5, 0.5), (0.24, 0.48), "body", CHEVRONS),
    Part((-0.5, 0.5), (-0.42, -0.36), (0.0, 0.62), "dark"),
    Part((-0.5, 0.5), (0.36, 0.42), (0.0, 0.62), "dark"),
)


@dataclass(frozen=True)
class Kind:
    """A detection class: its nuScenes category, its mean box (width, length, height in metres) and its parts."""

    category: str
    size: tuple[float, float, float]
    spread: float
    """Standard deviation of each dimension's logarithm."""
    rcs: float
    """Mean radar cross section of its sides, dBsm."""
    parts: tuple[Part, ...]
    ridden: tuple[Part, ...] = ()
    """Parts with a rider, for the classes that have one."""


# Mean sizes are close to those of the nuScenes training set, which public detectors use as anchors.
KINDS = {
    "car": Kind("vehicle.car", (1.95, 4.62, 1.73), 0.07, 9.0, _CAR),
    "truck": Kind("vehicle.truck", (2.51, 6.93, 2.84), 0.1, 14.0, _TRUCK),
    "construction_vehicle": Kind("vehicle.construction", (2.8, 6.4, 3.2), 0.1, 12.0, _CONSTRUCTION_VEHICLE),
    "bus": Kind("vehicle.bus.rigid", (2.94, 11.0, 3.45), 0.07, 15.0, _BUS),
    "trailer": Kind("vehicle.trailer", (2.9, 11.6, 3.8), 0.1, 14.0, _TRAILER),
    "barrier": Kind("movable_object.barrier", (2.5, 0.5, 0.98), 0.08, 0.0, _BARRIER),
    "motorcycle": Kind("vehicle.motorcycle", (0.77, 2.1, 1.45), 0.07, 3.0, _MOTORCYCLE, _MOTORCYCLE_RIDDEN),
    "bicycle": Kind("vehicle.bicycle", (0.6, 1.7, 1.3), 0.07, -2.0, _BICYCLE, _BICYCLE_RIDDEN),
    "pedestrian": Kind("human.pedestrian.adult", (0.67, 0.73, 1.77), 0.08, -8.0, _PEDESTRIAN),
    "traffic_cone": Kind("movable_object.trafficcone", (0.41, 0.41, 1.07), 0.1, -12.0, _TRAFFIC_CONE),
}
BUILDING = (Part((-0.5, 0.5), (-0.5, 0.5), (0.0, 1.0), "body", FACADE),)
CLUTTER = (Part((-0.5, 0.5), (-0.5, 0.5), (0.0, 1.0)),)
BIG_REFLECTORS = ("truck", "bus", "trailer", "construction_vehicle", "building")
"""What RADARs see mirror images in."""
