"""What the host asks of a GPU without waiting for it: constants, copies, indices of so many places."""

from functools import lru_cache

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Numbers = tuple[int | float, ...] | tuple[tuple[int | float, ...], ...]


def constant(numbers: Numbers, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """These numbers on the device of a tensor, and in its type or another; nobody may write to the result.

    They are made once for each device. If they were sent to a GPU in every step, the host would wait for each of them.
    """
    return _made(numbers, dtype or like.dtype, like.device)


@lru_cache(maxsize=1024)
def _made(numbers: Numbers, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=dtype, device=device)


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device; to a GPU it goes from memory that is pinned, for which the host does not wait."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def places(mask: Bool[Tensor, " n"], count: int) -> Int[Tensor, "{count}"]:
    """Where a mask is true, in ascending order, if that is known to be at so many places."""
    return torch.nonzero_static(mask, size=count)[:, 0]


def unravelled(index: Int[Tensor, "*any"], shape: tuple[int, ...]) -> tuple[Int[Tensor, "*any"], ...]:
    """Indices along each axis from those that count over all of them; the first axis may be longer than its size says.

    The library's own function sends the shape to a GPU first.
    """
    axes = []
    for size in reversed(shape[1:]):
        axes.append(index % size)
        index = index // size
    return index, *reversed(axes)
