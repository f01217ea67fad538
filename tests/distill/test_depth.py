"""Depth supervision: a return is known in the feature and the bin that it falls into, and nowhere else."""

import math

import pytest
import torch

from detectors.batch import Batch, CameraViews, Points
from detectors.cost import example_batch
from detectors.geometry.boxes import pad_boxes
from detectors.outputs import DetectorOutput, HeadOutput
from detectors.presets import PRESETS
from distill.depth import DepthSpec, depth_bins
from tests.boxes import no_boxes

STUDENT, TEACHER = PRESETS["tiny_camera"], PRESETS["tiny_lidar"]


@pytest.fixture
def term():
    return DepthSpec(weight=1.0).build(STUDENT, TEACHER)


@pytest.fixture
def geometry():
    return STUDENT.camera.lift(STUDENT.grid)


def _views(poses):
    n = len(poses)
    intrinsics = torch.tensor([[100.0, 0, 112], [0, 100, 40], [0, 0, 1]]).expand(n, 3, 3)
    return CameraViews(torch.zeros(n, 3, 80, 224, dtype=torch.uint8), intrinsics, torch.stack(poses), torch.zeros(n))


def _ahead(x=0.0):
    """A camera at (x, 0, 1.5) that looks along +x."""
    return torch.tensor([[0.0, 0, 1, x], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])


def test_bins_by_hand(geometry):
    # 8 m ahead, 0.8 m to the left and 0.4 m up: column 112 - 10 = 102, row 40 - 5 = 35; features of 8 pixels.
    points = torch.tensor([[8.0, 0.8, 1.9], [12.0, 1.2, 2.1], [-8.0, 0.8, 1.9], [24.0, 0.0, 1.5], [0.5, 0.0, 1.5]])
    bins = depth_bins(points, _views([_ahead()]), geometry)
    assert bins.shape == (1, 10, 28)
    (found,) = (bins >= 0).nonzero().tolist()
    assert found == [0, 4, 12]
    # Bins of half a metre from 1 m on; of the two on that ray the nearer one counts.
    assert bins[0, 4, 12] == 14


def test_a_camera_that_stands_elsewhere_sees_another_depth(geometry):
    points = torch.tensor([[8.0, 0.0, 1.5]])
    bins = depth_bins(points, _views([_ahead(), _ahead(-5.0)]), geometry)
    assert [int(view.max()) for view in bins] == [14, 24]


def test_lifting_the_bin_comes_back_to_the_return(geometry):
    """What the view transform makes of the bin is the cell that the return is in, or its neighbour."""
    rng = torch.Generator().manual_seed(0)
    points = torch.rand(60, 3, generator=rng) * torch.tensor([12.0, 8.0, 2.0]) + torch.tensor([2.0, -4.0, 0.0])
    views = _views([_ahead()])
    cells = geometry.cells(views.intrinsics, views.ego_from_camera)
    seen = 0
    for point in points:
        bins = depth_bins(point[None], views, geometry)
        for n, h, w in (bins >= 0).nonzero().tolist():
            row, column = divmod(cells[n, h, w, bins[n, h, w]].item(), geometry.grid.columns)
            where = geometry.grid.cells_from_metres(point[:2])
            assert (where - torch.tensor([column + 0.5, row + 0.5])).abs().max() < 1.5
            seen += 1
    assert seen > 20


def _batch(geometry, points, ages):
    views = _views([_ahead()])
    values = torch.cat([points, torch.zeros(len(points), 1), torch.tensor(ages)[:, None]], dim=1)
    views = CameraViews(*(value[None] for value in vars(views).values()))
    lidar = Points(values, torch.zeros(len(values), dtype=torch.long))
    boxes, is_box = pad_boxes([no_boxes()])
    return Batch(tokens=("a",), views=views, lidar=lidar, radar=None, boxes=boxes, is_box=is_box)


def test_value_by_hand_and_gradient_where_it_is_known(term, geometry):
    points = torch.tensor([[8.0, 0.8, 1.9], [12.0, -6.0, 1.5], [6.0, 0.0, 1.5]])
    batch = _batch(geometry, points, [0.0, 0.0, 0.05])  # the last one is of an older sweep
    logits = torch.zeros(1, 1, 44, 10, 28, requires_grad=True)
    output = _depth_output(logits.softmax(dim=2))
    loss = term(output, output, batch)
    assert loss.item() == pytest.approx(math.log(44))
    loss.backward()
    assert logits.grad.abs().sum(dim=2).nonzero().tolist() == [[0, 0, 4, 12], [0, 0, 5, 20]]
    # Downhill the right bin rises: -(1 - 1/44) / 2 of two.
    assert logits.grad[0, 0, 14, 4, 12].item() == pytest.approx(-(1 - 1 / 44) / 2)


def _depth_output(depth):
    maps = torch.zeros(1, 1, 2, 2)
    head = HeadOutput(torch.zeros(1, 10, 2, 2), torch.zeros(1, 6, 10, 2, 2))
    sensors = dict.fromkeys(("image_features", "camera_bev", "lidar_bev", "radar_bev"))
    return DetectorOutput(**sensors, depth=depth, bev_low=maps, bev_high=maps, head=head)


def test_without_a_return_it_costs_nothing(term, geometry):
    batch = _batch(geometry, torch.tensor([[-8.0, 0.0, 1.0]]), [0.0])
    depth = torch.rand(1, 1, 44, 10, 28, requires_grad=True)
    loss = term(_depth_output(depth), _depth_output(depth), batch)
    loss.backward()
    assert loss == 0
    assert not depth.grad.any()


def test_it_needs_a_camera_and_a_lidar():
    with pytest.raises(ValueError, match="a student with a camera"):
        DepthSpec(weight=1.0).build(TEACHER, TEACHER)
    with pytest.raises(ValueError, match="this one has none"):
        DepthSpec(weight=1.0).build(STUDENT, STUDENT)


def test_it_teaches_the_camera_its_depths():
    """On one batch the loss falls."""
    batch = example_batch(PRESETS["tiny_camera_lidar"], 1)
    batch.lidar.values[:, 4] = 0.0
    torch.manual_seed(0)
    student, term = STUDENT.build(), DepthSpec(weight=1.0).build(STUDENT, TEACHER)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        output = student(batch)
        loss = term(output, output, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(44), abs=0.7)
    assert losses[-1] < losses[0] - 0.5
