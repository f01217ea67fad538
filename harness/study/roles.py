"""Specs of the models of a study: teachers and students that detect, and image teachers that segment."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from detectors.detector import DetectorSpec
from detectors.presets import SEGMENTERS, preset
from detectors.segmenter import SegmenterSpec
from detectors.spec import Spec
from distill.maps import TeacherMaps
from harness.errors import unknown
from harness.home import HomePath, expanded
from harness.study.changes import changed
from harness.study.maps_folder import maps_spec
from harness.study.schedule import AugmentSpec, ImageAugmentSpec, ScheduleSpec
from harness.study.search_spec import Seed


def _known_preset(name: str) -> str:
    preset(name)
    return name


def _known_segmenter(name: str) -> str:
    if name not in SEGMENTERS:
        raise ValueError(unknown("preset", name, SEGMENTERS))
    return name


class InitSpec(Spec):
    """Weights that a detector begins with, in place of random ones; the baseline of a student begins with the same."""

    image_backbone: str | None = None
    """An image teacher of the study with a preset: the image backbone begins as its backbone, as those of the papers
    begin with weights of ImageNet or nuImages."""
    image_weights: HomePath | None = None
    """A file with which the image backbone begins: torchvision's (``resnet50-0676ba61.pth``), or the same tensors as
    safetensors. Its content is part of what a training is; its place is not."""

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if self.image_backbone is not None and self.image_weights is not None:
            raise ValueError("image_backbone and image_weights exclude each other; leave one of them out")
        return self


class _Model(Spec):
    later = frozenset({"schedule"})

    preset: Annotated[str, AfterValidator(_known_preset)] | None = None
    """A key of PRESETS, an entry point of the group crossbev.presets, or ``package.module:SPEC`` of your own."""
    detector: DetectorSpec | None = None
    """A complete detector instead of a preset."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Changes to the preset, by dotted key: ``{lidar.widths: [16, 32, 48]}``."""
    keyframes: int = Field(default=1, ge=1, le=8)
    """Number of keyframes of the camera, the newest and earlier ones; short for ``set: {camera.keyframes: ...}``."""
    init: InitSpec = InitSpec()
    train_share: float | None = Field(default=None, gt=0, le=1)
    """The share of the training scenes that this detector is trained on, if not the study's (`data.train_share`)."""
    schedule: dict[str, Any] = Field(default={})
    """Fields of the schedule that this detector has otherwise than the study, such as ``{epochs: 20, batch_size: 32}``.
    A student's baselines have them, too."""

    @property
    def detector_spec(self) -> DetectorSpec:
        """The spec of the detector with all changes."""
        if self.detector is not None:
            return self.detector
        assert self.preset is not None, "a validator is for that"
        changes = dict(self.set)
        if "keyframes" in self.model_fields_set and preset(self.preset).camera is not None:
            changes["camera.keyframes"] = self.keyframes
        return changed(preset(self.preset), changes)

    @field_validator("set")
    @classmethod
    def _changes_fit(cls, changes: dict[str, Any], info: Any) -> dict[str, Any]:
        if (name := info.data.get("preset")) is not None:
            changed(preset(name), changes)
        return changes

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if getattr(self, "maps", None) is not None or getattr(self, "oracle", False):
            return self
        if (self.preset is None) == (self.detector is None):
            given = "both are" if self.preset else "neither is"
            raise ValueError(f"a teacher or student needs either a preset or a detector; {given} given")
        if self.detector is not None and (unused := self.model_fields_set & {"set", "keyframes"}):
            raise ValueError(f"{min(unused)} is for presets only; change the fields of the detector instead")
        if "keyframes" in self.model_fields_set and "camera.keyframes" in self.set:
            raise ValueError("keyframes and camera.keyframes of set are the same; leave one of them out")
        if self.keyframes > 1 and self.detector_spec.camera is None:
            raise ValueError(f"keyframes belong to cameras; preset {self.preset!r} has none")
        return self


class TeacherSpec(_Model):
    """A detector to learn from: trained here, given as a checkpoint or as its maps, or a control."""

    seed: Seed | Literal["paired"] = 0
    """Seed of one teacher for all students, or "paired": each student learns from the teacher of its own seed."""
    checkpoint: HomePath | None = None
    """A model.safetensors of the same preset. The teacher is then not trained."""
    trained: bool = True
    """False is a control: the teacher keeps its initial weights, so a gain is not due to its knowledge."""
    mirrored: bool = False
    """True is a control: students see the teacher's BEV maps and predictions mirrored left to right."""
    oracle: bool = False
    """True is a control, instead of a detector: it draws the annotations as the maps of a head that is never wrong. It
    has no BEV features."""

    @model_validator(mode="after")
    def _an_oracle_is_nothing_else(self) -> Self:
        if self.oracle and (unused := self.model_fields_set - {"oracle"}):
            raise ValueError(f"an oracle is no detector, so that {min(unused)} has no effect; leave it out")
        if self.mirrored and not self.trained:
            raise ValueError("mirrored and trained: false are two controls; leave one of them out")
        return self

    @property
    def is_control(self) -> bool:
        """Whether a gain from it is not that of a trained detector's knowledge."""
        return not self.trained or self.mirrored or self.oracle

    maps: HomePath | None = None
    """A folder with the maps and boxes of a detector outside of this project, one safetensors file a training sample,
    instead of a detector. docs/teachers.md describes the files."""
    resample: bool = False
    """Whether the maps of a teacher with another grid or BEV frame are brought to the student's, by bilinear sampling.
    Without it, such a teacher is refused."""

    @model_validator(mode="after")
    def _maps_have_no_detector(self) -> Self:
        if self.maps is not None and (unused := self.model_fields_set - {"maps", "resample"}):
            raise ValueError(f"maps stand for a detector that is not here, so that {min(unused)} has no effect")
        return self

    @property
    def looks(self) -> TeacherMaps:
        """What its maps are like; InputError where they are a folder that cannot be read."""
        return self.detector_spec if self.maps is None else maps_spec(self.maps)

    @property
    def sensors(self) -> frozenset[str]:
        """What it sees."""
        if self.oracle:
            return frozenset({"annotations"})
        return self.detector_spec.inputs.sensors if self.maps is None else frozenset(maps_spec(self.maps).sensors)

    @model_validator(mode="after")
    def _weights_have_no_seed(self) -> Self:
        if self.checkpoint is not None and self.seed == "paired":
            raise ValueError("a teacher from a checkpoint is the same for all students; its seed cannot be 'paired'")
        if self.checkpoint is not None and not self.trained:
            raise ValueError("checkpoint and trained: false exclude each other; leave one of them out")
        if self.checkpoint is not None and (unused := self.model_fields_set & {"init", "train_share", "schedule"}):
            raise ValueError(f"{min(unused)} has no effect on a teacher from a checkpoint, which is not trained")
        if not self.trained and (unused := self.model_fields_set & {"train_share", "schedule"}):
            raise ValueError(f"{min(unused)} has no effect on a teacher that is not trained; leave it out")
        return self

    def seed_for(self, student_seed: int) -> int:
        """Return the seed of the teacher for a student with this seed."""
        return student_seed if self.seed == "paired" else self.seed


class StudentSpec(_Model):
    """A detector that learns. It is trained once without a teacher (the baseline), and once for each path and arm."""

    longer_baseline: float | None = Field(default=None, gt=1, allow_inf_nan=False)
    """A control: a further baseline with the steps times this factor, because a distilled step takes longer."""

    @property
    def longer_arm(self) -> str:
        """What a table calls the longer baseline; empty without one."""
        return "" if self.longer_baseline is None else f"baseline, {self.longer_baseline:g} x steps"


class ImageDataSpec(Spec):
    """The dataset of an image teacher in nuImages format, with other scenes than those of the detectors."""

    preset: Literal["tiny", "small", "smoke"] = "tiny"
    """The embedded images to make on first use; ignored if a root is given."""
    seed: Seed = 0
    """The seed of the embedded images."""
    root: HomePath | None = None
    """A nuImages root of your own; the splits are then those of this root."""
    train_split: str = "v1.0-synthetic-images/train"
    """A version of the root, such as v1.0-train; or VERSION/NAME for a split of the version's splits.json."""
    eval_split: str = "v1.0-synthetic-images/val"


class ImageScheduleSpec(ScheduleSpec):
    """A schedule in single images. The defaults are those for the tiny segmenters."""

    steps: int | None = Field(default=1200, gt=0)
    lr: float = Field(default=3e-3, gt=0)
    """The highest learning rate."""
    weight_decay: float = Field(default=0.05, ge=0)
    augment: AugmentSpec = AugmentSpec(image=ImageAugmentSpec(zoom=(1.0, 1.3)))

    @field_validator("epochs")
    @classmethod
    def _is_in_steps(cls, epochs: float | None) -> float | None:
        if epochs is not None:
            raise ValueError("the schedule of an image teacher is in steps")
        return epochs

    @model_validator(mode="after")
    def _is_of_images(self) -> Self:
        for name in ("distillation_warmup", "distillation_cooldown"):
            if getattr(self, name):
                raise ValueError(f"{name} has no effect on an image teacher, which has no teacher; leave it out")
        if self.class_balanced:
            raise ValueError("class_balanced has no effect on an image teacher, which has no boxes; leave it out")
        if self.augment.image.resize is not None:
            raise ValueError(
                "an image teacher resizes images to its own size, whatever theirs is; give augment.image.zoom"
            )
        of_images = {name: getattr(self.augment, name) for name in ("mirror_probability", "image")}
        if self.augment != AugmentSpec(**of_images):
            raise ValueError(
                "of augment, only mirror_probability and image affect an image teacher; leave out the others"
            )
        return self


def _folder_expanded(model: str) -> str:
    return str(expanded(Path(model))) if model.startswith("~") else model


class ImageTeacherSpec(Spec):
    """A teacher that segments images: trained here, a model of transformers, or given labels."""

    preset: Annotated[str, AfterValidator(_known_segmenter)] | None = None
    """A key of SEGMENTERS. The segmenter is trained here."""
    model: Annotated[str, AfterValidator(_folder_expanded)] | None = None
    """A model of transformers for instance segmentation: its name on the Hugging Face hub, or a folder."""
    labels: HomePath | None = None
    """A folder of pseudo labels in COCO's format, in which file_name is the path of an image in the root."""
    seed: Seed = 0
    """Seed of a teacher that is trained here, the same for all students."""
    data: ImageDataSpec = ImageDataSpec()
    schedule: ImageScheduleSpec = ImageScheduleSpec()

    @model_validator(mode="after")
    def _is_one_of_three(self) -> Self:
        given = [name for name in ("preset", "model", "labels") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"an image teacher needs exactly one of preset, model and labels, not {' and '.join(given) or 'none'}"
            )
        if self.preset is None and (unused := self.model_fields_set & {"data", "schedule", "seed"}):
            raise ValueError(f"{min(unused)} applies only to an image teacher with a preset, which is trained here")
        return self

    @property
    def segmenter(self) -> SegmenterSpec:
        """The spec of its preset."""
        assert self.preset is not None, "only a teacher that is trained here is one of ours"
        return SEGMENTERS[self.preset]
