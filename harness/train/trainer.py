"""fit: the training loop, in full view,; one student, or several side by side."""

import io
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from detectors.batch import Batch, ImageBatch
from detectors.detector import Detector
from detectors.outputs import DetectorOutput
from detectors.segmenter import Segmenter
from distill.balance import MEASURED_STEPS
from distill.gradients import pulls
from distill.objective import Objective, Teacher
from harness.data.loader import SampleSet, training_batches
from harness.data.nuimages import ImageSet
from harness.diagnose.machine import Machine
from harness.errors import InputError
from harness.runs.folder import RunFolder, atomic_write
from harness.study.schedule import ScheduleSpec
from harness.train.ahead import moved_ahead
from harness.train.optim import learning_rate, optimizer_of
from harness.train.segmentation import SegmentationObjective
from harness.train.step_log import FETCH_EVERY, StepLog, not_finite
from harness.train.streams import stream_seed

SAVE_EVERY_SECONDS = 30.0
PULL_EVERY = 50
"""Steps between two measurements of the gradients of each term."""


class Interrupted(Exception):
    """The training was asked to stop; its state is saved."""


class Training:
    """One student's training: its objective, optimizer and log, from the run's saved state where there is one."""

    def __init__(
        self,
        machine: Machine,
        objective: Objective | SegmentationObjective,
        schedule: ScheduleSpec,
        seed: int,
        run: RunFolder,
    ) -> None:
        self.objective, self.run = objective.to(machine.device).train(), run
        self._machine, self._schedule, self._seed = machine, schedule, stream_seed(seed, "training")
        trained = [p for p in objective.parameters() if p.requires_grad]
        self._optimizer = optimizer_of(trained, schedule)
        self._course = learning_rate(self._optimizer, schedule)
        self.log = StepLog(run, FETCH_EVERY if machine.device.type == "cuda" else 1)
        self._average: AveragedModel | None = None
        if schedule.ema is not None:
            model = self.objective.student
            self._average = AveragedModel(model, multi_avg_fn=self._draw_after, use_buffers=True)
        self.next = self._restore()
        """The step that is next."""

    @property
    def teacher(self) -> Teacher | None:
        """The detector, or the maps, that it learns from."""
        return self.objective.teacher if isinstance(self.objective, Objective) else None

    def step(self, batch: Batch | ImageBatch, seen: DetectorOutput | None = None) -> None:
        """Take the next step; its log waits to hear how long it took.

        Args:
            batch: The step's, on the device.
            seen: What the teacher makes of the batch, where that is known already.

        Raises:
            FloatingPointError: A term, or the gradient, became NaN or infinite; on a GPU also in one of the steps
                since the last fetch. No weight has moved by such a gradient.
        """
        step, schedule, optimizer = self.next, self._schedule, self._optimizer
        # A function of seed and step: neither an interruption nor what trains beside it changes what is drawn.
        torch.manual_seed((self._seed + step) % 2**63)
        given: dict[str, Any] = {} if seen is None else {"seen": seen}
        if isinstance(self.objective, Objective):
            given["measure"] = step < MEASURED_STEPS
        with self._machine.autocast():
            output = self.objective(batch, _ramp(step, schedule), **given)
        optimizer.zero_grad(set_to_none=True)
        pull: dict[str, Tensor] = {}
        if isinstance(self.objective, Objective) and len(self.objective.terms) and step % PULL_EVERY == 0:
            pull = pulls(self.objective, output)
        output.total.backward()
        norm = clip_grad_norm_(self.objective.parameters(), schedule.clip_norm)
        known = {"batch": batch_name(batch.tokens), "lr": float(self._course.get_last_lr()[0])}
        self.log.add(step, known, output, pull, norm)
        if self.log.is_full or step + 1 == schedule.length:
            self.log.fetch()
        if not self.log.fetches_each:
            # Nobody has looked at the gradient yet: the device itself leaves the weights as they are.
            optimizer.found_inf = not_finite(norm)  # type: ignore[attr-defined]
        optimizer.step()
        self._course.step()
        if self._average is not None:
            self._average.update_parameters(self.objective.student)
        self.next += 1
        if self.next == min(MEASURED_STEPS, schedule.length):
            self.set_weights()

    def save(self) -> None:
        """Write the log so far, and the state from which `Training` goes on.

        Raises:
            FloatingPointError: As for `step`; the state that was saved before stays.
        """
        self.log.flush()
        state = {
            "objective": self.objective.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "learning_rate": self._course.state_dict(),
            "step": self.next,
        }
        if self._average is not None:
            state["average"] = self._average.state_dict()
        content = io.BytesIO()
        torch.save(state, content)
        atomic_write(self.run.state, content.getvalue())

    def scored(self) -> Detector | Segmenter:
        """The model that the training comes to: the moving average where there is one, or else the trained one."""
        if self._average is not None:
            self.objective.student.load_state_dict(self._average.module.state_dict(), strict=True)
        return self.objective.student

    def set_weights(self) -> dict[str, float]:
        """The weights that have set themselves, by the names of their losses; final after MEASURED_STEPS.

        Raises:
            InputError: A loss has had no gradient to set its weight by.
        """
        if not isinstance(self.objective, Objective) or self.objective.balance is None:
            return {}
        try:
            return self.objective.balance.frozen()
        except ValueError as error:
            raise InputError(str(error)) from error

    def _draw_after(self, averaged: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        """Move the average's tensors towards the current ones."""
        assert self._schedule.ema is not None
        # Of few steps while there have been few. The number of updates would have to be fetched from a GPU.
        decay = min(self._schedule.ema, (1 + self.next) / (10 + self.next))
        get_ema_multi_avg_fn(decay)(averaged, current, updates)

    def _restore(self) -> int:
        """Load what `save` wrote; the step to go on with."""
        step = 0
        if self.run.state.is_file():
            state = torch.load(self.run.state, weights_only=True, map_location="cpu")
            self.objective.load_state_dict(state["objective"], strict=True)
            self._optimizer.load_state_dict(state["optimizer"])
            self._course.load_state_dict(state["learning_rate"])
            if self._average is not None:
                self._average.load_state_dict(state["average"], strict=True)
            step = state["step"]
        self.run.rewind(step)
        return step


def fit(
    machine: Machine,
    trainings: Sequence[Training],
    samples: SampleSet | ImageSet,
    schedule: ScheduleSpec,
    seed: int,
    stop: Callable[[], bool],
    loader_workers: int = 0,
    dropped: Callable[[RunFolder], bool] = lambda run: False,
) -> None:
    """Train side by side on the same batches, each to the end of the schedule.

    One batch is loaded, and one look of the teacher taken at it, for all. Each training ends with the very weights
    that it would have alone. Of several, one that fails leaves the others to go on; it is for the caller to see that
    its `next` is short of the schedule.

    Args:
        machine: Their device.
        trainings: Of one student, with one teacher.
        samples: What all of them read.
        schedule: Theirs.
        seed: Theirs, which decides order and augmentation.
        stop: Whether to stop, asked after every step.
        loader_workers: Processes that load ahead.
        dropped: Whether nobody wants the training of a folder any more, asked after every step. It saves its state and
            leaves the others to go on.

    Raises:
        Interrupted: `stop` said so; the states are saved.
        FloatingPointError: A term of the only training became NaN or infinite.
    """
    going = list(trainings)

    def goes_on(training: Training, action: Callable[[], None]) -> bool:
        """Whether a training survives an action; the only one must."""
        try:
            action()
        except Exception:
            if len(trainings) == 1:
                raise
            traceback.print_exc()
            print(f"{training.run.path.name} does not go on beside the others")
            going.remove(training)
            return False
        return True

    saved = began = time.monotonic()
    cpu_began = time.process_time()
    steps = range(min(training.next for training in going), schedule.length)
    variants = None if schedule.teacher_cache is None else schedule.teacher_cache.variants
    # Variants that are kept are those of all seeds, or each seed would need a cache of its own.
    order, augmentation = stream_seed(seed, "order"), stream_seed(seed if variants is None else 0, "augmentation")
    batches = training_batches(samples, schedule.batch_size, steps, order, augmentation, loader_workers, variants)
    for step, batch in zip(steps, moved_ahead(batches, machine.device), strict=True):
        due = [training for training in going if training.next == step]
        seen = _seen(machine, due, batch) if len(due) > 1 else {}
        steps_of = [(each, partial(each.step, batch, seen.get(id(each.teacher)))) for each in due]
        stepped = [training for training, take in steps_of if goes_on(training, take)]
        if not going:
            break
        # An equal share of what the step took, for each.
        share = max(1, len(stepped))
        seconds, cpu_seconds = (time.monotonic() - began) / share, (time.process_time() - cpu_began) / share
        began, cpu_began = time.monotonic(), time.process_time()
        for training in stepped:
            training.log.timed(seconds, cpu_seconds)
        for training in [each for each in going if dropped(each.run)]:
            if goes_on(training, training.log.flush):
                training.save()
                going.remove(training)
        stopping = stop() and step + 1 < schedule.length
        if stopping or time.monotonic() - saved > SAVE_EVERY_SECONDS:
            for training in stepped:
                if goes_on(training, training.log.flush):
                    training.save()
            saved = time.monotonic()
        if stopping:
            raise Interrupted(f"stopped after step {step + 1} of {schedule.length}")
        if not going:
            break
    for training in going:
        if training.teacher is not None:
            training.teacher.check_unchanged()
        # Whatever interrupts the scoring does not cost the training.
        training.save()


def _seen(machine: Machine, trainings: Sequence[Training], batch: Batch | ImageBatch) -> dict[int, DetectorOutput]:
    """What the teachers of these trainings make of a batch, by the id of each."""
    teachers = {id(training.teacher): training.teacher for training in trainings if training.teacher is not None}
    if not isinstance(batch, Batch):
        return {}
    with machine.autocast():
        return {key: teacher.observe(batch) for key, teacher in teachers.items()}


def batch_name(tokens: Sequence[str]) -> int:
    """A number by which a log names the samples of a batch, in their order."""
    return zlib.crc32("\n".join(tokens).encode())


def _ramp(step: int, schedule: ScheduleSpec) -> float:
    """Return the factor of the weights of the distillation losses at a step."""
    growing, falling = (
        share * schedule.length for share in (schedule.distillation_warmup, schedule.distillation_cooldown)
    )
    grown = (step + 1) / growing if growing else 1.0
    left = (schedule.length - step) / falling if falling else 1.0
    return min(1.0, grown, left)
