"""A teacher's maps and boxes on other ground: what lies at a place lies there in either frame, on either grid."""

import math
from dataclasses import replace

import pytest
import torch
from einops import rearrange
from torch.testing import assert_close

from detectors.batch import Batch, Frames, Points
from detectors.geometry.boxes import CLASSES, Boxes
from detectors.geometry.grid import BevGrid
from detectors.heads.center import BOX_CODE, TASK_GROUPS, TASK_OF_CLASS, decode_boxes, encode_boxes
from detectors.outputs import HeadOutput
from detectors.presets import PRESETS
from distill.maps import head_of_boxes
from distill.objective import FrozenTeacher
from distill.resample import NOTHING, Resampling, batch_in, between
from harness.data.augment import bev_matrix

EGO = BevGrid(x_range=(-6, 8), y_range=(-5, 4), z_range=(-3, 2), cell=1)
LIDAR = BevGrid(x_range=(-8, 7), y_range=(-10, 10), z_range=(-5, 3), cell=0.5)
# x of the sensor to the right, y ahead, and it hangs 0.9 m ahead of the origin and 1.8 m above it.
MOUNT = torch.tensor([[0.0, -1, 0, 0], [1, 0, 0, -0.9], [0, 0, 1, -1.8], [0, 0, 0, 1]])


def _frames(bev_frame="ego", moved=None, count=1):
    moved = torch.eye(4) if moved is None else moved
    return Frames(bev_frame, MOUNT.expand(count, 4, 4), moved.expand(count, 4, 4))


def _places(grid):
    row, column = torch.meshgrid(torch.arange(grid.rows) + 0.5, torch.arange(grid.columns) + 0.5, indexing="ij")
    return grid.metres_from_cells(torch.stack([column, row], dim=-1))


def _ramps(grid, matrix):
    """A map whose two channels say where a cell lies in another frame."""
    return (_places(grid) @ matrix[:2, :2].T + matrix[:2, 3]).movedim(-1, 0)[None]


def _box(**changes):
    fields = {"center": [3.3, 1.7, 0.4], "size": [4.0, 1.8, 1.5], "yaw": 0.3, "velocity": [2.0, -1.0], "label": 0}
    fields |= {"score": 0.8} | changes
    return Boxes(**{name: torch.tensor([value]) for name, value in fields.items()})


@pytest.mark.parametrize("moved", [torch.eye(4), bev_matrix(0.4, 1.1, flip_y=True, shift=(0.5, -0.3))])
def test_a_cell_gets_what_lies_at_its_place(moved):
    way = between(_frames(moved=moved), "lidar", undo_augmentation=True)
    assert_close(way[0], MOUNT @ torch.linalg.inv(moved))
    # The teacher's map says of each cell where in the student's moved world it lies.
    resampled = Resampling(way, LIDAR, EGO).maps(_ramps(LIDAR, torch.linalg.inv(way)[0]))
    inside = Resampling(way, LIDAR, EGO).where.abs().amax(dim=-1)[0] < 0.9
    assert inside.sum() > 40
    assert_close(resampled[0].movedim(0, -1)[inside], _places(EGO)[inside], atol=1e-4, rtol=0)


def test_beyond_the_teachers_grid_there_is_nothing():
    small = BevGrid(x_range=(-2, 2), y_range=(-2, 2), z_range=(-5, 3), cell=1)
    way = between(_frames(), "ego", undo_augmentation=True)
    path = Resampling(way, small, EGO)
    assert torch.equal(path.maps(torch.ones(1, 3, 4, 4))[0, 0].nonzero().amin(dim=0), torch.tensor([3, 4]))
    head = path.head(HeadOutput(torch.full((1, 10, 4, 4), 2.0), torch.zeros(1, 6, 10, 4, 4)))
    assert_close(head.heatmap[0, :, 0, 0], torch.full((10,), NOTHING))
    assert_close(head.heatmap[0, :, 5, 6], torch.full((10,), 2.0))


def test_on_the_same_ground_nothing_changes(rng):
    way = between(_frames(), "ego", undo_augmentation=True)
    path = Resampling(way, EGO, EGO)
    head = HeadOutput(torch.randn(1, 10, 9, 14, generator=rng), torch.randn(1, 6, 10, 9, 14, generator=rng))
    assert_close(path.maps(head.heatmap), head.heatmap, atol=1e-5, rtol=1e-4)
    resampled = path.head(head)
    assert_close(resampled.heatmap, head.heatmap, atol=1e-4, rtol=1e-4)
    assert_close(resampled.boxes, head.boxes, atol=1e-4, rtol=1e-4)


def test_a_mirrored_map_is_its_mirror_image(rng):
    even = BevGrid(x_range=(-6, 8), y_range=(-5, 5), z_range=(-3, 2), cell=1)
    way = between(_frames(moved=bev_matrix(flip_y=True)), "ego", undo_augmentation=True)
    values = torch.randn(1, 3, 10, 14, generator=rng)
    assert_close(Resampling(way, even, even).maps(values), values.flip(2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("moved", [torch.eye(4), bev_matrix(0.4, 1.25, flip_x=True, shift=(0.5, -0.3))])
def test_a_box_map_says_the_same_box_in_either_frame(moved):
    way = between(_frames(moved=moved), "lidar", undo_augmentation=True)
    theirs = _box().moved(MOUNT)  # in the frame and the world of the teacher
    ours = theirs.moved(torch.linalg.inv(way)[0])
    codes = torch.zeros(1, len(TASK_GROUPS), len(BOX_CODE), LIDAR.rows, LIDAR.columns)
    # Every cell of the teacher's map names the one box.
    at = torch.stack(torch.meshgrid(torch.arange(LIDAR.rows), torch.arange(LIDAR.columns), indexing="ij"))
    code = rearrange(encode_boxes(theirs, LIDAR)[0], "code -> code 1 1").expand(-1, LIDAR.rows, LIDAR.columns).clone()
    cell = LIDAR.cells_from_metres(theirs.center[0, :2])
    code[:2] = cell[:, None, None] - at.flip(0)
    codes[:, 0] = code
    head = Resampling(way, LIDAR, EGO).head(HeadOutput(torch.zeros(1, 10, LIDAR.rows, LIDAR.columns), codes))
    for row, column in ((2, 3), (6, 9)):
        found = decode_boxes(
            head.boxes[0, 0, :, row, column][None],
            torch.tensor([row]),
            torch.tensor([column]),
            ours.label,
            ours.score,
            EGO,
        )
        for name in ("center", "size", "yaw", "velocity"):
            assert_close(getattr(found, name), getattr(ours, name), atol=1e-4, rtol=1e-4)


def test_sensors_are_taken_to_the_teachers_frame(rng):
    points = torch.randn(50, 5, generator=rng)
    radar = torch.randn(20, 7, generator=rng)
    batch = Batch(
        tokens=("a", "b"),
        views=None,
        lidar=Points(points, torch.arange(50) // 25),
        radar=Points(radar, torch.arange(20) // 10),
        boxes=_box(),
        is_box=torch.ones(1, 1, dtype=torch.bool),
        frames=_frames(moved=bev_matrix(0.4), count=2),
    )
    moved = batch_in(batch, "lidar")
    assert_close(moved.lidar.values[:, 0], -points[:, 1])
    assert_close(moved.lidar.values[:, 1], points[:, 0] - 0.9)
    assert torch.equal(moved.lidar.values[:, 3:], points[:, 3:])
    assert_close(moved.radar.values[:, 4:6], torch.stack([-radar[:, 5], radar[:, 4]], dim=1))
    assert batch_in(batch, "ego") is batch
    # There and back again.
    back = batch_in(replace(moved, frames=_frames("lidar", count=2)), "ego")
    assert_close(back.lidar.values, points, atol=1e-5, rtol=1e-4)


def test_a_teacher_of_another_frame_sees_what_it_would_have_seen(tiny_batch):
    """It looks at the same world in its own frame, and what it says comes back to the student's."""
    spec = PRESETS["tiny_lidar"].model_copy(update={"bev_frame": "lidar"})
    student = PRESETS["tiny_lidar"]
    detector = spec.build().eval()
    # A quarter turn about the middle, so that cells fall on cells.
    turn = torch.tensor([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    count = len(tiny_batch)
    frames = Frames("ego", turn.expand(count, 4, 4), torch.eye(4).expand(count, 4, 4))
    batch = replace(tiny_batch, frames=frames)
    seen = FrozenTeacher(detector, student).observe(batch)
    with torch.no_grad():
        alone = detector(batch_in(batch, "lidar"))
    # x of the one is y of the other.
    for ours, theirs in ((seen.bev_low, alone.bev_low), (seen.bev_high, alone.bev_high)):
        assert_close(ours, theirs.transpose(2, 3).flip(2), atol=1e-4, rtol=1e-3)
    assert_close(seen.head.heatmap, alone.head.heatmap.transpose(2, 3).flip(2), atol=1e-4, rtol=1e-3)
    assert FrozenTeacher(detector, student).spec.bev_frame == "ego"


def test_boxes_become_a_head_that_says_them(make_boxes, grid):
    boxes = make_boxes(6)
    boxes = replace(boxes, score=torch.linspace(0.2, 0.9, 6))
    head = head_of_boxes([boxes, boxes[:0]], grid)
    column, row = grid.cells_from_metres(boxes.center[:, :2]).floor().long().unbind(dim=-1)
    for number in range(6):
        label = int(boxes.label[number])
        assert math.isclose(
            float(head.heatmap[0, label, row[number], column[number]].sigmoid()), boxes.score[number], rel_tol=1e-5
        )
        code = head.boxes[0, TASK_OF_CLASS[label], :, row[number], column[number]]
        assert_close(code, encode_boxes(boxes, grid)[number])
    assert (head.heatmap[0] > NOTHING).sum() == 6
    assert torch.equal(head.heatmap[1], torch.full((len(CLASSES), grid.rows, grid.columns), NOTHING))


def test_of_two_boxes_in_a_cell_the_better_one_stays(grid):
    first, second = _box(score=0.3), _box(score=0.7, yaw=1.2)
    both = Boxes(**{name: torch.cat([getattr(first, name), getattr(second, name)]) for name in vars(first)})
    for order in ([0, 1], [1, 0]):
        head = head_of_boxes([both[torch.tensor(order)]], grid)
        column, row = grid.cells_from_metres(second.center[0, :2]).floor().long().tolist()
        assert_close(head.heatmap[0, 0, row, column].sigmoid(), torch.tensor(0.7))
        assert_close(head.boxes[0, 0, :, row, column], encode_boxes(second, grid)[0])
