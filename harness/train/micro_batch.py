"""Chooses how many samples a GPU computes at once: the most that fit into its memory."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from detectors.batch import Batch, ImageBatch
from harness.diagnose.machine import Machine
from harness.errors import InputError
from harness.study.schedule import ScheduleSpec
from harness.train.norms import norms_of

ROOM = 0.9
"""The share of a GPU's memory that may be used: other batches have more objects and returns than the one tried out."""
LATER_BYTES = 12
"""A trained parameter's: AdamW's two moments, which are made at the first step, and its place in a sum over GPUs."""


def given_micro(machine: Machine, schedule: ScheduleSpec) -> int | None:
    """Samples that a process computes at once, as far as the schedule says it; None where a GPU has to be asked."""
    share = schedule.global_batch // machine.ranks.count
    match schedule.micro_batch:
        case "auto":
            return None if machine.device.type == "cuda" else share
        case None:
            return share
        case micro:
            return min(micro, share)


def choose_micro(
    machine: Machine,
    objectives: Sequence[nn.Module],
    part: Callable[[int], Batch | ImageBatch],
    most: int,
) -> int:
    """The most samples with which one step of each objective fits into the memory of the GPU.

    Nothing of the objectives is changed. All processes of a job come to the same number.

    Args:
        machine: The GPU.
        objectives: Of the trainings that share it.
        part: Samples of a number, on the GPU.
        most: To try first; then the half of it, and so on.

    Raises:
        InputError: Not even one sample fits.
    """

    def fits(size: int) -> bool:
        try:
            return all(_fits(machine, objective, part(size)) for objective in objectives)
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()

    return machine.ranks.least(largest_that_fits(most, fits))


def largest_that_fits(most: int, fits: Callable[[int], bool]) -> int:
    """The first of a number, its half, the half of that and so on that fits; raises InputError if 1 does not."""
    size = most
    while not fits(size):
        if size == 1:
            raise InputError(
                "one sample of this detector does not fit into the memory of the GPU; "
                "choose a smaller detector or image, or precision: bf16-mixed"
            )
        size = -(-size // 2)
    return size


def _fits(machine: Machine, objective: nn.Module, part: Batch | ImageBatch) -> bool:
    """Whether forward and backward pass leave room for what a step needs later; raises torch.OutOfMemoryError."""
    torch.cuda.reset_peak_memory_stats(machine.device)
    rehearse(machine, objective, part)
    later = LATER_BYTES * sum(p.numel() for p in objective.parameters() if p.requires_grad)
    free, _ = torch.cuda.mem_get_info(machine.device)
    ours = free + torch.cuda.memory_reserved(machine.device)
    return torch.cuda.max_memory_allocated(machine.device) + later <= ROOM * ours


def rehearse(machine: Machine, objective: nn.Module, part: Batch | ImageBatch) -> None:
    """Forward and backward pass of some samples, of which nothing remains: norms keep their statistics."""
    norms = [each for each in norms_of(objective) if each.training]
    for norm in norms:
        norm.eval()
    try:
        with machine.autocast():
            output: Any = objective(part)
        output.total.backward()
    finally:
        objective.zero_grad(set_to_none=True)
        for norm in norms:
            norm.train()
