"""Muon: an optimizer that gives the update of each weight matrix equal lengths in all directions."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_TINY = 1e-7
_SHARE = 0.2
"""Root mean square of an update, at a learning rate of 1: about that of AdamW's."""
_LEAST = 8
"""Rows and columns of the smallest matrix whose directions are worth it."""


class Muon(AdamW):
    """Muon (Jordan et al., 2024) for weights of convolutions and linear layers, and AdamW for all other parameters.

    A weight is a matrix of one row an output. Its momentum is Nesterov's; of that, five Newton-Schulz iterations make a
    matrix with about equal singular values. It is scaled to the size of an update by AdamW, so that learning rate and
    weight decay may be AdamW's (Liu et al., "Muon is scalable for LLM training", 2025, section 2.2).

    torch.optim.Muon takes matrices alone, and iterates in bfloat16, which most CPUs only emulate.

    Args:
        parameters: To train.
        lr: Learning rate of all of them.
        weight_decay: Of all of them.
    """

    found_inf: Tensor | None = None
    """1 where the next step must not change anything, on the parameters' device; as for fused optimizers of torch."""

    def __init__(self, parameters: Iterable[Parameter], lr: float, weight_decay: float) -> None:
        given = list(parameters)
        chosen = [is_matrix(each) for each in given]
        groups: list[dict[str, Any]] = [
            {"params": [each for each, is_chosen in zip(given, chosen, strict=True) if is_chosen == wanted]}
            for wanted in (True, False)
        ]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        matrices, others = self.param_groups
        for weight in matrices["params"]:
            if weight.grad is not None:
                self._update(weight, matrices)
        self.param_groups = [others]
        try:
            super().step()
        finally:
            self.param_groups = [matrices, others]

    def _update(self, weight: Parameter, group: dict[str, Any]) -> None:
        assert weight.grad is not None
        momentum = group["betas"][0]
        state = self.state[weight]
        if not state:
            # AdamW looks for its number of steps in every state that is loaded.
            state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(weight)}
        average = state["momentum"]
        # As for AdamW, one step with a gradient that is not finite must not spoil all later ones.
        stays = None if self.found_inf is None else self.found_inf > 0
        gradient = weight.grad if stays is None else weight.grad.where(~stays, average)
        average.lerp_(gradient, 1 - momentum)
        direction = orthogonalised(gradient.lerp(average, momentum).flatten(1))
        rate = group["lr"] * _SHARE * math.sqrt(max(direction.shape))
        updated = weight * (1 - group["lr"] * group["weight_decay"]) - rate * direction.view_as(weight)
        weight.copy_(updated if stays is None else updated.where(~stays, weight))


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter is a weight of several rows and columns, one row an output."""
    return parameter.ndim > 1 and min(parameter.shape[0], parameter[0].numel()) >= _LEAST


def orthogonalised(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """A matrix with the same singular vectors, whose singular values are between about 0.7 and 1.2.

    Singular values that are less than a hundredth of the matrix's norm stay smaller.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=_TINY)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = wide @ wide.T
        wide = a * wide + (b * square + c * square @ square) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
