"""How often the host waits for the card in a training step, by torch's own sync debug mode, and at which lines."""

import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harness.study.schedule import ScheduleSpec
from harness.train.optim import optimizer_of
from tests.gpu.common import Rows, asked_cases, full_batch, objective_of

REPOSITORY = Path(__file__).parents[2]


def main() -> None:
    """One row a case, with the lines that wait most."""
    rows, batch = Rows(), replace(full_batch(2), lifts={})  # as the loader has it for a GPU
    for name, student, teacher, losses in asked_cases():
        objective = objective_of(student, teacher, losses).to("cuda").train()
        trained = [p for p in objective.parameters() if p.requires_grad]
        optimizer = optimizer_of(trained, ScheduleSpec(steps=1))
        for _ in range(2):  # the first one makes what stays on the card
            with counted() as lines:
                moved = batch.to("cuda")
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    output = objective(moved)
                output.total.backward()
                torch.nn.utils.clip_grad_norm_(trained, 10.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        rows.add(case=name, waits=sum(lines.values()), lines="; ".join(f"{k} {n}" for k, n in lines.most_common()))


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count waits inside, by line."""
    lines: Counter[str] = Counter()

    def note(*args: Any, **kwargs: Any) -> None:
        lines[_line()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lines
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _line() -> str:
    """The innermost line of ours that waits."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(REPOSITORY) and path.parent.name != "gpu" and not str(path).startswith(sys.prefix):
            return f"{os.path.relpath(path, REPOSITORY)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "backward or batch"


if __name__ == "__main__":
    main()
