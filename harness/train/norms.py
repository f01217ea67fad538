"""What batch norms take their statistics of, where a batch is computed in parts or by several processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from harness.diagnose.machine import Machine

AModule = TypeVar("AModule", bound=nn.Module)


def norms_of(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch norms in a module."""
    return [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]


def synchronised(module: AModule, machine: Machine) -> AModule:
    """The module, with norms that take statistics of the samples of all processes; torch has them on GPUs only."""
    if machine.ranks.count == 1 or machine.device.type != "cuda":
        return module
    converted: AModule = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return converted


def is_synchronised(module: nn.Module) -> bool:
    """Whether its norms are such ones."""
    return any(isinstance(each, nn.SyncBatchNorm) for each in norms_of(module))


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Within, statistics may change; afterwards they are what they were."""
    before = [each.clone() for each in module.buffers()]
    yield
    with torch.no_grad():
        for each, value in zip(module.buffers(), before, strict=True):
            each.copy_(value)
