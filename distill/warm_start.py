"""Warm start: what teacher and student share begins as the teacher knows it."""

from detectors.detector import Detector

SHARED = ("neck", "head")
"""What follows the low-level BEV map, of whichever sensors that is made."""


def inherit(student: Detector, teacher: Detector) -> None:
    """Copy the teacher's neck and head, weights and running statistics, into the student.

    DistillBEV's and CRKD's students begin so; here it is also a control: what of a gain needs no loss at all?

    Raises:
        ValueError: The two are not built alike there.
    """
    for name in SHARED:
        if getattr(student.spec, name) != getattr(teacher.spec, name):
            raise ValueError(f"warm_start: the {name} of teacher and student are not built alike")
        getattr(student, name).load_state_dict(getattr(teacher, name).state_dict(), strict=True)
