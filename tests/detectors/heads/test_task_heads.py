"""CenterPoint's head: a branch for each map of each task, in the orders of classes and of the box code."""

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from detectors.geometry.boxes import CLASSES
from detectors.heads.center import BRANCHES, TASK_GROUPS, CenterHeadSpec

SPEC = CenterHeadSpec(width=4, branches="separate")
UNIDISTILL = CenterHeadSpec(width=4, branches="separate", bias=True, iou=True, average="task", learned_weights=True)


def _constant(head):
    """Let each branch put out a number of its own; returns them by task and name."""
    numbers = {}
    for task, branches in enumerate(head.tasks):
        for name, branch in branches.items():
            last = branch[-1]
            last.weight.data.zero_()
            last.bias.data.copy_(torch.arange(len(last.bias)) + 10 * len(numbers))
            numbers[task, name] = last.bias.data.clone()
    return numbers


@pytest.mark.parametrize("spec", [SPEC, UNIDISTILL])
def test_each_branch_has_its_place(rng, spec):
    head = spec.build(6)
    numbers = _constant(head)
    output = head(torch.randn(2, 6, 5, 7, generator=rng))
    assert output.heatmap.shape == (2, len(CLASSES), 5, 7)
    assert output.boxes.shape == (2, len(TASK_GROUPS), 10, 5, 7)
    for task, group in enumerate(TASK_GROUPS):
        for place, name in enumerate(group):
            expected = numbers[task, "heatmap"][place].expand(2, 5, 7)
            assert_close(output.heatmap[:, CLASSES.index(name)], expected)
        code = torch.cat([numbers[task, name] for name in ("reg", "height", "dim", "rot", "vel")])
        assert_close(output.boxes[:, task], code[None, :, None, None].expand(2, 10, 5, 7))
        if spec.iou:
            assert_close(output.iou[:, task], numbers[task, "iou"].expand(2, 5, 7))
    assert (output.iou is None) == (not spec.iou)


def test_branches_are_in_the_order_of_the_box_code():
    assert list(BRANCHES) == ["reg", "height", "dim", "rot", "vel"]
    assert sum(BRANCHES.values()) == 10


def test_a_fresh_head_expects_the_prior_everywhere():
    # CenterPoint's bias of -2.19.
    head = SPEC.model_copy(update={"prior": 0.1}).build(6)
    for task in head.tasks:
        assert_close(
            task["heatmap"][-1].bias.data, torch.full_like(task["heatmap"][-1].bias.data, -2.19), atol=0.01, rtol=0
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"branches": "joint", "learned_weights": False}, 'iou needs branches: "separate"'),
        ({"branches": "joint", "iou": False}, 'learned_weights needs branches: "separate"'),
        ({"average": "batch"}, 'need average: "task"'),
        ({"code_weights": (1.0,)}, "code_weights has 1 entries"),
        ({"iou": False, "decoding": {"iou_power": 0.65}}, "iou_power is 0.65, but the head has no iou"),
        ({"decoding": {"nms": ["circle"]}}, "nms has 1 entries; 6 are needed"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, words):
    with pytest.raises(ValidationError, match=words):
        CenterHeadSpec(**(UNIDISTILL.model_dump() | change))


def test_an_older_head_is_written_as_before():
    fields = CenterHeadSpec(width=4).model_dump()
    assert set(fields) == {
        "width", "heatmap_weight", "box_weight", "prior", "min_overlap", "min_radius_cells", "score_threshold",
        "max_boxes", "nms", "nms_radius", "nms_overlap",
    }  # fmt: skip
