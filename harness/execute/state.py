"""JobState: where a job of a study is, for the executor that moves it and the displays that show it."""

from dataclasses import dataclass
from typing import Literal

from harness.study.jobs import Job

Status = Literal["waiting", "running", "done", "failed", "dropped"]
"""A dropped job is one that nobody wanted any more."""


@dataclass
class JobState:
    """A job as a display shows it."""

    job: Job
    status: Status
    reason: str = ""
    """Reason of the failure."""
    wrong_input: bool = False
    """Whether wrong input caused the failure."""
    step: int = 0
    loss: float | None = None
    seconds_left: float | None = None
    """Remaining seconds of its training, estimated from the latest steps."""
    expected: float | None = None
    """Seconds of the whole job, as they were estimated before it began; None if nobody did."""
    process: int | None = None
    """Number of the process that runs or ran it in this walk."""
    began: float | None = None
    """When that process began, by `time.monotonic`."""
    ended: float | None = None
    """When it ended."""
