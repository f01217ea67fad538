"""UniDistill's targets: each box has the nine nearest cells, each cell its nearest box."""

import torch
from torch.testing import assert_close

from detectors.geometry.boxes import CLASSES, pad_boxes
from detectors.heads.center import TASK_OF_CLASS, CenterHeadSpec, decode_boxes, gather_codes
from detectors.heads.center_loss import center_targets
from tests.boxes import no_boxes
from tests.detectors.heads.perfect import perfect_output

SPEC = CenterHeadSpec(width=8, targets="nearest", average="task")


def _by_all_distances(boxes, grid):
    """Of one sample, {(task, row, column): box}, by comparing every cell with every box of the task."""
    column, row = torch.meshgrid(torch.arange(grid.columns), torch.arange(grid.rows), indexing="xy")
    cells = torch.stack([column, row], dim=-1).reshape(-1, 2).double()
    center = grid.cells_from_metres(boxes.center[:, :2]).double()
    of_task = [TASK_OF_CLASS[label] for label in boxes.label.tolist()]
    expected = {}
    for task in set(of_task):
        members = [k for k, each in enumerate(of_task) if each == task]
        distance = ((cells[:, None] - center[members]) ** 2).sum(dim=-1)
        positive = distance.topk(9, dim=0, largest=False).indices.unique()
        for cell in positive.tolist():
            place = task, cell // grid.columns, cell % grid.columns
            expected[place] = members[int(distance[cell].argmin())]
    return expected


def test_cells_and_owners_are_those_of_a_comparison_of_all(make_boxes, grid):
    samples = [make_boxes(12), no_boxes(), make_boxes(30)]
    targets = center_targets(*pad_boxes(samples), SPEC, grid)
    for number, boxes in enumerate(samples):
        expected = _by_all_distances(boxes, grid)
        chosen = targets.is_target[number]
        fields = (targets.task, targets.row, targets.column, targets.box)
        rows = torch.stack([field[number][chosen] for field in fields], dim=1).tolist()
        assert {tuple(row[:3]): row[3] for row in rows} == expected
        assert len(rows) == len(expected)
        wanted = torch.zeros(len(CLASSES), grid.rows, grid.columns)
        for (_, row, column), box in expected.items():
            wanted[boxes.label[box], row, column] = 1
        assert_close(targets.heatmap[number], wanted)


def test_corners_of_the_grid_have_nine_cells(grid):
    (box,) = pad_boxes([no_boxes()])[:1]
    for x, y in ((-4.0, -8.0), (11.99, 3.99), (-4.0, 3.99), (11.99, -8.0)):
        boxes = type(box)(
            center=torch.tensor([[[x, y, 0.0]]]),
            size=torch.ones(1, 1, 3),
            yaw=torch.zeros(1, 1),
            velocity=torch.zeros(1, 1, 2),
            label=torch.zeros(1, 1, dtype=torch.long),
            score=torch.ones(1, 1),
        )
        targets = center_targets(boxes, torch.ones(1, 1, dtype=torch.bool), SPEC, grid)
        assert targets.is_target.sum() == 9
        assert targets.heatmap.sum() == 9


def test_every_cell_describes_its_box(make_boxes, grid):
    boxes, is_box = pad_boxes([make_boxes(5), make_boxes(3)])
    targets = center_targets(boxes, is_box, SPEC, grid)
    read = gather_codes(perfect_output(targets).boxes, targets.task, targets.row, targets.column)
    label = boxes.label.gather(1, targets.box)
    decoded = decode_boxes(read, targets.row, targets.column, label, torch.ones_like(read[..., 0]), grid)
    own = targets.box[..., None].expand(-1, -1, 3)
    chosen = targets.is_target
    assert_close(decoded.center[chosen], boxes.center.gather(1, own)[chosen], atol=1e-4, rtol=0)
    assert_close(decoded.size[chosen], boxes.size.gather(1, own)[chosen])


def test_boxes_outside_the_grid_and_padding_have_none(make_boxes, grid):
    boxes = make_boxes(2)
    boxes.center[:, 0] += 100
    targets = center_targets(*pad_boxes([boxes, no_boxes()]), SPEC, grid)
    assert not targets.is_target.any()
    assert not targets.heatmap.any()


def test_gaussian_heatmaps_may_have_boxes_that_nearest_cells_learn(make_boxes, grid):
    annotated = pad_boxes([make_boxes(12), no_boxes(), make_boxes(30)])
    both, gaussian, nearest = (
        center_targets(*annotated, CenterHeadSpec(width=8, targets=kind), grid)
        for kind in ("gaussian_nearest", "gaussian", "nearest")
    )
    assert_close(both.heatmap, gaussian.heatmap, atol=0, rtol=0)
    for field in ("code", "task", "row", "column", "is_target", "box"):
        assert_close(getattr(both, field), getattr(nearest, field), atol=0, rtol=0, equal_nan=True)
    # The cell in which the heatmap peaks learns its box.
    peaks = set(map(tuple, (gaussian.heatmap == 1).any(dim=1).nonzero().tolist()))
    learning = torch.stack([both.row, both.column], dim=-1)
    learns = {(b, *learning[b, k].tolist()) for b, k in both.is_target.nonzero().tolist()}
    assert peaks <= learns
