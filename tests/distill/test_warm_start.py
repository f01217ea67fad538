"""A warm start copies the teacher's neck and head, and nothing else."""

import pytest
import torch

from distill.warm_start import inherit, require_same_build


def test_neck_and_head_are_the_teachers_and_the_encoder_is_not(spec, batch):
    student, teacher = spec.build(), spec.build()
    teacher.train()(batch)  # moves the running statistics, too
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    inherit(student, teacher)
    theirs = teacher.state_dict()
    for name, tensor in student.state_dict().items():
        shared = name.startswith(("neck.", "head."))
        torch.testing.assert_close(tensor, theirs[name] if shared else before[name], atol=0, rtol=0)
    assert any(name.endswith("running_mean") and (theirs[name] != before[name]).any() for name in before)


def test_copies_do_not_share_memory(spec):
    student, teacher = spec.build(), spec.build()
    inherit(student, teacher)
    assert not {p.data_ptr() for p in student.parameters()} & {p.data_ptr() for p in teacher.parameters()}


@pytest.mark.parametrize("part", ["neck", "head"])
def test_other_builds_are_refused(spec, part):
    width = {"neck": {"coarse_width": 16}, "head": {"width": 12}}[part]
    other = spec.model_copy(update={part: getattr(spec, part).model_copy(update=width)})
    with pytest.raises(ValueError, match=f"student's {part}"):
        require_same_build(spec, other)
