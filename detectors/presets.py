"""Named detector specs that a study may use and change. `crossbev presets` lists them.

``python -m detectors.presets`` shows what they cost, beside what is published of the papers' networks.
"""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from detectors.camera_presets import CAMERA_PRESETS
from detectors.detector import DetectorSpec
from detectors.encoders.bev_neck import BevNeckSpec
from detectors.encoders.camera import CameraSpec
from detectors.encoders.fusion import FusionSpec
from detectors.encoders.image import ImageSpec, SwinSpec
from detectors.encoders.lidar import LidarSpec
from detectors.encoders.radar import RadarSpec
from detectors.encoders.resnet import ResNetSpec
from detectors.geometry.grid import BevGrid
from detectors.heads.center import BOX_CODE, CenterHeadSpec
from detectors.heads.instance_mask import InstanceMaskSpec
from detectors.lidar_presets import LIDAR_PRESETS
from detectors.names import named
from detectors.segmenter import SegmenterSpec

# The tiny detectors train in minutes on one core; teacher and student differ in their encoders alone.
_TINY_GRID = BevGrid(x_range=(-16.0, 16.0), y_range=(-16.0, 16.0), z_range=(-3.0, 5.0), cell=0.8)
_TINY_LOW_CHANNELS = 64
_TINY_NECK = BevNeckSpec(fine_width=32, coarse_width=80, coarse_depth=3)
# Chosen on synthetic_tune (studies/README.md): a LiDAR learns velocities only where they weigh, and where boxes have
# features of their own they do not weigh on the heatmaps.
_TINY_HEAD = CenterHeadSpec(
    width=40,
    box_width=48,
    box_weight=0.4,
    targets="gaussian_nearest",
    code_weights=tuple(2.0 if name.startswith("velocity") else 1.0 for name in BOX_CODE),
)
# The neck mixes neighbours well enough; a larger kernel would cost as much as all of it.
_TINY_FUSION = FusionSpec(channels=_TINY_LOW_CHANNELS, kernel=1)

_TINY_CAMERA = CameraSpec(
    image_size=(80, 224),
    image=ImageSpec(backbone=ResNetSpec(stem_width=16, widths=(24, 48, 96, 128), depths=(1, 1, 1, 1)), channels=64),
    # To the corners of the grid.
    depth_range=(1.0, 23.0),
    depth_bins=44,
    channels=_TINY_LOW_CHANNELS,
)
_TINY_LIDAR = LidarSpec(
    sweeps=2,
    # Half the time between two sweeps of the embedded world.
    age_unit=0.125,
    voxels_per_cell=2,
    height_bins=16,
    widths=(16, 32, 48),
    depths=(1, 2, 1),
    channels=_TINY_LOW_CHANNELS,
)
_TINY_RADAR = RadarSpec(sweeps=3, width=32, depth=2, channels=_TINY_LOW_CHANNELS)


def _tiny(
    camera: CameraSpec | None = None, lidar: LidarSpec | None = None, radar: RadarSpec | None = None
) -> DetectorSpec:
    sensors = sum(encoder is not None for encoder in (camera, lidar, radar))
    return DetectorSpec(
        grid=_TINY_GRID,
        camera=camera,
        lidar=lidar,
        radar=radar,
        fusion=_TINY_FUSION if sensors > 1 else None,
        neck=_TINY_NECK,
        head=_TINY_HEAD,
    )


TINY_PRESETS = {
    "tiny_camera": _tiny(camera=_TINY_CAMERA),
    "tiny_lidar": _tiny(lidar=_TINY_LIDAR),
    "tiny_radar": _tiny(radar=_TINY_RADAR),
    "tiny_camera_lidar": _tiny(camera=_TINY_CAMERA, lidar=_TINY_LIDAR),
    "tiny_camera_radar": _tiny(camera=_TINY_CAMERA, radar=_TINY_RADAR),
}
PRESETS = TINY_PRESETS | CAMERA_PRESETS | LIDAR_PRESETS
"""Detectors by name; those of the papers are at full size."""

ENTRY_POINTS = "crossbev.presets"
"""The group of entry points in which an installed package offers detectors by a short name."""


def preset(name: str) -> DetectorSpec:
    """The detector that a study names: a key of PRESETS, an entry point of ENTRY_POINTS, or ``package.module:SPEC``.

    Raises:
        ValueError: There is none of that name; the message says what is allowed.
    """
    return named("preset", name, PRESETS, ENTRY_POINTS, lambda value: isinstance(value, DetectorSpec), "a DetectorSpec")


_TINY_MASKS = InstanceMaskSpec(width=64)
SEGMENTERS = {
    "tiny_segmenter": SegmenterSpec(
        image_size=(160, 288),
        image=ImageSpec(backbone=ResNetSpec(stem_width=16, widths=(24, 48, 96, 128), depths=(1, 1, 1, 1)), channels=64),
        head=_TINY_MASKS,
    ),
    "tiny_segmenter_swin": SegmenterSpec(
        image_size=(160, 288),
        image=ImageSpec(
            backbone=SwinSpec(width=24, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=5, drop_path=0.0), channels=64
        ),
        head=_TINY_MASKS,
    ),
}
"""Image teachers; their images are larger than the tiny cameras', as X3KD's are."""


PUBLISHED: Mapping[str, tuple[int | None, float | None, str]] = {
    "bevdet_r50": (47_975_297, 175.8, "derived from BEVDet's configuration"),
    "bevdepth_r50": (75_752_270, 241.8, "derived from BEVDepth's configuration"),
    "bevdepth_r50_2key": (76_384_590, 447.0, "derived from BEVDepth's configuration"),
    "bevdepth_r50_4key": (77_649_230, None, "derived; CRN publishes 77.6 M"),
    "bevdepth_r50_512x1408": (76_384_590, None, "derived from BEVDepth's configuration"),
    "x3kd_r50": (76_384_590, 447.0, "that of BEVDepth with two keyframes"),
    "x3kd_r101_640x1600": (95_376_718, None, "that of BEVDepth with two keyframes and ResNet-101"),
    "unidistill_camera": (32_136_008, 217.9, "derived from UniDistill's configuration"),
    "unidistill_lidar": (9_167_400, None, "derived from UniDistill's configuration"),
    "unidistill_camera_lidar": (36_274_136, None, "derived from UniDistill's configuration"),
    "centerpoint_voxel01": (8_938_262, None, "derived from mmdetection3d's configuration"),
    "centerpoint_voxel0075": (8_938_262, None, "derived from mmdetection3d's configuration"),
    "centerpoint_pillar02": (5_982_854, None, "derived from mmdetection3d's configuration"),
}
"""Parameters, thousands of millions of multiply-adds, and whose figures these are."""


def main() -> None:
    """Print what each preset costs."""
    parser = argparse.ArgumentParser(prog="python -m detectors.presets", description=main.__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, a list of objects")
    as_json = parser.parse_args().json
    # Imported where it is needed: it makes detectors without memory, for which torch loads its compiler.
    from detectors.budget import budget

    rows: list[dict[str, Any]] = []
    for name, spec in PRESETS.items():
        cost = budget(spec)
        parameters, gmacs, source = PUBLISHED.get(name, (None, None, ""))
        rows.append(
            {
                "name": name,
                "parameters": cost.parameters,
                "gmacs": round(cost.gmacs, 1),
                "activation_bytes": cost.activations,
                "parts": cost.parts,
                "without": list(cost.sparse),
                "published_parameters": parameters,
                "published_gmacs": gmacs,
                "published_by": source,
            }
        )
    print(json.dumps(rows, indent=1) if as_json else _table(rows))


def _table(rows: list[dict[str, Any]]) -> str:
    """Columns of text, and below them what they mean."""
    cells = [("preset", "parameters", "published", "GMAC", "published", "activations", "parts (millions)")]
    for row in rows:
        parts = ", ".join(f"{name} {count / 1e6:.2f}" for name, count in row["parts"].items())
        gmacs = f"{row['gmacs']:,.1f}{'*' if row['without'] else ''}"
        activations = f"{row['activation_bytes'] / 2**30:.2f} GiB{'*' if row['without'] else ''}"
        there = row["published_parameters"], row["published_gmacs"]
        published = [f"{number:,}" if number else "" for number in there]
        cells.append((row["name"], f"{row['parameters']:,}", published[0], gmacs, published[1], activations, parts))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]) - 1)]
    lines = []
    for name, *numbers, parts in cells:
        aligned = [name.ljust(widths[0]), *(each.rjust(width) for each, width in zip(numbers, widths[1:], strict=True))]
        lines.append("  ".join([*aligned, parts]))
    return "\n".join(
        [
            *lines,
            "",
            "GMAC: multiply-adds of a sample's forward pass. Activations: what a training step of one sample holds.",
            "* without the LiDAR's or RADAR's encoder, whose operations depend on the points.",
        ]
    )


if __name__ == "__main__":
    main()
