"""Measures the gradient of each term on the student, and its cosine to the gradient of the detection loss."""

import torch
from torch import Tensor

from detectors.detector import Detector
from distill.objective import DETECTION_TERMS, Objective, ObjectiveOutput


def pulls(objective: Objective, output: ObjectiveOutput) -> dict[str, Tensor]:
    """Gradients of the weighted terms where all of them meet: on the student's low-level BEV map, and on its making.

    Every term reaches the low-level map, those on later maps through the neck; so there, and on the weights of the last
    layer before it, their gradients can be compared. Only X-IS ends before it, so that its pull is 0. Call it before
    ``output.total.backward()``, which frees the graph.

    Returns:
        For "detection" (heatmap and boxes together) and each distillation term: ``map_gradient/TERM`` and
        ``weight_gradient/TERM``, norms; for the distillation terms ``map_cosine/TERM`` and ``weight_cosine/TERM``, the
        cosine to the detection loss's gradient (0 where one of the two is zero). On the student's device.
    """
    assert output.bev_low is not None, "a student has a BEV map"
    where = {"map": output.bev_low, "weight": last_layer(objective.student)}
    detection = torch.stack([value for name, value in output.weighted.items() if name in DETECTION_TERMS]).sum()
    terms = {"detection": detection} | {
        name: value for name, value in output.weighted.items() if name not in DETECTION_TERMS
    }
    gradients = {name: _gradients(value, list(where.values())) for name, value in terms.items()}
    measures: dict[str, Tensor] = {}
    for name, values in gradients.items():
        for place, gradient, reference in zip(where, values, gradients["detection"], strict=True):
            measures[f"{place}_gradient/{name}"] = gradient.norm()
            if name != "detection":
                scale = (gradient.norm() * reference.norm()).clamp(min=torch.finfo(gradient.dtype).tiny)
                measures[f"{place}_cosine/{name}"] = gradient.flatten() @ reference.flatten() / scale
    return {name: value.float() for name, value in measures.items()}


def last_layer(student: Detector) -> Tensor:
    """The weights of the last linear or convolutional layer before the low-level map."""
    encoder = student.fusion or student.camera or student.lidar or student.radar
    assert encoder is not None
    return [parameter for parameter in encoder.parameters() if parameter.dim() > 1][-1]


def _gradients(value: Tensor, places: list[Tensor]) -> list[Tensor]:
    if not value.requires_grad:  # a term that met no object
        return [torch.zeros_like(place) for place in places]
    gradients = torch.autograd.grad(value, places, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g.detach() for g, p in zip(gradients, places, strict=True)]
