"""The book of a search: Optuna's study in its storage, who owns which trial, and what became of the others."""

import hashlib
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import BaseImportanceEvaluator
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial, Trial, TrialState

from harness.errors import InputError
from harness.study.space import Choices, Range, SearchSpec, Value

OWNER, REASON, NAME, IDENTITY, BEATS = "owner", "reason", "name", "crossbev.identity", "crossbev.beat "
BEAT_SECONDS, DEAD_SECONDS = 30.0, 300.0
"""How often an owner says that it lives, and after what silence it is dead; on one machine that is known at once."""
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
"""Trials that count towards what was asked for."""


class TrialBook:
    """One search in one storage, which several processes may have open at the same time."""

    def __init__(self, folder: Path, storage: str | None, search: SearchSpec, identity: Mapping[str, Any]) -> None:
        """Open the search, or begin it.

        Args:
            folder: Of the search: Optuna's journal, unless a storage is given, and its owners' locks.
            storage: A database URL as SQLAlchemy writes them; None for a journal file in the folder.
            search: What is searched.
            identity: Everything about the search and its study that makes trials comparable.

        Raises:
            InputError: The storage cannot be opened, or holds a search of something else.
        """
        self._search = search
        self._folder = folder
        self._owner = uuid.uuid4().hex[:12]
        (folder / "owners").mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "ask.lock")
        self._alive = FileLock(self._lock_of(self._owner))
        self._alive.acquire()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = self._open(storage, identity)
        self._beat_at = 0.0
        self.beat()

    def close(self) -> None:
        """Give up ownership; a process that ends without does so, too."""
        self._alive.release()
        self._lock_of(self._owner).unlink(missing_ok=True)

    def enqueue(self, values: Mapping[str, Value], name: str) -> None:
        """Have these values tried first, unless they were or will be."""
        self.study.enqueue_trial(dict(values), user_attrs={NAME: name}, skip_if_exists=True)

    def ask(self, wanted: int) -> Trial | None:
        """The next trial, ours; None where so many are counted or on their way."""
        with self._lock:
            self.reap()
            trials = self.study.get_trials(deepcopy=False)
            busy = [trial for trial in trials if trial.state in (*COUNTED, TrialState.RUNNING)]
            if len(busy) >= wanted:
                return None
            # A seed for each trial: a search that goes on would else propose what it began with.
            self.study.sampler = self._sampler(len(trials))
            trial = self.study.ask(self.distributions)
            trial.set_user_attr(OWNER, f"{self._owner}@{socket.gethostname()}")
            return trial

    def tell(self, trial: Trial, values: tuple[float, ...]) -> None:
        """A trial has come to its end."""
        self.study.tell(trial, list(values))

    def prune(self, trial: Trial) -> None:
        """A trial is not worth its end."""
        self.study.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str) -> None:
        """A trial's training failed."""
        trial.set_user_attr(REASON, reason)
        self.study.tell(trial, state=TrialState.FAIL)

    def give_back(self, trial: Trial) -> None:
        """A trial was interrupted: the same values are tried again, from where the training stands."""
        with self._lock:
            self._again(self.study.trials[trial.number], "interrupted")

    def beat(self) -> None:
        """Say that this owner lives; to be called now and then."""
        if time.monotonic() - self._beat_at > BEAT_SECONDS:
            self._beat_at = time.monotonic()
            self.study.set_user_attr(BEATS + self._owner, time.time())

    def reap(self) -> int:
        """Tell FAIL of the trials whose owner is dead, and enqueue their values again; how many those were."""
        beats = self.study.user_attrs
        dead = [
            trial
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if self._is_dead(trial.user_attrs.get(OWNER, ""), beats)
        ]
        for trial in dead:
            self._again(trial, "its process died")
        return len(dead)

    def turn(self) -> FileLock:
        """A lock for what only one thread of one process may do at a time."""
        return FileLock(self._folder / "turn.lock")

    def counted(self) -> list[FrozenTrial]:
        """Trials that were completed or pruned."""
        return self.study.get_trials(deepcopy=False, states=COUNTED)

    def best(self) -> list[FrozenTrial]:
        """The best completed trial; of two objectives, those that none beats in both. Empty before the first."""
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return list(self.study.best_trials) if complete else []

    def importances(self) -> dict[str, float]:
        """How much each field matters for the first objective; empty where too few trials differ to say so."""
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len({json.dumps(trial.params, sort_keys=True) for trial in complete}) < 4 or len(self._search.space) < 2:
            return {}
        match self._search.importance:
            case "ped_anova":
                evaluator: BaseImportanceEvaluator = optuna.importance.PedAnovaImportanceEvaluator()
            case "fanova":
                evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            case "mean_decrease_impurity":
                evaluator = optuna.importance.MeanDecreaseImpurityImportanceEvaluator(seed=0)
        first = None if len(self._search.objective) == 1 else (lambda trial: trial.values[0])
        return optuna.importance.get_param_importances(self.study, evaluator=evaluator, target=first)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The space as Optuna has it."""
        return {key: _distribution(kind) for key, kind in self._search.space.items()}

    def _again(self, trial: FrozenTrial, reason: str) -> None:
        storage = self.study._storage
        storage.set_trial_user_attr(trial._trial_id, REASON, reason)
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        again = {NAME: trial.user_attrs.get(NAME, f"again {trial.number}")}
        self.study.enqueue_trial(trial.params, user_attrs=again)

    def _is_dead(self, owner: str, beats: Mapping[str, Any]) -> bool:
        name, _, host = owner.partition("@")
        if name == self._owner:
            return False
        if host == socket.gethostname():
            lock = FileLock(self._lock_of(name))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
            lock.release()
            self._lock_of(name).unlink(missing_ok=True)
            return True
        return time.time() - float(beats.get(BEATS + name, 0.0)) > DEAD_SECONDS

    def _lock_of(self, owner: str) -> Path:
        return self._folder / "owners" / f"{owner}.lock"

    def _open(self, storage: str | None, identity: Mapping[str, Any]) -> optuna.Study:
        try:
            study = optuna.create_study(
                storage=storage if storage is not None else _journal(self._folder / "journal.log"),
                study_name=self._folder.name,
                directions=["maximize"] * len(self._search.objective),
                pruner=_pruner(self._search),
                load_if_exists=True,
            )
        except Exception as error:
            # SQLAlchemy's, a driver's, or Optuna's own: all of them mean that this storage is of no use here.
            raise InputError(f"storage {storage or self._folder / 'journal.log'} cannot be used: {error}") from error
        written = json.dumps(identity, sort_keys=True)
        found = study.user_attrs.get(IDENTITY)
        if found is not None and found != written:
            raise InputError(
                f"storage {storage or self._folder / 'journal.log'} holds another search of the name "
                f"{self._folder.name!r}: {_first_difference(json.loads(found), json.loads(written))}; choose another "
                "--searches-dir or --storage"
            )
        study.set_user_attr(IDENTITY, written)
        return study

    def _sampler(self, trials: int) -> optuna.samplers.BaseSampler:
        digest = hashlib.sha256(f"{self._search.sampler_seed} {trials}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big")
        match self._search.sampler:
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed)
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case "grid":
                # One order for the whole search: a grid takes care itself of what was tried.
                return optuna.samplers.GridSampler(grid(self._search), seed=self._search.sampler_seed)


def grid(search: SearchSpec) -> dict[str, list[Value]]:
    """Every value of each field of a grid."""
    return {key: list(_grid_values(kind)) for key, kind in search.space.items()}


def _grid_values(kind: Range | Choices) -> Iterator[Value]:
    if isinstance(kind, Choices):
        yield from kind.choices
        return
    assert kind.step is not None
    # A little more, for sums of steps fall short by rounding.
    for number in np.arange(kind.low, kind.high + kind.step * 1e-9, kind.step):
        yield kind.rounded(float(number))


def _distribution(kind: Range | Choices) -> BaseDistribution:
    if isinstance(kind, Choices):
        return CategoricalDistribution(kind.choices)
    if kind.whole:
        return IntDistribution(int(kind.low), int(kind.high), log=kind.log, step=int(kind.step or 1))
    return FloatDistribution(kind.low, kind.high, log=kind.log, step=kind.step)


def _pruner(search: SearchSpec) -> optuna.pruners.BasePruner:
    match search.pruner:
        case "none":
            return optuna.pruners.NopPruner()
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
        case "hyperband":
            return optuna.pruners.HyperbandPruner()


def _journal(path: Path) -> optuna.storages.JournalStorage:
    lock = _KernelLock(path)
    with lock.held():
        _mend(path)
    return optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _mend(path: Path) -> None:
    """Cut off the line that a killed process left unfinished; nobody has read it."""
    content = path.read_bytes() if path.is_file() else b""
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


class _KernelLock(BaseJournalFileLock):
    """Optuna's own locks are files, which a killed process leaves behind; the kernel's die with their owner."""

    def __init__(self, path: Path) -> None:
        # Threads of one process have to wait for one another, too.
        self._lock = FileLock(path.with_suffix(".lock"), thread_local=False)
        self._threads = threading.Lock()

    def acquire(self) -> bool:
        """Wait for it."""
        self._threads.acquire()
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Give it up."""
        self._lock.release()
        self._threads.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """For as long as the block lasts."""
        self.acquire()
        try:
            yield
        finally:
            self.release()


def _first_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    key = next(key for key in wanted if found.get(key) != wanted[key])
    return f"{key} is {json.dumps(found.get(key))[:120]} there, {json.dumps(wanted[key])[:120]} here"


@contextmanager
def opened(folder: Path, storage: str | None, search: SearchSpec, identity: Mapping[str, Any]) -> Iterator[TrialBook]:
    """A `TrialBook` for as long as the block lasts."""
    book = TrialBook(folder, storage, search, identity)
    try:
        yield book
    finally:
        book.close()
