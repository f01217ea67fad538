"""Class-balanced sampling (CBGS, Zhu et al., 2019): an epoch in which each class is drawn equally often."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from detectors.geometry.boxes import CLASSES
from harness.data.root import NuScenesRoot
from harness.data.tables import detection_class
from harness.errors import InputError


@dataclass(frozen=True, eq=False)
class ClassBalance:
    """Epochs of as many samples for each class that occurs, drawn with replacement from those that contain it.

    A class has as many draws as a class has samples on average, as in mmdetection3d's CBGSDataset. That draws once for
    all epochs of a training; here each epoch draws anew.
    """

    contains: Bool[np.ndarray, "sample label"]
    """Whether a sample has a box of a class that training keeps."""

    @cached_property
    def _members(self) -> list[Tensor]:
        """The samples of each class that occurs."""
        return [torch.from_numpy(np.flatnonzero(column)) for column in self.contains.T if column.any()]

    @property
    def draws(self) -> int:
        """Samples that an epoch draws for each class."""
        return sum(map(len, self._members)) // len(self._members)

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self.draws * len(self._members)

    def epoch(self, generator: torch.Generator) -> list[int]:
        """The samples of an epoch, shuffled."""
        chosen = [of[torch.randint(len(of), (self.draws,), generator=generator)] for of in self._members]
        return torch.cat(chosen)[torch.randperm(len(self), generator=generator)].tolist()


def class_balance(root: NuScenesRoot, tokens: list[str]) -> ClassBalance:
    """Balanced epochs of some samples; raises InputError where none of them has a box that training keeps."""
    index = root.index
    names = map(detection_class, index.column("category", "name"))
    label_of_category = np.array([-1 if name is None else CLASSES.index(name) for name in names])
    category = index.numbers("instance", "category_token")[index.numbers("sample_annotation", "instance_token")]
    label = label_of_category[category]
    points = (index.numbers("sample_annotation", f"num_{sensor}_pts") for sensor in ("lidar", "radar"))
    is_kept = (label >= 0) & (sum(points) > 0)
    by_row = np.zeros((index.count("sample"), len(CLASSES)), bool)
    by_row[index.numbers("sample_annotation", "sample_token")[is_kept], label[is_kept]] = True
    row_of = {token: row for row, token in enumerate(index.column("sample", "token"))}
    contains = by_row[[row_of[token] for token in tokens]]
    if not contains.any():
        raise InputError(
            f"class_balanced: none of the {len(tokens)} training samples of {root.path} has a box with a LiDAR or "
            "RADAR return; leave it out"
        )
    return ClassBalance(contains)
