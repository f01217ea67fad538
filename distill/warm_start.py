"""Warm start: the student's neck and head start as copies of the teacher's."""

from detectors.detector import Detector, DetectorSpec

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
