"""Maps: what a loss may know of its teacher, a detector or a folder of maps that somebody else's detector left."""

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from einops import rearrange
from pydantic import AfterValidator, Field

from detectors.geometry.boxes import CLASSES, Boxes
from detectors.geometry.grid import BevFrame, BevGrid
from detectors.heads.center import BOX_CODE, TASK_GROUPS, TASK_OF_CLASS, CenterHeadSpec, encode_boxes
from detectors.outputs import HeadOutput
from detectors.spec import Spec, each_once
from distill.resample import NOTHING


@runtime_checkable
class TeacherMaps(Protocol):
    """What a `DetectorSpec` and a `MapsSpec` have in common."""

    @property
    def grid(self) -> BevGrid:
        """Of all its maps."""
        ...

    @property
    def bev_frame(self) -> BevFrame:
        """Of the grid and the boxes."""
        ...

    @property
    def low_channels(self) -> int | None:
        """Channels of `DetectorOutput.bev_low`; None where there is no such map."""
        ...

    @property
    def low_per_cell(self) -> int:
        """Cells of the low-level map in a cell of the grid, along x and along y."""
        ...

    @property
    def high_channels(self) -> int | None:
        """Channels of `DetectorOutput.bev_high`; None where there is no such map."""
        ...

    @property
    def lidar(self) -> Spec | None:
        """The encoder of its LiDAR, whose returns are then part of the batch."""
        ...

    @property
    def head(self) -> CenterHeadSpec | None:
        """How its class and box maps are decoded; None where it has none."""
        ...


class MapsSpec(Spec):
    """A folder of maps and boxes, one file a sample, which a detector outside of this project has left."""

    grid: BevGrid
    bev_frame: BevFrame
    sensors: Annotated[tuple[Literal["camera", "lidar", "radar"], ...], Field(min_length=1), AfterValidator(each_once)]
    """What the detector saw."""
    low_channels: int | None = None
    """Of `bev_low`; None without this map."""
    high_channels: int | None = None
    """Of `bev_high`; None without this map."""
    boxes: Literal["maps", "list"] | None = None
    """Whether there are `heatmap` and `box_codes`, or boxes one by one, or neither."""

    @property
    def low_per_cell(self) -> int:
        """1: all maps are on the grid."""
        return 1

    @property
    def lidar(self) -> None:
        """None: what its detector saw is not part of a batch."""
        return

    @property
    def head(self) -> CenterHeadSpec | None:
        """How boxes are read from the maps, by the defaults of a head."""
        return None if self.boxes is None else CenterHeadSpec(width=1)


def head_of_boxes(boxes: Sequence[Boxes], grid: BevGrid) -> HeadOutput:
    """A head that decodes to these boxes of each sample: a peak, and a code, in the cell of each centre.

    Elsewhere its logits are those of nothing, and its codes 0. Of two boxes of a class in one cell the better one is
    there. A box off the grid is not.
    """
    cells = len(boxes), grid.rows, grid.columns
    classes = torch.full((len(boxes), len(CLASSES), *cells[1:]), NOTHING)
    codes = torch.zeros(len(boxes), len(TASK_GROUPS), *cells[1:], len(BOX_CODE))
    task_of_class = torch.tensor(TASK_OF_CLASS)
    for sample, each in enumerate(boxes):
        inside = each[grid.contains(each.center[:, :2])]
        # The best last, over all others.
        ordered = inside[inside.score.argsort(stable=True)]
        column, row = grid.cells_from_metres(ordered.center[:, :2]).floor().long().unbind(dim=-1)
        task, code = task_of_class[ordered.label], encode_boxes(ordered, grid)
        logits = ordered.score.clamp(1e-4, 1 - 1e-4).logit()
        for number in range(len(ordered)):
            classes[sample, ordered.label[number], row[number], column[number]] = logits[number]
            codes[sample, task[number], row[number], column[number]] = code[number]
    return HeadOutput(classes, rearrange(codes, "b tasks y x code -> b tasks code y x"))
