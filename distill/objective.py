"""Objective: a student's detection loss plus the weighted terms of a frozen teacher; the table of losses."""

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Protocol, Self, runtime_checkable

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from detectors.batch import Batch
from detectors.detector import Detector, DetectorSpec
from detectors.folding import folded
from detectors.names import named
from detectors.outputs import DetectorOutput, HeadOutput
from detectors.shares import SAMPLES, Shares
from distill.activation import ActivationSpec
from distill.adversarial import AdversarialSpec
from distill.balance import Balance
from distill.channelwise import ChannelwiseSpec
from distill.contrastive import ContrastiveSpec
from distill.depth import DepthSpec
from distill.feature import FeatureSpec
from distill.instance import InstanceSpec
from distill.loss import Counted, DetectorLossSpec, ImageLossSpec, LossSpec, PullSpec, build_term
from distill.maps import TeacherMaps
from distill.output import OutputSpec
from distill.relation import RelationSpec
from distill.resample import Resampled, Resampling, batch_in, between
from distill.response import ResponseSpec

LOSSES: dict[str, type[LossSpec]] = {
    "feature": FeatureSpec,
    "relation": RelationSpec,
    "response": ResponseSpec,
    "output": OutputSpec,
    "activation": ActivationSpec,
    "adversarial": AdversarialSpec,
    "instance": InstanceSpec,
    "channelwise": ChannelwiseSpec,
    "contrastive": ContrastiveSpec,
    "depth": DepthSpec,
}
"""Every distillation loss that is shipped."""
ENTRY_POINTS = "crossbev.losses"
"""The group of entry points in which an installed package offers losses by a short name."""


def loss_class(name: str) -> type[LossSpec]:
    """The loss that a study names: a key of LOSSES, an entry point of ENTRY_POINTS, or ``package.module:Class``.

    Raises:
        ValueError: There is no such loss; the message says what is allowed.
    """
    needed = "a subclass of distill.loss.DetectorLossSpec or ImageLossSpec that has its build"
    return named("loss", name, LOSSES, ENTRY_POINTS, _is_loss, needed)


def _is_loss(value: Any) -> bool:
    kinds = DetectorLossSpec, ImageLossSpec
    return isinstance(value, type) and issubclass(value, kinds) and not inspect.isabstract(value)


def loss_spec(name: str, fields: Mapping[str, Any]) -> LossSpec:
    """A loss from its fields; which one it is, the field ``loss`` says, or else its name."""
    given = dict(fields)
    return loss_class(given.pop("loss", name)).model_validate(given)


DETECTION_TERMS = ("heatmap", "boxes", "iou", "overlap", "lidar_depth")
"""The terms that need no teacher; every detector has the first two."""


@dataclass(frozen=True)
class ObjectiveOutput:
    """One step's loss and its parts; the parts are named as in DETECTION_TERMS, and as the losses are."""

    total: Float[Tensor, ""]
    """What to call ``backward`` on: the sum of ``weighted``."""
    raw: dict[str, Float[Tensor, ""]]
    """Each term before its weight, without gradient: what to log."""
    weighted: dict[str, Float[Tensor, ""]]
    """Each term after its weight, with gradient: what to differentiate to compare the terms' pull."""
    bev_low: Float[Tensor, "b c y x"] | None = None
    """The student's low-level map, with gradient; None of what has no BEV map."""

    @classmethod
    def of(
        cls, terms: Mapping[str, Tensor], weights: Mapping[str, float | Tensor], bev_low: Tensor | None = None
    ) -> Self:
        """Of terms with their weights.

        Raises:
            FloatingPointError: A term is NaN or infinite. Of a GPU's terms nobody asks: the host would wait for the
                whole forward pass before it starts the backward one.
        """
        raw = {name: value.detach() for name, value in terms.items()}
        if next(iter(raw.values())).device.type != "cuda":
            _require_finite(raw)
        weighted = {name: weights[name] * value for name, value in terms.items()}
        return cls(torch.stack(list(weighted.values())).sum(), raw, weighted, bev_low)


@runtime_checkable
class Teacher(Protocol):
    """What a student learns from: a detector that looks at the batch, or maps that somebody else's has left."""

    @property
    def spec(self) -> TeacherMaps:
        """What its maps are like."""
        ...

    def observe(self, batch: Batch) -> DetectorOutput:
        """Its maps of a batch, without gradient."""
        ...

    def move(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> None:
        """Do to what it holds what ``nn.Module._apply`` does."""
        ...

    def check_unchanged(self) -> None:
        """Raise if it is no longer what it was at construction."""
        ...


class Objective(nn.Module):
    """A student and, with losses that ask a detector, the teacher it learns from.

    What an image teacher says comes with the batch.

    The teacher is deliberately no submodule. ``parameters``, ``state_dict``, ``train`` and ``requires_grad_`` are
    therefore about the student and the adapters alone, and what they return can be given to an optimiser or saved for
    resuming as it is. Only ``to`` and its kin reach the teacher, through ``_apply``.
    """

    def __init__(self, student: Detector, teacher: Detector | Teacher | None, losses: Mapping[str, LossSpec]):
        super().__init__()
        _require_valid(student, teacher, losses)
        self.teacher: Teacher | None = FrozenTeacher(teacher) if isinstance(teacher, Detector) else teacher
        self.student = student
        self.terms = nn.ModuleDict()
        annotated = all(spec.keeps_annotations for spec in losses.values())
        self.reference = dict(student.spec.loss_weights)
        """Weights of the detection loss, whether or not the student learns from annotations."""
        # Depths are not annotated; their loss stays where a teacher's boxes stand in for annotations.
        self.weights = {name: weight * (annotated or name == "lidar_depth") for name, weight in self.reference.items()}
        pulls: dict[str, float] = {}
        for name, spec in losses.items():
            self.terms[name] = build_term(spec, student.spec, None if self.teacher is None else self.teacher.spec)
            if isinstance(spec.weight, PullSpec):
                pulls[name] = spec.weight.pull
            else:
                self.weights[name] = spec.weight
        # No part of the state of an objective whose weights are all numbers.
        self.balance = Balance(pulls) if pulls else None

    def forward(
        self,
        batch: Batch,
        ramp: float = 1.0,
        seen: DetectorOutput | None = None,
        measure: bool = False,
        shares: Shares | None = None,
    ) -> ObjectiveOutput:
        """The weighted sum of every term on one batch, the distillation terms' weights times ``ramp``.

        Args:
            batch: The batch.
            ramp: Factor of the weights of the distillation terms.
            seen: What the teacher makes of the batch, where somebody has asked it already.
            measure: Whether weights that set themselves take this batch into account.
            shares: Where the batch is a part of another, what it adds to the losses of that one (`detectors.shares`).
        """
        terms, bev_low = self._terms(batch, seen, shares)
        given: dict[str, float | Tensor] = dict(self.weights)
        if self.balance is not None:
            if measure:
                self.balance.add(self._norms(self.balance, terms, bev_low))
            given |= self.balance.weights()
        weights = {name: (ramp if name in self.terms else 1.0) * given[name] for name in terms}
        return ObjectiveOutput.of(terms, weights, bev_low)

    def gradient_norms(self, batch: Batch, seen: DetectorOutput | None, shares: Shares) -> Float[Tensor, " terms"]:
        """What `measure` adds up, of a part of a batch. Squared, those of all parts add up to that of the batch."""
        assert self.balance is not None, "only weights that set themselves measure gradients"
        return self._norms(self.balance, *self._terms(batch, seen, shares))

    def _norms(self, balance: Balance, terms: Mapping[str, Tensor], bev_low: Tensor) -> Float[Tensor, " terms"]:
        weighted = [weight * terms[name] for name, weight in self.reference.items() if name in terms]
        return balance.norms(torch.stack(weighted).sum(), terms, bev_low)

    def _terms(
        self, batch: Batch, seen: DetectorOutput | None, shares: Shares | None
    ) -> tuple[dict[str, Tensor], Float[Tensor, "b c y x"]]:
        """Every term before its weight, and the student's low-level map."""
        student = self.student(batch)
        terms = dict(self.student.loss(student, batch, shares).terms)
        teacher = seen if seen is not None else self.teacher and self.teacher.observe(batch)
        for name, term in self.terms.items():
            terms[name] = _part(term, shares, name, student, teacher, batch)
        return terms, student.bev_low

    @torch.no_grad()
    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """What the terms divide by on a batch, by their names, and the number of samples; the student is not asked."""
        counts = self.student.counts(batch)

        @cache
        def seen() -> DetectorOutput:
            assert self.teacher is not None
            return self.teacher.observe(batch)

        return counts | {
            name: term.counts(seen, batch) for name, term in self.terms.items() if isinstance(term, Counted)
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Objective":
        """Do to the teacher, too, what is done to all tensors.

        All of `to`, `cuda`, `double` and their kin end here, which torch (seen in 2.13) has no public name for.
        """
        if self.teacher is not None:
            self.teacher.move(fn, recurse)
        return super()._apply(fn, recurse)


def _part(term: nn.Module, shares: Shares | None, name: str, *given: Any) -> Tensor:
    """What a term is on a batch, or what a part of a batch adds to it."""
    if shares is None:
        return term(*given)
    share = shares.get(name, shares[SAMPLES])
    return term(*given) * share.squeeze() if len(share) == 1 else term(*given, share)


class FrozenTeacher:
    """A detector that is looked at and never trained. It is no ``nn.Module``, which keeps it out of ``Objective``'s.

    Args:
        detector: The teacher.
        resampled_for: A student on another grid or in another BEV frame, to whose the maps are brought.
    """

    def __init__(self, detector: Detector, resampled_for: DetectorSpec | None = None):
        self.detector = detector.eval().requires_grad_(False)
        self._onto = resampled_for
        self._fingerprint = fingerprint(self.detector)
        self._quick: Detector | None = None

    @property
    def spec(self) -> DetectorSpec:
        """The detector's, with the grid and the frame that its maps are brought to."""
        if self._onto is None:
            return self.detector.spec
        return self.detector.spec.model_copy(update={name: getattr(self._onto, name) for name in GROUND})

    @torch.no_grad()
    def observe(self, batch: Batch) -> DetectorOutput:
        """The teacher's maps, without gradient and with the statistics it was trained to.

        What no loss reads is not computed: the maps after the BEV encoders are made when they are first asked for.
        """
        training = [name or "itself" for name, module in self.detector.named_modules() if module.training]
        if training:
            raise RuntimeError(f"the teacher left eval mode, so its batch norms would drift: {training[:3]}")
        if self._quick is None:
            self._quick = folded(self.detector)
        if self._onto is None:
            return SeenOutput(self._quick, batch)
        ours = self.detector.spec
        seen = SeenOutput(self._quick, batch_in(batch, ours.bev_frame))
        assert batch.frames is not None, "a batch that was read from a root says where its frame lies"
        way = between(batch.frames, ours.bev_frame, undo_augmentation=False)
        return Resampled(seen, Resampling(way, ours.grid, self._onto.grid))

    def move(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> None:
        """Do to the detector what ``nn.Module._apply`` does."""
        self.detector._apply(fn, recurse)
        self._quick = None

    def check_unchanged(self) -> None:
        """Raise if the detector is no longer, bit for bit, what it was at construction."""
        now = fingerprint(self.detector)
        if now != self._fingerprint:
            raise RuntimeError(f"the teacher changed during training: {self._fingerprint[:12]} became {now[:12]}")


class SeenOutput(DetectorOutput):
    """A teacher's maps, of which the high-level one and the predictions are computed when they are first read."""

    _detector: Detector
    _autocast: dict[str, Any]

    def __init__(self, detector: Detector, batch: Batch) -> None:
        encoded = detector.encode(batch)
        kind = encoded.bev_low.device.type
        # Who reads a map may stand outside of the autocast that the teacher is asked in.
        autocast = {"device_type": kind, "dtype": torch.get_autocast_dtype(kind)}
        autocast["enabled"] = torch.is_autocast_enabled(kind)
        # The fields of a frozen dataclass, but for the two below.
        self.__dict__.update(vars(encoded), _detector=detector, _autocast=autocast)

    @cached_property
    @torch.no_grad()
    def bev_high(self) -> Float[Tensor, "b c_high y x"]:
        """As in `DetectorOutput`."""
        with torch.autocast(**self._autocast):
            return self._detector.neck(self.bev_low)

    @cached_property
    @torch.no_grad()
    def head(self) -> HeadOutput:
        """As in `DetectorOutput`."""
        with torch.autocast(**self._autocast):
            return self._detector.head(self.bev_high)


def fingerprint(detector: Detector) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers; the device does not enter."""
    digest = hashlib.sha256()
    for name, tensor in (*detector.named_parameters(), *detector.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


GROUND = {"grid": "grids", "bev_frame": "BEV frames"}
"""The fields of a spec that say where its maps lie, and what several are called."""


def _require_valid(student: Detector, teacher: Detector | Teacher | None, losses: Mapping[str, Any]) -> None:
    for name, spec in losses.items():
        if not _is_loss(type(spec)):
            raise ValueError(f"loss {name!r}: {type(spec).__name__} is neither a DetectorLossSpec nor an ImageLossSpec")
        if name in DETECTION_TERMS:
            raise ValueError(f"a loss cannot be named {name!r}: that is a term of the detection loss")
    asking = [name for name, spec in losses.items() if isinstance(spec, DetectorLossSpec)]
    if teacher is None:
        if asking:
            raise ValueError(f"losses {', '.join(asking)} need a teacher")
        return
    if not asking:
        raise ValueError("a teacher without losses has no effect; add losses or leave it out")
    for name, called in GROUND.items():
        theirs, ours = getattr(teacher.spec, name), getattr(student.spec, name)
        if theirs != ours:
            raise ValueError(f"teacher and student have different {called}: {theirs!r} and {ours!r}")
    detector = teacher.detector if isinstance(teacher, FrozenTeacher) else teacher
    if not isinstance(detector, Detector):
        return
    if {id(p) for p in detector.parameters()} & {id(p) for p in student.parameters()}:
        raise ValueError("teacher and student share parameters: freezing the one would freeze the other")


def _require_finite(raw: Mapping[str, Tensor]) -> None:
    """Raise FloatingPointError naming the terms that are NaN or infinite."""
    values = dict(zip(raw, torch.stack(list(raw.values())).tolist(), strict=True))
    broken = {name: value for name, value in values.items() if not math.isfinite(value)}
    if broken:
        raise FloatingPointError(f"{', '.join(f'loss {name!r} is {value}' for name, value in broken.items())}")
