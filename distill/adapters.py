"""Adapters: project the student's map to the width of the teacher's, so that channels can be compared."""

from typing import Literal

import torch
import torch.nn as nn

AdapterKind = Literal["none", "conv1x1", "conv3x3", "mlp3"]


def build_adapter(kind: AdapterKind, student_channels: int, teacher_channels: int) -> nn.Module:
    """A trainable map from student to teacher channels; resolution stays, for points are sampled in metres.

    ``conv1x1`` and ``conv3x3`` start by copying channel i to channel i and adding nothing: at step 0 they leave a map
    of the teacher's width as it is, and building one draws no random number, so an arm with an adapter differs from one
    without in the adapter only. ``mlp3`` has three layers of the teacher's width, the first two with a ReLU, applied
    to each cell, and starts with random weights.
    """
    match kind:
        case "none":
            if student_channels != teacher_channels:
                raise ValueError(
                    f"adapter 'none' cannot compare a student map of {student_channels} channels "
                    f"with a teacher map of {teacher_channels}; use adapter 'conv1x1', 'conv3x3' or 'mlp3'"
                )
            return nn.Identity()
        case "conv1x1" | "conv3x3":
            size = 1 if kind == "conv1x1" else 3
            # Not skip_init: for its empty tensors torch imports a compiler, half a second of every study's check.
            with torch.random.fork_rng(devices=[]):
                conv = nn.Conv2d(student_channels, teacher_channels, kernel_size=size, padding=size // 2)
            nn.init.dirac_(conv.weight)
            assert conv.bias is not None, "there is one unless it is declined"
            nn.init.zeros_(conv.bias)
            return conv
        case "mlp3":
            return nn.Sequential(
                nn.Conv2d(student_channels, teacher_channels, 1),
                nn.ReLU(),
                nn.Conv2d(teacher_channels, teacher_channels, 1),
                nn.ReLU(),
                nn.Conv2d(teacher_channels, teacher_channels, 1),
            )
