"""Warm start: the student's neck and head start as copies of the teacher's; image backbones start as others'."""

from detectors.detector import Detector, DetectorSpec
from detectors.encoders.image import SwinSpec
from detectors.encoders.resnet import ResNetSpec
from detectors.segmenter import Segmenter, SegmenterSpec

SHARED = ("neck", "head")
"""What follows the low-level BEV map, of whichever sensors that is made."""


def require_same_build(student: DetectorSpec, teacher: DetectorSpec) -> None:
    """Raise ValueError where neck or head of the two differ, or the width of the map that the neck reads."""
    for name in (*SHARED, "low_channels"):
        student_value, teacher_value = getattr(student, name), getattr(teacher, name)
        if student_value != teacher_value:
            raise ValueError(
                f"the student's {name} cannot start as the teacher's, which is {teacher_value}: it is {student_value}"
            )


def inherit(student: Detector, teacher: Detector) -> None:
    """Copy the teacher's neck and head, weights and running statistics, into the student.

    DistillBEV's and CRKD's students begin so; here it is also a control: what of a gain needs no loss at all?

    Raises:
        ValueError: The two are not built alike there.
    """
    require_same_build(student.spec, teacher.spec)
    for name in SHARED:
        getattr(student, name).load_state_dict(getattr(teacher, name).state_dict(), strict=True)


def require_same_backbone(detector: DetectorSpec, segmenter: SegmenterSpec) -> None:
    """Raise ValueError where the image backbones of the two differ, or the detector has no camera."""
    if detector.camera is None:
        raise ValueError("image_backbone is for detectors with cameras; this one has none")
    ours, theirs = detector.camera.image.backbone, segmenter.image.backbone
    # Whether its stem is trained further says nothing of what a backbone is made of.
    if _unfrozen(ours) != _unfrozen(theirs):
        raise ValueError(f"the image backbone cannot begin as the image teacher's, which is {theirs}: it is {ours}")


def _unfrozen(backbone: ResNetSpec | SwinSpec) -> ResNetSpec | SwinSpec:
    return backbone.model_copy(update={"frozen_stem": False}) if isinstance(backbone, ResNetSpec) else backbone


def begin_as(detector: Detector, segmenter: Segmenter) -> None:
    """Copy the image backbone, weights and running statistics, of an image teacher into a detector.

    What weights of ImageNet or nuImages are to the papers' cameras.

    Raises:
        ValueError: The two backbones are not built alike.
    """
    require_same_backbone(detector.spec, segmenter.spec)
    assert detector.camera is not None
    detector.camera.image.backbone.load_state_dict(segmenter.image.backbone.state_dict(), strict=True)
