"""Ranks: the processes that train one model together, each on its own GPU and its own part of every batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those of its job; alone, none of its methods changes anything."""

    number: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that logs, saves and scores."""
        return self.number == 0

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by the sum of those of all processes."""
        if self.count > 1 and tensors:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            dist.all_reduce(flat)
            _scatter(flat, tensors)

    def add_up_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Let the gradient of each parameter be the sum of those of all processes; None where none has any."""
        if self.count == 1:
            return
        there = torch.tensor([float(each.grad is not None) for each in parameters], device=parameters[0].device)
        dist.all_reduce(there)
        with_gradient = [each for each, number in zip(parameters, there.tolist(), strict=True) if number]
        for each in with_gradient:
            if each.grad is None:
                each.grad = torch.zeros_like(each)
        self.add_up([each.grad for each in with_gradient if each.grad is not None])

    def follow_first(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by that of the first process."""
        if self.count == 1:
            return
        for kind in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == kind]
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            dist.broadcast(flat, 0)
            _scatter(flat, alike)

    def agree(self, flag: bool) -> bool:
        """What the first process says, so that all of them stop after the same step."""
        if self.count == 1:
            return flag
        # On the host, where nobody waits for a GPU.
        word = torch.tensor([float(flag)])
        dist.broadcast(word, 0)
        return bool(word)

    def joined(self, texts: Sequence[str]) -> list[str]:
        """The texts of all processes, one after the other."""
        if self.count == 1:
            return list(texts)
        every: list[list[str]] = [[]] * self.count
        dist.all_gather_object(every, list(texts))
        return [text for each in every for text in each]

    def least(self, number: int) -> int:
        """The least of the numbers of all processes."""
        if self.count == 1:
            return number
        word = torch.tensor([number])
        dist.all_reduce(word, dist.ReduceOp.MIN)
        return int(word)


ALONE = Ranks()
"""The one process of a job."""


def _scatter(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for piece, tensor in zip(flat.split([tensor.numel() for tensor in tensors]), tensors, strict=True):
            tensor.copy_(piece.view(tensor.shape))
