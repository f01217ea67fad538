"""Alignment: linear CKA of two detectors' BEV maps, in the foreground and in the background.

CKA is that of Kornblith et al. (Similarity of Neural Network Representations Revisited, ICML 2019): with X (n, p) and
Y (n, q) the centred features of the same n cells, it is ``|Y'X|^2 / (|X'X| |Y'Y|)`` in Frobenius norms.
It is 1 if one is a scaled rotation of the other, and it does not need equal widths.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from detectors.detector import Detector
from detectors.geometry.boxes import Boxes
from detectors.geometry.grid import BevGrid
from detectors.outputs import DetectorOutput
from detectors.spec import Spec
from distill.regions import Level, level_map
from harness.data.loader import SampleSet, evaluation_batches
from harness.diagnose.machine import Machine
from harness.errors import InputError

SAMPLES = 54
"""At most, evenly spaced over a split."""
REGIONS = ("foreground", "background")
_CONSTANT = 1e-12
"""A variance of so much of the squared mean is rounding of single precision."""


class Alignment(Spec):
    """Similarity of the maps of a teacher and of another detector."""

    form: Literal[1] = 1
    weights: tuple[str, str]
    """Content hashes of the two detectors' files, the teacher's first."""
    samples: int
    cells: dict[str, int]
    """The number of cells that were compared, by region."""
    cka: dict[str, dict[str, float | None]]
    """In [0, 1], by level and region; None where one of the two maps is constant, or no cell is."""


class Scatter:
    """Sums of squares and products around the mean of rows that come in pieces, of which none is kept.

    Pieces are merged as Chan, Golub and LeVeque (1979) do, so that nothing cancels that one pass over the whole would
    keep. Memory is that of a square of the columns.
    """

    def __init__(self, columns: int) -> None:
        self.rows = 0
        self.mean = torch.zeros(columns, dtype=torch.float64)
        self.products = torch.zeros(columns, columns, dtype=torch.float64)

    def add(self, values: Float[Tensor, "n c"]) -> None:
        """Take in more rows."""
        if not len(values):
            return
        values = values.double().cpu()
        mean = values.mean(dim=0)
        centred, step = values - mean, mean - self.mean
        rows = self.rows + len(values)
        self.products += centred.T @ centred + torch.outer(step, step) * (self.rows * len(values) / rows)
        self.mean += step * (len(values) / rows)
        self.rows = rows

    def cka(self, columns: int) -> float | None:
        """Linear CKA of the first so many columns and the others; None where one of the two does not vary."""
        size = self.mean.square() * self.rows
        parts = slice(columns), slice(columns, None)
        if any(self.products.diagonal()[part].sum() <= _CONSTANT * size[part].sum() for part in parts):
            return None
        first_norm, other_norm = (self.products[part, part].norm() for part in parts)
        return float(self.products[parts[1], parts[0]].square().sum() / (first_norm * other_norm))


def cells_in_boxes(boxes: Boxes, is_box: Bool[Tensor, "b k"], grid: BevGrid) -> Bool[Tensor, "b y x"]:
    """Cells whose centre is in a box seen from above, or that hold a box's centre: a small box may have no other."""
    at = [torch.arange(count, device=is_box.device) + 0.5 for count in (grid.rows, grid.columns)]
    row, column = torch.meshgrid(*at, indexing="ij")
    cells = grid.metres_from_cells(torch.stack([column, row], dim=-1))
    offset = rearrange(cells, "y x xy -> y x 1 xy") - rearrange(boxes.center[..., :2], "b k xy -> b 1 1 k xy")
    x, y = offset.unbind(dim=-1)
    cos, sin = (rearrange(part, "b k -> b 1 1 k") for part in (boxes.yaw.cos(), boxes.yaw.sin()))
    length, width = (rearrange(boxes.size[..., side], "b k -> b 1 1 k") for side in (0, 1))
    inside = ((x * cos + y * sin).abs() <= length / 2) & ((y * cos - x * sin).abs() <= width / 2)
    holds = (x.abs() <= grid.cell / 2) & (y.abs() <= grid.cell / 2)
    return ((inside | holds) & rearrange(is_box, "b k -> b 1 1 k")).any(dim=-1)


def align(
    teacher: Detector, other: Detector, samples: SampleSet, machine: Machine, batch_size: int = 4
) -> tuple[dict[str, dict[str, float | None]], dict[str, int]]:
    """CKA of two detectors' maps by level and region, and the number of cells by region.

    Both are in eval mode and on the device, and the samples carry what either asks for.
    """
    if other.spec.grid != teacher.spec.grid:
        raise InputError(f"maps of different grids cannot be compared: {teacher.spec.grid!r} and {other.spec.grid!r}")
    widths: dict[Level, tuple[int, int]] = {
        "low": (teacher.spec.low_channels, other.spec.low_channels),
        "high": (teacher.spec.high_channels, other.spec.high_channels),
    }
    scatters = {(level, region): Scatter(sum(widths[level])) for level in widths for region in REGIONS}
    for batch in evaluation_batches(samples, batch_size):
        batch = batch.to(machine.device)
        outputs = [machine.look(detector, batch) for detector in (teacher, other)]
        foreground = cells_in_boxes(batch.boxes, batch.is_box, teacher.spec.grid)
        masks = {"foreground": foreground, "background": ~foreground}
        for level in widths:
            features = _side_by_side(level, outputs, teacher.spec.grid)
            for region, mask in masks.items():
                scatters[level, region].add(features[mask])
    cka: dict[str, dict[str, float | None]] = {
        level: {region: scatters[level, region].cka(widths[level][0]) for region in REGIONS} for level in widths
    }
    return cka, {region: scatters["low", region].rows for region in REGIONS}


def _side_by_side(level: Level, outputs: Sequence[DetectorOutput], grid: BevGrid) -> Float[Tensor, "b y x c"]:
    """The channels of several maps of a level, one after the other; of a finer map than the grid, its means."""
    maps = [level_map(output, level).float() for output in outputs]
    size = (grid.rows, grid.columns)
    maps = [each if each.shape[-2:] == size else F.adaptive_avg_pool2d(each, size) for each in maps]
    return rearrange(torch.cat(maps, dim=1), "b c y x -> b y x c")
