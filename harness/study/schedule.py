"""Specs of a training: length, learning rate and augmentation."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from detectors.geometry.boxes import CLASSES
from detectors.names import unknown
from detectors.spec import Spec


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"{list(bounds)} is not [smallest, largest]")
    return bounds


_Bounds = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ordered)]


class ImageAugmentSpec(Spec):
    """Augmentation of each image by itself."""

    later = frozenset({"resize"})

    zoom: _Bounds = (1.0, 1.0)
    """Smallest and largest size, relative to the size that just covers the detector's input. The rest is cropped."""
    resize: _Bounds | None = None
    """Instead of `zoom`, as papers have it: smallest and largest ratio of resized to file pixels. Of what is larger
    than the input, the bottom rows stay, and columns from a random one on. Where it is smaller, the image is black at
    the top and on the right."""
    rotation_degrees: float = Field(default=0.0, ge=0, le=45)
    """Largest rotation in either direction, degrees."""
    flip_probability: float = Field(default=0.0, ge=0, le=1)
    """Probability of mirroring one image without its scene. Orientations then become ambiguous."""

    @model_validator(mode="after")
    def _size_is_given_once(self) -> Self:
        if self.resize is not None and self.zoom != type(self).model_fields["zoom"].default:
            raise ValueError("zoom and resize are two ways to give the size of an image; leave one of them out")
        return self

    def largest(self, file: tuple[int, ...], size: tuple[int, int]) -> float:
        """The largest factor that an image is resized by.

        Args:
            file: Height and width of the image.
            size: Height and width that it is cropped to.
        """
        if self.resize is not None:
            return self.resize[1]
        return max(size[0] / file[0], size[1] / file[1]) * self.zoom[1]


def _counts_of_classes(counts: dict[str, int]) -> dict[str, int]:
    for name in counts:
        if name not in CLASSES:
            raise ValueError(unknown("class", name, CLASSES))
    return counts


class PasteSpec(Spec):
    """GT-paste: annotated objects of other training samples are put into the points of detectors with LiDAR alone.

    An object is put where it stood. It is left out where it would overlap another one, seen from above.
    """

    counts: Annotated[dict[str, PositiveInt], AfterValidator(_counts_of_classes)] = Field(
        default={
            "car": 2,
            "truck": 3,
            "construction_vehicle": 7,
            "bus": 4,
            "trailer": 6,
            "barrier": 2,
            "motorcycle": 6,
            "bicycle": 6,
            "pedestrian": 2,
            "traffic_cone": 2,
        }
    )
    """Of a class, so many objects are drawn as a sample has fewer than this. The default is CenterPoint's."""
    min_points: PositiveInt = 5
    """Least number of LiDAR returns of an object, of all sweeps that the detector reads."""
    until: float = Field(default=1.0, gt=0, le=1)
    """Share of the training after which nothing is pasted any more (0.75: 15 of 20 epochs, as BEVFusion)."""


class AugmentSpec(Spec):
    """How training samples are varied; teacher and student see the same variant.

    Only mirrored unless a study says more: in the few epochs of the tiny studies more variation hides the training
    scenes from a detector and does nothing for other ones.
    """

    later = frozenset({"shift_std", "paste"})

    mirror_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability of mirroring the whole scene with its images."""
    rotation_degrees: float = Field(default=0.0, ge=0, le=180)
    """Largest rotation of the BEV frame in either direction, degrees."""
    scale: _Bounds = (1.0, 1.0)
    """Range of the factor that scales the BEV frame."""
    flip_probability: float = Field(default=0.0, ge=0, le=1)
    """Probability of x becoming -x, and of y becoming -y, in the BEV frame; images stay as they are."""
    shift: float = Field(default=0.0, ge=0)
    """Largest shift of the BEV frame along x and along y, in either direction, metres."""
    shift_std: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = (0.0, 0.0, 0.0)
    """Standard deviation of a normal shift of the BEV frame along x, y and z, metres, on top of `shift`."""
    image: ImageAugmentSpec = ImageAugmentSpec()
    paste: PasteSpec | None = None
    """Objects that are put into LiDAR points before all else; none by default."""


class TeacherCacheSpec(Spec):
    """What a detector says of each training sample, kept on disk for all students of a study.

    What the losses read of it is stored in float16, and used so from the first time on.
    """

    variants: PositiveInt = 8
    """Augmented variants of each sample; an epoch has the next of them, and after the last comes the first again."""


Share = Annotated[float, Field(gt=0, lt=1)]


class BatchSpec(Spec):
    """A batch that is computed in parts, whose gradients add up to that of the whole batch."""

    model_config = ConfigDict(serialize_by_alias=True)

    samples: PositiveInt = Field(alias="global")
    """Samples of a step, on all GPUs of a job together."""
    micro: PositiveInt | Literal["auto"] | None = None
    """Samples that a GPU computes at once; auto: as many as fit into its memory, or the whole batch on a CPU."""


BatchSize = Annotated[
    Annotated[PositiveInt, Tag("(number)")] | Annotated[BatchSpec, Tag("(parts)")],
    Discriminator(lambda value: "(parts)" if isinstance(value, dict | BatchSpec) else "(number)"),
]
"""A number of samples, or that number and how many of them are computed at once."""


class ScheduleSpec(Spec):
    """Length and learning rate of every training of the study."""

    later = frozenset(
        {
            "teacher_cache",
            "ema",
            "distillation_cooldown",
            "lr_for_batch",
            "skip_non_finite",
            "deterministic",
            "optimizer",
            "class_balanced",
        }
    )

    steps: int | None = Field(default=None, gt=0)
    epochs: PositiveFloat | None = Field(default=None, allow_inf_nan=False)
    """Number of passes over the training samples, or of class-balanced epochs, instead of steps, rounded up to whole
    steps."""
    class_balanced: bool = False
    """Draw samples so that each class is drawn equally often (CBGS), instead of each sample once."""
    batch_size: BatchSize = 8
    """Samples of a step; or ``{global: 64, micro: 4}``, of which each GPU computes four at once, or ``micro: auto``."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """The papers' AdamW; or Muon, with which the tiny LiDAR needs two thirds of the steps, each a sixth dearer."""
    lr: float = Field(default=2e-3, gt=0)
    """The highest learning rate."""
    lr_for_batch: PositiveInt | None = None
    """If given, ``lr`` is that of a batch of this size, and is scaled in proportion to the batch that there is."""
    policy: Literal["one_cycle", "multi_step"] = "one_cycle"
    """Course of the learning rate: up and down again, or divided by ten at each milestone."""
    milestones: tuple[Share, ...] = (0.7, 0.9)
    """Milestones of "multi_step", as shares of the training."""
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=10.0, gt=0)
    """Largest allowed norm of all gradients together."""
    skip_non_finite: int = Field(default=3, ge=0)
    """Updates that a training may leave out because their gradient is NaN or infinite, before it stops."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay, a step, of the exponential moving average of weights and statistics that is scored in place of the last
    ones. In the first n steps it is at most (1 + n) / (10 + n), or the initial weights would weigh too much."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    deterministic: bool = False
    """Whether a GPU uses only operations that give the same bits each time. No part of what a training is: whatever a
    deterministic training gives, one without it may give, too."""
    distillation_warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of a distilled training in which the weights of its losses grow linearly from 0."""
    distillation_cooldown: float = Field(default=0.0, ge=0, lt=1)
    """Share of a distilled training, its last part, in which the weights of its losses fall linearly to 0."""
    augment: AugmentSpec = AugmentSpec()
    teacher_cache: TeacherCacheSpec | None = None
    """If given, samples have a fixed number of augmented variants, and what losses read of a teacher is kept."""

    @field_validator("batch_size")
    @classmethod
    def _is_in_parts_or_a_number(cls, size: Any) -> Any:
        # Equal batches have one identity, however they are written.
        if isinstance(size, BatchSpec) and size.micro in (None, size.samples):
            return size.samples
        if isinstance(size, BatchSpec) and isinstance(size.micro, int) and size.micro > size.samples:
            raise ValueError(f"micro is {size.micro}, more than the {size.samples} of global")
        return size

    @model_validator(mode="after")
    def _length_is_given_once(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        return self

    @model_validator(mode="after")
    def _a_cached_teacher_sees_what_students_see(self) -> Self:
        if self.augment.paste and self.teacher_cache:
            raise ValueError(
                "augment.paste puts objects into samples, which a teacher with a teacher_cache has not seen; leave one "
                "of them out"
            )
        return self

    @model_validator(mode="after")
    def _a_cached_sample_is_drawn_once_an_epoch(self) -> Self:
        if self.class_balanced and self.teacher_cache:
            raise ValueError(
                "class_balanced draws a sample several times in an epoch, each time varied in another way, and "
                "teacher_cache has one variant of it for an epoch; leave one of them out"
            )
        return self

    def for_samples(self, samples: int) -> Self:
        """Return the same schedule in steps, for epochs of this number of samples."""
        if self.epochs is None:
            return self
        return self.model_copy(update={"steps": math.ceil(self.epochs * samples / self.global_batch), "epochs": None})

    def without_distillation(self) -> Self:
        """Return the same schedule without what only distillation reads."""
        return self.model_copy(update={"distillation_warmup": 0.0, "distillation_cooldown": 0.0})

    @property
    def global_batch(self) -> int:
        """Samples of a step."""
        return self.batch_size.samples if isinstance(self.batch_size, BatchSpec) else self.batch_size

    @property
    def micro_batch(self) -> int | Literal["auto"] | None:
        """Samples that are computed at once; None: all of a step."""
        return self.batch_size.micro if isinstance(self.batch_size, BatchSpec) else None

    @property
    def loaded_together(self) -> int:
        """Samples that a loading process makes one batch of, at most."""
        return self.micro_batch if isinstance(self.micro_batch, int) else self.global_batch

    @property
    def peak_lr(self) -> float:
        """The highest learning rate, of the batch that there is."""
        return self.lr if self.lr_for_batch is None else self.lr * self.global_batch / self.lr_for_batch

    @property
    def length(self) -> int:
        """The steps. The schedule must be in steps, as those of all jobs are."""
        if self.steps is None:
            raise RuntimeError("a schedule in epochs has to be put in steps by for_samples first")
        return self.steps
