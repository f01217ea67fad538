"""The head's decoding finds peaks, reads the right box map, and removes duplicates."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from detectors.geometry.boxes import CLASSES
from detectors.heads.center import (
    BOX_CODE,
    TASK_GROUPS,
    TASK_OF_CLASS,
    CenterHeadSpec,
)
from detectors.heads.decoding import decode, suppress, within_radius
from detectors.outputs import HeadOutput

SPEC = CenterHeadSpec(width=8)
CAR, TRUCK, PEDESTRIAN, CONE = (CLASSES.index(name) for name in ("car", "truck", "pedestrian", "traffic_cone"))


@pytest.fixture
def silence(grid):
    """Head maps without any peak above the threshold, to be written into."""
    return HeadOutput(
        heatmap=torch.full((2, len(CLASSES), grid.rows, grid.columns), -10.0),
        boxes=torch.zeros(2, len(TASK_GROUPS), len(BOX_CODE), grid.rows, grid.columns),
    )


def test_every_class_belongs_to_one_task_group():
    assert sorted(name for group in TASK_GROUPS for name in group) == sorted(CLASSES)
    assert [TASK_GROUPS[task][0] for task in TASK_OF_CLASS][:2] == ["car", "truck"]
    assert TASK_OF_CLASS[CONE] == TASK_OF_CLASS[PEDESTRIAN]


def test_one_peak_by_hand(grid, silence):
    silence.heatmap[1, TRUCK, 3, 10] = math.log(4)
    code = [0.25, 0.5, 1.2, math.log(8), math.log(2.5), math.log(3), 1.0, 0.0, 3.0, -4.0]
    silence.boxes[1, TASK_OF_CLASS[TRUCK], :, 3, 10] = torch.tensor(code)
    nothing, found = decode(silence, SPEC, grid)
    assert len(nothing) == 0
    # Column 10 starts at x = -4 + 10, row 3 at y = -8 + 3.
    assert_close(found.center, torch.tensor([[6.25, -4.5, 1.2]]))
    assert_close(found.size, torch.tensor([[8.0, 2.5, 3.0]]))
    assert_close(found.yaw, torch.tensor([math.pi / 2]))
    assert_close(found.velocity, torch.tensor([[3.0, -4.0]]))
    assert_close(found.score, torch.tensor([0.8]))
    assert found.label.tolist() == [TRUCK]


def test_slopes_are_no_peaks(grid, silence):
    silence.heatmap[0, CAR, 5, 5] = 2.0
    silence.heatmap[0, CAR, 5, 6] = 1.0
    silence.heatmap[0, CAR, 6, 6] = 1.5
    (found, _) = decode(silence, SPEC.model_copy(update={"nms_radius": (0.0,) * len(CLASSES)}), grid)
    assert_close(found.score, torch.tensor([2.0]).sigmoid())


def test_two_task_groups_in_one_cell_both_survive(grid, silence):
    for label, length in ((CAR, 4.0), (PEDESTRIAN, 0.5)):
        silence.heatmap[0, label, 5, 5] = 2.0
        silence.boxes[0, TASK_OF_CLASS[label], BOX_CODE.index("log_length"), 5, 5] = math.log(length)
    (found, _) = decode(silence, SPEC, grid)
    lengths = dict(zip(found.label.tolist(), found.size[:, 0].tolist(), strict=True))
    assert lengths == pytest.approx({CAR: 4.0, PEDESTRIAN: 0.5})


def test_at_most_max_boxes_are_returned_best_first(grid, silence):
    silence.heatmap[0, PEDESTRIAN, ::2, ::2] = torch.linspace(-2, 2, 48).reshape(6, 8)
    (found, _) = decode(silence, SPEC.model_copy(update={"max_boxes": 5}), grid)
    assert_close(found.score, torch.linspace(-2, 2, 48).flip(0)[:5].sigmoid())


def test_circle_nms_by_hand():
    # On a line at 0, 1, 2 and 2.1 m; radius 1.5 m. The best removes the second, which then cannot remove the third;
    # the third removes the last one unless its class is another. Without the best, the second removes both.
    center = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.1, 0.0]]]).expand(3, 4, 2)
    label = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    candidate = torch.tensor([[True] * 4, [True] * 4, [False, True, True, True]])
    keep = suppress(within_radius(center, torch.full((3, 4), 1.5)), label, candidate)
    assert keep.tolist() == [[True, False, True, False], [True, False, True, True], [False, True, False, False]]


def test_circle_nms_equals_the_greedy_loop(rng):
    k = 60
    center = 10 * torch.rand(1, k, 2, generator=rng)
    label = torch.randint(3, (1, k), generator=rng)
    radius = torch.tensor([0.5, 1.5, 3.0])[label]
    greedy = []
    for i in range(k):
        rivals = [j for j in greedy if label[0, j] == label[0, i]]
        if all(math.dist(center[0, i].tolist(), center[0, j].tolist()) >= radius[0, j] for j in rivals):
            greedy.append(i)
    keep = suppress(within_radius(center, radius), label, torch.ones(1, k, dtype=torch.bool))
    assert keep[0].nonzero()[:, 0].tolist() == greedy
    assert len(greedy) < k


def test_rotated_nms_spares_neighbours_that_circles_remove(grid, silence):
    # Two cars side by side, 2 cells apart, and a third, worse one half inside the first; 1 cell is 1 m.
    for row, column, logit in ((3, 4, 2.0), (5, 4, 1.0), (3, 6, 0.0)):
        silence.heatmap[0, 0, row, column] = logit
    silence.boxes[0, 0, BOX_CODE.index("log_length")] = math.log(4)
    silence.boxes[0, 0, BOX_CODE.index("log_width")] = math.log(1.5)
    silence.boxes[0, 0, BOX_CODE.index("cos_yaw")] = 1.0
    left = {}
    for nms in ("circle", "rotated"):
        (found, _) = decode(silence, SPEC.model_copy(update={"nms": nms, "nms_radius": (2.5,) * 10}), grid)
        left[nms] = found.score.logit().round().tolist()
    assert left == {"circle": [2.0], "rotated": [2.0, 1.0]}


def test_a_fresh_head_expects_the_prior_everywhere():
    head = CenterHeadSpec(width=8, prior=0.1).build(in_channels=6)
    output = head(torch.zeros(2, 6, 5, 7))
    assert output.boxes.shape == (2, len(TASK_GROUPS), len(BOX_CODE), 5, 7)
    assert_close(output.heatmap.sigmoid(), torch.full((2, len(CLASSES), 5, 7), 0.1))


@pytest.mark.parametrize("change", [{"nms_radius": (1.0,)}, {"max_boxes": 501}, {"prior": 0.0}, {"widht": 8}])
def test_an_impossible_head_is_refused(change):
    with pytest.raises(ValidationError):
        CenterHeadSpec(**({"width": 8} | change))


def test_box_maps_with_features_of_their_own_leave_those_of_heatmaps_alone(grid):
    head = CenterHeadSpec(width=8, box_width=6).build(5)
    assert head.boxes.weight.shape[1] == 6
    maps = torch.randn(2, 5, grid.rows, grid.columns)
    output = head(maps)
    assert output.boxes.shape == (2, len(TASK_GROUPS), len(BOX_CODE), grid.rows, grid.columns)
    output.boxes.square().sum().backward()
    assert all(parameter.grad is None for part in (head.shared, head.heatmap) for parameter in part.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.box_features[0].parameters())
    # Channel by channel as the box code has them: the fifth of the third task.
    codes = head.boxes(head.box_features(maps))
    assert_close(output.boxes[:, 2, 4], codes[:, 2 * len(BOX_CODE) + 4])


def test_box_features_are_for_joint_heads():
    with pytest.raises(ValidationError, match="box_width needs"):
        CenterHeadSpec(width=8, box_width=6, branches="separate")


@pytest.mark.parametrize("branches", ["joint", "separate"])
def test_two_cells_that_score_almost_the_same_are_one_box_under_autocast_too(rng, branches):
    torch.manual_seed(0)
    head = CenterHeadSpec(width=8, branches=branches).build(6).eval()
    # A map so flat that rounded to eight bits many of its peaks have an equal beside them.
    bev_high = (0.1 * torch.rand(1, 6, 20, 30, generator=rng)).bfloat16()
    exact = head(bev_high.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = head(bev_high)
    assert torch.equal(maps.heatmap, exact.heatmap)
    assert torch.equal(maps.boxes, exact.boxes)

    def duplicates(heatmap):
        """Pairs of neighbours along a row that are both peaks."""
        is_peak = heatmap == torch.nn.functional.max_pool2d(heatmap, kernel_size=3, stride=1, padding=1)
        return int((is_peak[..., 1:] & is_peak[..., :-1]).sum())

    assert duplicates(maps.heatmap) == 0
    assert duplicates(maps.heatmap.bfloat16().float()) > 0, "the case is too easy: rounded logits do not tie"
