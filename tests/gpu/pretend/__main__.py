"""python -m tests.gpu.pretend SECTION ROWS [ARGUMENT ...]: run a section of `tests.gpu` on the pretended device."""

import sys

from tests.gpu.pretend.device import Log, pretend_cuda  # isort: skip

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tests.gpu import resume, steps, waits
from tests.gpu.pretend import contract

SECTIONS = {"steps": steps, "waits": waits, "contract": contract, "resume": resume}
"""What can be pretended."""


def main() -> None:
    """Run one section, whose rows go to a file."""
    section = sys.argv.pop(1)
    torch.set_num_threads(1)
    # A process that loads samples, and a training of few steps.
    resume.STEPS, resume.STOP, resume.LOADER_WORKERS = 4, 2, 1
    with pretend_cuda() as log:
        waits.counted = lambda: _counted(log)
        SECTIONS[section].main()


@contextmanager
def _counted(log: Log) -> Iterator[Counter[str]]:
    """What `waits.counted` does, from the device's own log."""
    lines: Counter[str] = Counter()
    log.clear()
    yield lines
    for (kind, place), number in log.waits.items():
        lines[f"{place} ({kind})"] += number


if __name__ == "__main__":
    main()
