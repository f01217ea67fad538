"""Boxes that several tests need."""

import torch

from detectors.geometry.boxes import Boxes


def no_boxes():
    """A sample without any."""
    return Boxes(
        center=torch.zeros(0, 3),
        size=torch.zeros(0, 3),
        yaw=torch.zeros(0),
        velocity=torch.zeros(0, 2),
        label=torch.zeros(0, dtype=torch.long),
        score=torch.zeros(0),
    )
