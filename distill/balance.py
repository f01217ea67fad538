"""Balance: weights that set themselves, so that each loss pulls at the student's BEV map as strongly as asked."""

from collections.abc import Mapping

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from detectors.asynchronous import constant

MEASURED_STEPS = 50
"""The first steps of a training, in which the gradients are measured; afterwards the weights stay as they are."""


class Balance(nn.Module):
    """The weights of losses with a wanted pull: what share of the detection loss's gradient theirs shall be.

    w = pull * (sum over steps |d L_det / d F_low|) / (sum over steps |d L / d F_low|), with L unweighted and L_det
    weighted as the student's head says. The sums grow in the first MEASURED_STEPS steps, the step itself included, so
    the very first one is pulled as it is asked for, too. They are buffers, and so a part of what a training saves.

    Args:
        pulls: The wanted shares, by the names of the losses.
    """

    detection_norm: Tensor
    term_norms: Tensor

    def __init__(self, pulls: Mapping[str, float]) -> None:
        super().__init__()
        self.pulls = dict(sorted(pulls.items()))
        self.register_buffer("detection_norm", torch.zeros(()))
        self.register_buffer("term_norms", torch.zeros(len(pulls)))

    def norms(
        self,
        detection: Float[Tensor, ""],
        terms: Mapping[str, Float[Tensor, ""]],
        bev_low: Float[Tensor, "b c y x"],
    ) -> Float[Tensor, " terms"]:
        """The norms of the gradients on the student's low-level BEV map: detection's, then those of the losses.

        Args:
            detection: The detection loss, weighted.
            terms: The losses, unweighted; those without a wanted pull are left out.
            bev_low: The map, which all of them were computed from.
        """
        # A backward pass has the types of its forward pass, and needs no autocast of its own.
        with torch.autocast(bev_low.device.type, enabled=False):
            measured = [detection, *(terms[name] for name in self.pulls)]
            return torch.stack([_gradient_norm(value, bev_low) for value in measured])

    def add(self, norms: Float[Tensor, " terms"]) -> None:
        """Take the norms of one step into account."""
        self.detection_norm += norms[0]
        self.term_norms += norms[1:]

    def weights(self) -> dict[str, Float[Tensor, ""]]:
        """The weights as they are now; 0 of a loss that has had no gradient so far."""
        wanted = constant(tuple(self.pulls.values()), self.term_norms) * self.detection_norm
        pulling = self.term_norms > 0
        weights = torch.where(pulling, wanted / torch.where(pulling, self.term_norms, 1.0), 0.0)
        return dict(zip(self.pulls, weights.unbind(), strict=True))

    def frozen(self) -> dict[str, float]:
        """The weights once they stay as they are.

        Raises:
            ValueError: A loss has had no gradient in any of the measured steps, so that no weight lets it pull.
        """
        weights = {name: float(weight) for name, weight in self.weights().items()}
        for name, norm in zip(self.pulls, self.term_norms.tolist(), strict=True):
            if norm == 0:
                raise ValueError(
                    f"weight {{pull: {self.pulls[name]:g}}} of loss {name!r}: in the first {MEASURED_STEPS} steps it "
                    "has no gradient on the student's low-level BEV map; give it a number for its weight"
                )
        return weights


def _gradient_norm(value: Float[Tensor, ""], bev_low: Float[Tensor, "b c y x"]) -> Float[Tensor, ""]:
    if not value.requires_grad:  # a term that met no object
        return bev_low.new_zeros((), dtype=torch.float32)
    (gradient,) = torch.autograd.grad(value, [bev_low], retain_graph=True, allow_unused=True)
    return bev_low.new_zeros((), dtype=torch.float32) if gradient is None else gradient.float().norm()
