"""fit: the training loop, in full view, on Lightning Fabric."""

import io
import math
import time
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn as nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from distill.gradients import pulls
from distill.objective import Objective, ObjectiveOutput
from harness.data.loader import SampleSet, training_batches
from harness.data.nuimages import ImageSet
from harness.runs.folder import RunFolder, atomic_write
from harness.study.schedule import ScheduleSpec
from harness.train.optim import learning_rate, optimizer_of
from harness.train.segmentation import SegmentationObjective
from harness.train.streams import stream_seed

if TYPE_CHECKING:
    from lightning.fabric import Fabric

SAVE_EVERY_SECONDS = 30.0
PULL_EVERY = 50
"""Steps between two measurements of the gradients of each term."""


class Interrupted(Exception):
    """The training was asked to stop; its state is saved."""


def fit(
    fabric: "Fabric",
    objective: Objective | SegmentationObjective,
    samples: SampleSet | ImageSet,
    schedule: ScheduleSpec,
    seed: int,
    run: RunFolder,
    stop: Callable[[], bool],
    loader_workers: int = 0,
) -> None:
    """Train `objective.student` (and what only training needs), from the run's saved state where there is one.

    Raises:
        Interrupted: `stop` said so.
        FloatingPointError: A term became NaN or infinite.
    """
    objective.to(fabric.device).train()
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = fabric.setup_optimizers(optimizer_of(trained, schedule))
    course = learning_rate(optimizer, schedule)
    start = _restore(run, objective, optimizer, course)

    saved = began = time.monotonic()
    cpu_began = time.process_time()
    steps = range(start, schedule.length)
    order, augmentation = stream_seed(seed, "order"), stream_seed(seed, "augmentation")
    batches = training_batches(samples, schedule.batch_size, steps, order, augmentation, loader_workers)
    for step, batch in zip(steps, batches, strict=True):
        with fabric.autocast():
            output = objective(batch.to(fabric.device), _ramp(step, schedule))
        optimizer.zero_grad(set_to_none=True)
        pull: dict[str, float] = {}
        if isinstance(objective, Objective) and len(objective.terms) and step % PULL_EVERY == 0:
            pull = pulls(objective, output)
        fabric.backward(output.total)
        norm = float(fabric.clip_gradients(objective, optimizer, max_norm=schedule.clip_norm, error_if_nonfinite=False))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient of step {step} is {norm}; all losses are finite")
        optimizer.step()
        rate = course.get_last_lr()[0]
        course.step()

        run.log_step(
            step,
            {
                "batch": batch_name(batch.tokens),
                **_terms(output),
                **pull,
                "lr": float(rate),
                "gradient_norm": norm,
                "seconds": time.monotonic() - began,
                "cpu_seconds": time.process_time() - cpu_began,
            },
        )
        began, cpu_began = time.monotonic(), time.process_time()
        stopping = stop() and step + 1 < schedule.length
        if stopping or time.monotonic() - saved > SAVE_EVERY_SECONDS:
            _save(run, objective, optimizer, course, step + 1)
            saved = time.monotonic()
        if stopping:
            raise Interrupted(f"stopped after step {step + 1} of {schedule.length}")
    if isinstance(objective, Objective) and objective.teacher is not None:
        objective.teacher.check_unchanged()
    # Whatever interrupts the scoring does not cost the training.
    _save(run, objective, optimizer, course, schedule.length)


def batch_name(tokens: Sequence[str]) -> int:
    """A number by which a log names the samples of a batch, in their order."""
    return zlib.crc32("\n".join(tokens).encode())


def _terms(output: ObjectiveOutput) -> dict[str, float]:
    """The loss, and each of its terms raw, weighted and as a share of it; one transfer to the host for all."""
    named = {"loss": output.total}
    named |= {f"raw/{name}": value for name, value in output.raw.items()}
    named |= {f"weighted/{name}": value for name, value in output.weighted.items()}
    values = dict(zip(named, torch.stack([value.detach() for value in named.values()]).tolist(), strict=True))
    loss = values["loss"] or math.nan  # nothing has no shares
    return values | {f"share/{name}": values[f"weighted/{name}"] / loss for name in output.weighted}


def _ramp(step: int, schedule: ScheduleSpec) -> float:
    """Return the factor of the weights of the distillation losses at a step."""
    growing = schedule.distillation_warmup * schedule.length
    return min(1.0, (step + 1) / growing) if growing else 1.0


def _save(run: RunFolder, objective: nn.Module, optimizer: Optimizer, course: LRScheduler, step: int) -> None:
    state = {
        "objective": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
        "learning_rate": course.state_dict(),
        "step": step,
    }
    content = io.BytesIO()
    torch.save(state, content)
    atomic_write(run.state, content.getvalue())


def _restore(run: RunFolder, objective: nn.Module, optimizer: Optimizer, course: LRScheduler) -> int:
    """The step to go on with."""
    if not run.state.is_file():
        run.rewind(0)
        return 0
    state = torch.load(run.state, weights_only=True, map_location="cpu")
    objective.load_state_dict(state["objective"], strict=True)
    optimizer.load_state_dict(state["optimizer"])
    course.load_state_dict(state["learning_rate"])
    run.rewind(state["step"])
    return state["step"]
