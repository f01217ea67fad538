"""How a training goes: its length, its learning rate, and how its samples are varied."""

import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveFloat, model_validator

from detectors.spec import Spec


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"{list(bounds)} is not [smallest, largest]")
    return bounds


_Bounds = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ordered)]


class ImageAugmentSpec(Spec):
    """How each image is varied on its own."""

    zoom: _Bounds = (1.0, 1.0)
    """Smallest and largest size, in multiples of what just covers the detector's input; what stands over is cropped."""
    rotation_degrees: float = Field(default=0.0, ge=0, le=45)
    """Turned by up to so much either way."""
    flip_probability: float = Field(default=0.0, ge=0, le=1)
    """Left and right of one image exchanged, and of what it shows nothing else: orientation becomes ambiguous."""


class AugmentSpec(Spec):
    """How training samples are varied; teacher and student see the same variant.

    Only mirrored unless a study says more: in the few epochs of the tiny studies more variation hides the training
    scenes from a detector and does nothing for other ones.
    """

    mirror_probability: float = Field(default=0.5, ge=0, le=1)
    """The whole world with its images, left and right exchanged."""
    rotation_degrees: float = Field(default=0.0, ge=0, le=180)
    """The BEV frame is turned by up to so much either way."""
    scale: _Bounds = (1.0, 1.0)
    """The BEV frame is scaled by a factor between the two."""
    flip_probability: float = Field(default=0.0, ge=0, le=1)
    """How likely x becomes -x in the BEV frame, and how likely y becomes -y; the images stay as they are."""
    shift: float = Field(default=0.0, ge=0)
    """The BEV frame is shifted by up to so many metres either way along x and along y."""
    image: ImageAugmentSpec = ImageAugmentSpec()


Share = Annotated[float, Field(gt=0, lt=1)]


class ScheduleSpec(Spec):
    """How long and how fast every training of the study learns, with AdamW."""

    steps: int | None = Field(default=None, gt=0)
    epochs: PositiveFloat | None = Field(default=None, allow_inf_nan=False)
    """Instead of steps: so many times every training sample; a step that has begun is done."""
    batch_size: int = Field(default=8, gt=0)
    lr: float = Field(default=2e-3, gt=0)
    """The highest learning rate."""
    policy: Literal["one_cycle", "multi_step"] = "one_cycle"
    """Up and down again, or a tenth from each milestone on."""
    milestones: tuple[Share, ...] = (0.7, 0.9)
    """Where "multi_step" lowers the rate, in shares of the training."""
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=10.0, gt=0)
    """Largest norm of all gradients together."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    distillation_warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of a distilled training in which the weights of its losses grow, linearly, from nothing to full."""
    augment: AugmentSpec = AugmentSpec()

    @model_validator(mode="after")
    def _length_is_given_once(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        return self

    def for_samples(self, samples: int) -> Self:
        """The same schedule in steps, for a training split of so many samples."""
        if self.epochs is None:
            return self
        return self.model_copy(update={"steps": math.ceil(self.epochs * samples / self.batch_size), "epochs": None})

    @property
    def length(self) -> int:
        """Steps of a schedule that has them, as those of all jobs do."""
        if self.steps is None:
            raise RuntimeError("a schedule in epochs has to be put in steps by for_samples first")
        return self.steps
