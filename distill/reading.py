"""Reading: which cells of a teacher's BEV maps a loss reads, and these cells alone, packed and unpacked."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from detectors.asynchronous import constant
from detectors.batch import Batch
from detectors.detector import DetectorSpec
from detectors.geometry.boxes import CLASSES
from detectors.heads.center import BOX_CODE, TASK_GROUPS
from detectors.outputs import DetectorOutput, HeadOutput
from distill.loss import MapName, Reading
from distill.regions import boxes_inside, center_gaussians, scaled_foreground

FIELDS: tuple[MapName, ...] = ("bev_low", "bev_high", "head")


def cells_read(reading: Reading, batch: Batch, spec: DetectorSpec) -> Bool[Tensor, "b y x"]:
    """The cells of a reading, for annotations of a batch on the grid of a detector."""
    boxes, is_box, grid = batch.boxes, batch.is_box, spec.grid
    if reading.cells == "gaussian":
        return center_gaussians(boxes, is_box, grid, reading.min_overlap) > 0
    if reading.cells == "foreground":
        return scaled_foreground(boxes, is_box, grid) > 0
    where = grid.sampling_from_metres(boxes.keypoints())
    if reading.cells == "swapped points":
        where = where.flip(-1)
    size = constant((grid.columns, grid.rows), where)
    corner = ((where + 1) * size / 2 - 0.5).floor().long()
    inside = rearrange(boxes_inside(boxes, is_box, grid), "b k -> b k 1").expand(corner.shape[:-1])
    mask = torch.zeros(len(batch), grid.rows, grid.columns, dtype=torch.bool, device=where.device)
    sample = torch.arange(len(batch), device=where.device)[:, None, None].expand(corner.shape[:-1])
    for right, down in ((0, 0), (0, 1), (1, 0), (1, 1)):
        column, row = corner[..., 0] + right, corner[..., 1] + down
        read = inside & (column >= 0) & (column < grid.columns) & (row >= 0) & (row < grid.rows)
        mask[sample[read], row[read], column[read]] = True
    return mask


def channels(field: MapName, spec: DetectorSpec) -> int:
    """Channels of a field; the head's are the classes, then the codes of its tasks, then the overlaps it predicts."""
    match field:
        case "bev_low":
            return spec.low_channels
        case "bev_high":
            return spec.high_channels
        case "head":
            return sum(_head_channels(spec))


def pack(output: DetectorOutput, reading: Reading, batch: Batch, spec: DetectorSpec) -> list[bytes]:
    """What a reading finds in a teacher's output, a record for each sample: cells (int32) and their values (float16).

    Args:
        output: On this batch.
        reading: Where to read.
        batch: Whose annotations say where.
        spec: The teacher.
    """
    maps = _map(output, reading.field)
    records = []
    for read_here, values in zip(cells_read(reading, batch, spec), maps, strict=True):
        cells = read_here.flatten().nonzero()[:, 0]
        read = values.flatten(1)[:, cells].T.half()
        if not read.isfinite().all():
            raise FloatingPointError(f"the teacher's {reading.field} has values that float16 does not hold")
        records.append(cells.int().cpu().numpy().tobytes() + read.cpu().numpy().tobytes())
    return records


def unpack(records: Sequence[tuple[Reading, Sequence[bytes]]], spec: DetectorSpec) -> DetectorOutput:
    """A teacher's output as far as records have it: zero in other cells, NaN in maps of which there is no record.

    Args:
        records: For each reading those of all samples of a batch.
        spec: The teacher.
    """
    count = len(records[0][1])
    grid = spec.grid
    maps = {}
    for field in FIELDS:
        width = channels(field, spec)
        of_field = [each for reading, each in records if reading.field == field]
        if not of_field:
            maps[field] = torch.full((), torch.nan).expand(count, width, grid.rows, grid.columns)
            continue
        dense = np.zeros((count, grid.rows * grid.columns, width), np.float32)
        for each in of_field:
            for sample, record in enumerate(each):
                # Four bytes a cell, and two a value.
                cells = len(record) // (4 + 2 * width)
                where = np.frombuffer(record, np.int32, cells)
                dense[sample, where] = np.frombuffer(record, np.float16, offset=4 * cells).reshape(cells, width)
        maps[field] = rearrange(torch.from_numpy(dense), "b (y x) c -> b c y x", y=grid.rows)
    heatmap, boxes, iou = maps["head"].split(_head_channels(spec), dim=1)
    boxes = rearrange(boxes, "b (tasks code) y x -> b tasks code y x", tasks=len(TASK_GROUPS))
    head = HeadOutput(heatmap, boxes, iou if spec.head.iou else None)
    return DetectorOutput(None, None, None, None, None, maps["bev_low"], maps["bev_high"], head)


def _head_channels(spec: DetectorSpec) -> list[int]:
    """Of heatmaps, box maps and overlaps."""
    return [len(CLASSES), len(TASK_GROUPS) * len(BOX_CODE), len(TASK_GROUPS) if spec.head.iou else 0]


def readings_of(each: Iterable[frozenset[Reading] | None]) -> tuple[Reading, ...] | None:
    """All readings of some losses, in a fixed order; None where one of them reads whole maps."""
    together: set[Reading] = set()
    for readings in each:
        if readings is None:
            return None
        together |= readings
    return tuple(sorted(together))


def _map(output: DetectorOutput, field: MapName) -> Float[Tensor, "b c y x"]:
    if field == "head":
        codes = rearrange(output.head.boxes, "b tasks code y x -> b (tasks code) y x")
        return torch.cat([output.head.heatmap, codes, *([] if output.head.iou is None else [output.head.iou])], dim=1)
    return output.bev_low if field == "bev_low" else output.bev_high
