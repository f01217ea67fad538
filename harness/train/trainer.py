"""fit: the training loop, in full view; one student, or several side by side."""

import io
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from detectors.batch import Batch, ImageBatch
from detectors.detector import Detector
from detectors.outputs import DetectorOutput
from detectors.segmenter import Segmenter
from detectors.shares import Shares, shares_of
from distill.balance import MEASURED_STEPS
from distill.gradients import pulls
from distill.objective import Objective, ObjectiveOutput, Teacher
from harness.data.loader import Parts, SampleSet, training_batches
from harness.data.nuimages import ImageSet
from harness.diagnose.machine import Machine
from harness.errors import InputError
from harness.runs.folder import SKIPPED, RunFolder, atomic_write
from harness.study.schedule import ScheduleSpec
from harness.train.ahead import moved_ahead
from harness.train.micro_batch import choose_micro, given_micro
from harness.train.norms import is_synchronised, kept_buffers, norms_of, synchronised
from harness.train.optim import learning_rate, optimizer_of
from harness.train.segmentation import SegmentationObjective
from harness.train.step_log import FETCH_EVERY, StepLog, not_finite
from harness.train.streams import stream_seed

SAVE_EVERY_SECONDS = 30.0
"""At least so many seconds lie between two saved states."""
SAVING_SHARE = 0.01
"""The share of a training's time that saving may take: on a slow disk there are fewer saved states."""
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
        self.objective, self.run = synchronised(objective.to(machine.device).train(), machine), run
        self._machine, self._schedule, self._seed = machine, schedule, stream_seed(seed, "training")
        trained = [p for p in objective.parameters() if p.requires_grad]
        self._optimizer = optimizer_of(trained, schedule)
        self._course = learning_rate(self._optimizer, schedule)
        self.log = StepLog(run if machine.ranks.is_first else None, FETCH_EVERY if machine.device.type == "cuda" else 1)
        self._average: AveragedModel | None = None
        if schedule.ema is not None:
            model = self.objective.student
            self._average = AveragedModel(model, multi_avg_fn=self._draw_after, use_buffers=True)
        self.skipped = 0
        """Updates that were left out so far."""
        self.micro = given_micro(machine, schedule)
        """Samples that are computed at once; None: yet to be found out, for a GPU may not have room for all."""
        self.next = self._restore()
        """The step that is next."""

    @property
    def teacher(self) -> Teacher | None:
        """The detector, or the maps, that it learns from."""
        return self.objective.teacher if isinstance(self.objective, Objective) else None

    def step(self, parts: Sequence[Batch | ImageBatch], seen: Sequence[DetectorOutput] = ()) -> None:
        """Take the next step; its log waits to hear how long it took.

        Args:
            parts: The step's batch, or this process's parts of it, on the device.
            seen: What the teacher makes of each of the parts, where that is known already.

        Raises:
            FloatingPointError: A term became NaN or infinite, or the gradient did once too often; on a GPU also in one
                of the steps since the last fetch. No weight has moved by such a gradient.
        """
        step, schedule, optimizer, ranks = self.next, self._schedule, self._optimizer, self._machine.ranks
        self._seed_step()
        shares = self._shares(parts)
        self._measure_parts(parts, seen, shares)
        optimizer.zero_grad(set_to_none=True)
        terms: list[Tensor] = []
        names: list[str] = []
        pull: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            output = self._look(part, seen[number] if seen else None, shares[number])
            if not number and isinstance(self.objective, Objective) and len(self.objective.terms):
                pull = pulls(self.objective, output) if step % PULL_EVERY == 0 else {}
            output.total.backward()
            names, values = _terms(output)
            terms.append(values)
        ranks.add_up_gradients([p for group in optimizer.param_groups for p in group["params"]])
        # Of one part, it is what it was.
        total = torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]
        ranks.add_up([total])
        norm = clip_grad_norm_(self.objective.parameters(), schedule.clip_norm)
        tokens = ranks.joined([token for part in parts for token in part.tokens])
        known = {"batch": batch_name(tokens), "lr": float(self._course.get_last_lr()[0])}
        self.log.add(step, known, names, total, pull, norm)
        if self.log.is_full or step + 1 == schedule.length:
            self._fetch(lambda: self._terms_not_finite(parts, seen, shares))
        if not self.log.fetches_each:
            # Nobody has looked at the gradient yet: the device itself leaves the weights as they are.
            optimizer.found_inf = not_finite(norm)  # type: ignore[attr-defined]
        elif not norm.isfinite():
            # Without gradients an update changes nothing.
            optimizer.zero_grad(set_to_none=True)
        optimizer.step()
        if not is_synchronised(self.objective):
            ranks.follow_first([each for each in self.objective.buffers() if each.numel()])
        self._course.step()
        if self._average is not None:
            self._average.update_parameters(self.objective.student)
        self.next += 1
        if self.next == min(MEASURED_STEPS, schedule.length):
            self.set_weights()

    def flush(self) -> None:
        """Write the log so far; raises what `step` raises."""
        self._fetch()
        self.log.write()

    def _fetch(self, guilty: Callable[[], list[str]] = list) -> None:
        """Look at the log of the last steps, and count those whose gradient was not finite.

        Args:
            guilty: The terms to blame for the latest step's.

        Raises:
            FloatingPointError: As for `step`.
        """
        for broken in self.log.fetch():
            self.skipped += 1
            if self.skipped <= self._schedule.skip_non_finite:
                if self._machine.ranks.is_first:
                    print(f"the gradient of step {broken.step} is {broken.norm}; its update is left out")
                continue
            # The terms of a step before the latest could only be asked again with its batch.
            names = guilty() if broken.step == self.next else []
            of = f" of {', '.join(map(repr, names))}" if names else ""
            before = f"; {self.skipped - 1} updates were left out before" if self.skipped > 1 else ""
            raise FloatingPointError(
                f"the gradient{of} in step {broken.step} is {broken.norm}, and all losses are finite{before} "
                f"(schedule.skip_non_finite: {self._schedule.skip_non_finite})"
            )

    def _terms_not_finite(
        self, parts: Sequence[Batch | ImageBatch], seen: Sequence[DetectorOutput], shares: Sequence[Shares | None]
    ) -> list[str]:
        """The terms of this step whose gradient is not finite, each asked once more: the training ends here."""
        trained = [p for p in self.objective.parameters() if p.requires_grad]
        guilty: dict[str, None] = {}
        for number, part in enumerate(parts):
            output = self._look(part, seen[number] if seen else None, shares[number])
            for name, value in output.weighted.items():
                if value.requires_grad:
                    gradients = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
                    if not all(each is None or each.isfinite().all() for each in gradients):
                        guilty[name] = None
        return list(guilty)

    def _seed_step(self) -> None:
        """Seed what is drawn in a step, such as dropped paths.

        It is a function of seed, step and process: neither an interruption nor what trains beside it changes it.
        """
        torch.manual_seed((self._seed + self.next + 0x9E3779B97F4A7C15 * self._machine.ranks.number) % 2**63)

    def _look(self, part: Batch | ImageBatch, seen: DetectorOutput | None, shares: Shares | None) -> ObjectiveOutput:
        """The losses of a batch, or what a part adds to them."""
        given: dict[str, Any] = {} if seen is None else {"seen": seen}
        if isinstance(self.objective, Objective):
            given["measure"] = shares is None and self.next < MEASURED_STEPS
        if shares is not None:
            given["shares"] = shares
        with self._machine.autocast():
            return self.objective(part, _ramp(self.next, self._schedule), **given)

    def _shares(self, parts: Sequence[Batch | ImageBatch]) -> list[Shares | None]:
        """The shares of parts of a batch, on all processes; none of a batch that is whole."""
        ranks = self._machine.ranks
        if len(parts) == 1 and ranks.count == 1:
            return [None]
        with self._machine.autocast(), torch.no_grad():
            counts = [self.objective.counts(part) for part in parts]  # type: ignore[arg-type]
        every = {name: torch.stack([each[name] for each in counts]).sum(0) for name in counts[0]}
        ranks.add_up(list(every.values()))
        return [shares_of(each, every) for each in counts]

    def _measure_parts(
        self, parts: Sequence[Batch | ImageBatch], seen: Sequence[DetectorOutput], shares: Sequence[Shares | None]
    ) -> None:
        """Let weights that set themselves take all parts of a batch into account before any of them is weighed."""
        objective = self.objective
        if not isinstance(objective, Objective) or objective.balance is None or self.next >= MEASURED_STEPS:
            return
        if shares[0] is None:  # then it does so by itself
            return
        squares: list[Tensor] = []
        with kept_buffers(objective), self._machine.autocast():
            for number, (part, share) in enumerate(zip(parts, shares, strict=True)):
                assert isinstance(part, Batch)
                assert share is not None, "a batch in parts has shares"
                observed = seen[number] if seen else None
                squares.append(objective.gradient_norms(part, observed, share).square())
        total = torch.stack(squares).sum(0)
        self._machine.ranks.add_up([total])
        objective.balance.add(total.sqrt())
        self._seed_step()

    @property
    def together(self) -> int:
        """Samples whose statistics batch norms take together."""
        assert self.micro is not None, "found out before the first step"
        return self.micro * (self._machine.ranks.count if is_synchronised(self.objective) else 1)

    @property
    def facts(self) -> dict[str, str]:
        """How it was computed, for `Result.machine`; a batch that one GPU computes as a whole needs no words."""
        ranks, schedule = self._machine.ranks, self._schedule
        facts = {"gpus": str(ranks.count)} if ranks.count > 1 else {}
        if self.micro is not None and self.micro * ranks.count < schedule.global_batch:
            facts["micro_batch"] = str(self.micro)
        if schedule.peak_lr != schedule.lr:
            facts["lr"] = f"{schedule.peak_lr:g}"
        return facts

    @property
    def warnings(self) -> dict[str, str]:
        """What is doubtful of the training itself."""
        if not self.skipped:
            return {}
        return {SKIPPED: f"{self.skipped} of {self.next} updates were left out, for their gradient was not finite"}

    def save(self) -> None:
        """Write the log so far, and the state from which `Training` goes on; the first process does, for all are alike.

        Raises:
            FloatingPointError: As for `step`; the state that was saved before stays.
        """
        self.flush()
        if not self._machine.ranks.is_first:
            return
        state = {
            "objective": self.objective.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "learning_rate": self._course.state_dict(),
            "step": self.next,
            "skipped": self.skipped,
            "micro": self.micro,
            "together": self.together,
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
            # Older states have none of these; their batches were whole.
            self.skipped = state.get("skipped", 0)
            self._go_on_with(state.get("micro", self._schedule.global_batch), state.get("together"))
        if self._machine.ranks.is_first:
            self.run.rewind(step)
        return step

    def _go_on_with(self, micro: int, together: int | None) -> None:
        """Compute as many samples at once as before, for norms take statistics of them; or raise InputError."""
        ranks = self._machine.ranks
        share = self._schedule.global_batch // ranks.count
        if together is None or not norms_of(self.objective):
            self.micro = min(self.micro or micro, share)
            return
        wanted = together // (ranks.count if is_synchronised(self.objective) else 1)
        if not 1 <= wanted <= share or together % max(wanted, 1):
            raise InputError(
                f"{self.run.path} was begun with {together} samples in each batch statistic, which {ranks.count} "
                f"GPUs a job cannot have of a batch of {self._schedule.global_batch}; go on with as many GPUs as "
                "before (--gpus-per-job), or delete the folder to train anew"
            )
        self.micro = wanted


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
    saving = 0.0
    cpu_began = time.process_time()
    ranks = machine.ranks
    steps = range(min(training.next for training in going), schedule.length)
    variants = None if schedule.teacher_cache is None else schedule.teacher_cache.variants
    # Variants that are kept are those of all seeds, or each seed would need a cache of its own.
    order, augmentation = stream_seed(seed, "order"), stream_seed(seed if variants is None else 0, "augmentation")
    if any(training.micro is None for training in going):

        def part(size: int) -> Batch | ImageBatch:
            one = Parts(schedule.global_batch, size, ranks.number, ranks.count)
            first = training_batches(samples, one, steps[:1], order, augmentation, 0, variants)
            return next(first).to(machine.device)

        chosen = choose_micro(machine, [each.objective for each in going], part, schedule.global_batch // ranks.count)
        for training in going:
            training.micro = chosen
    micro = min(training.micro or schedule.global_batch for training in going)
    cut = Parts(schedule.global_batch, micro, ranks.number, ranks.count)
    loaded = training_batches(samples, cut, steps, order, augmentation, loader_workers, variants)
    batches = moved_ahead(loaded, machine.device)
    for step in steps:
        parts = list(islice(batches, cut.each))
        due = [training for training in going if training.next == step]
        seen = _seen(machine, due, parts) if len(due) > 1 else {}
        steps_of = [(each, partial(each.step, parts, seen.get(id(each.teacher), ()))) for each in due]
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
            if goes_on(training, training.flush):
                training.save()
                going.remove(training)
        stopping = ranks.agree(stop()) and step + 1 < schedule.length
        if stopping or time.monotonic() - saved > max(SAVE_EVERY_SECONDS, saving / SAVING_SHARE):
            saving = time.monotonic()
            for training in stepped:
                if goes_on(training, training.flush):
                    training.save()
            saved = time.monotonic()
            saving = saved - saving
        if stopping:
            raise Interrupted(f"stopped after step {step + 1} of {schedule.length}")
        if not going:
            break
    for training in going:
        if training.teacher is not None:
            training.teacher.check_unchanged()
        # Whatever interrupts the scoring does not cost the training.
        training.save()


def _seen(
    machine: Machine, trainings: Sequence[Training], parts: Sequence[Batch | ImageBatch]
) -> dict[int, list[DetectorOutput]]:
    """What the teachers of these trainings make of the parts of a batch, by the id of each."""
    teachers = {id(training.teacher): training.teacher for training in trainings if training.teacher is not None}
    with machine.autocast():
        return {
            key: [teacher.observe(part) for part in parts if isinstance(part, Batch)]
            for key, teacher in teachers.items()
        }


def batch_name(tokens: Sequence[str]) -> int:
    """A number by which a log names the samples of a batch, in their order."""
    return zlib.crc32("\n".join(tokens).encode())


def _terms(output: ObjectiveOutput) -> tuple[list[str], Tensor]:
    """The names of the loss and of each of its terms, raw and weighted; and their values."""
    named = {"loss": output.total}
    named |= {f"raw/{name}": value for name, value in output.raw.items()}
    named |= {f"weighted/{name}": value for name, value in output.weighted.items()}
    return list(named), torch.stack([value.detach() for value in named.values()])


def _ramp(step: int, schedule: ScheduleSpec) -> float:
    """Return the factor of the weights of the distillation losses at a step."""
    growing, falling = (
        share * schedule.length for share in (schedule.distillation_warmup, schedule.distillation_cooldown)
    )
    grown = (step + 1) / growing if growing else 1.0
    left = (schedule.length - step) / falling if falling else 1.0
    return min(1.0, grown, left)
