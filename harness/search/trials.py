"""TrialBook: Optuna's study in its storage, the owners of trials, and interrupted trials."""

import hashlib
import json
import math
import socket
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import BaseImportanceEvaluator
from optuna.storages import BaseStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from harness.errors import InputError, without_password
from harness.runs.folder import make_folder
from harness.runs.locks import FileLock, is_held
from harness.study.search_spec import Choices, Range, SearchSpec, Value

OWNER, REASON, NAME, AGAIN = "owner", "reason", "name", "again"
IDENTITY, BEATS = "crossbev.identity", "crossbev.beat "
INTERRUPTED, DIED = "interrupted", "its process died"
"""Reasons of failures that are no fault of the values, which are tried again."""
BEAT_SECONDS, DEAD_SECONDS = 30.0, 300.0
"""How often an owner says that it lives, and after what silence it is dead; on one machine that is known at once."""
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
"""Trials that count towards what was asked for."""


class TrialBook:
    """One search in one storage, which several processes may have open at the same time."""

    def __init__(self, folder: Path, storage: str | None, search: SearchSpec, identity: Mapping[str, Any]) -> None:
        """Open the search, or begin it.

        Args:
            folder: Where Optuna's journal is, unless a storage is given, and its owners' locks.
            storage: A database URL as SQLAlchemy writes them; None for a journal file in the folder.
            search: What is searched.
            identity: Everything about the search and its study that makes trials comparable.

        Raises:
            InputError: The storage cannot be opened, or holds a search of something else.
        """
        self._search = search
        self._folder = folder
        self._owner = uuid.uuid4().hex[:12]
        self._shares_folder = storage is None
        make_folder(folder / "owners")
        self._lock = FileLock(folder / "ask.lock")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study, self._storage = self._open(storage, identity)
        self._alive = FileLock(self._lock_of(self._owner))
        self._alive.acquire()
        self._beat_at = -math.inf
        self.beat()

    def close(self) -> None:
        """Give up ownership; a process that ends without does so, too."""
        self._alive.release()
        self._lock_of(self._owner).unlink(missing_ok=True)

    def enqueue(self, values: Mapping[str, Value], name: str) -> None:
        """Have these values tried first, unless they were or will be."""
        with self._lock:
            self.study.enqueue_trial(dict(values), user_attrs={NAME: name}, skip_if_exists=True)

    def ask(self, wanted: int, most: int = 1, workers: int = 1) -> list[Trial]:
        """Start the next trials; none if enough are finished or in progress, or a grid is exhausted.

        Args:
            wanted: Trials of the whole search.
            most: Trials to start.
            workers: Those who ask. What is left is divided among them.
        """
        started: list[Trial] = []
        with self._lock:
            self.reap()
            busy = self.study.get_trials(deepcopy=False, states=(*COUNTED, TrialState.RUNNING))
            for _ in range(min(most, math.ceil((wanted - len(busy)) / workers))):
                trial = self._ask()
                if trial is None:
                    break
                started.append(trial)
        return started

    def _ask(self) -> Trial | None:
        """Start the next trial; None if a grid is exhausted."""
        trials = self.study.get_trials(deepcopy=False)
        # A seed for each trial: a search that goes on would else propose what it began with.
        self.study.sampler = sampler = self._sampler(len(trials))
        queued = any(trial.state == TrialState.WAITING for trial in trials)
        if isinstance(sampler, _Grid) and sampler.is_exhausted(self.study) and not queued:
            return None
        trial = self.study.ask(self.distributions)
        trial.set_user_attr(OWNER, f"{self._owner}@{socket.gethostname()}")
        return trial

    def end(
        self, trial: Trial, state: TrialState, values: Sequence[float] | None = None, reason: str = ""
    ) -> FrozenTrial:
        """How a trial has ended, and why if it failed; of one that was INTERRUPTED the same values are tried again."""
        if reason:
            trial.set_user_attr(REASON, reason)
        return self.study.tell(trial, values, state)

    def beat(self) -> None:
        """Say that this owner lives; to be called now and then."""
        if time.monotonic() - self._beat_at > BEAT_SECONDS:
            self._beat_at = time.monotonic()
            self.study.set_user_attr(BEATS + self._owner, time.time())

    def reap(self) -> None:
        """Tell FAIL of the trials whose owner is dead, and enqueue again the values of all that were cut short."""
        beats = self.study.user_attrs
        dead = [trial for trial in self.running() if self._is_dead(trial, beats)]
        study_id = self._storage.get_study_id_from_name(self._folder.name)
        for trial in dead:
            # Through the storage, as a study writes attributes only of trials that it asked for itself.
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            self._storage.set_trial_user_attr(trial_id, REASON, DIED)
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        for owner in {trial.user_attrs.get(OWNER, "").partition("@")[0] for trial in dead}:
            self._lock_of(owner).unlink(missing_ok=True)
        trials = self.study.get_trials(deepcopy=False)
        # Apart from the above: whoever is killed in between leaves it to the next.
        seen_to = {trial.user_attrs.get(AGAIN) for trial in trials}
        for trial in trials:
            cut_short = trial.state == TrialState.FAIL and trial.user_attrs.get(REASON) in (INTERRUPTED, DIED)
            # A trial may have been killed before it took on the values that it was given.
            values = trial.system_attrs.get("fixed_params", {}) | trial.params
            if cut_short and values and trial.number not in seen_to:
                name = trial.user_attrs.get(NAME, f"again {trial.number}")
                self.study.enqueue_trial(values, user_attrs={NAME: name, AGAIN: trial.number})

    def running(self) -> list[FrozenTrial]:
        """Trials in progress, as far as is known."""
        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def turn(self) -> FileLock:
        """A lock that one thread of one process holds at a time."""
        return FileLock(self._folder / "turn.lock")

    def counted(self) -> list[FrozenTrial]:
        """Trials that were completed or pruned."""
        return self.study.get_trials(deepcopy=False, states=COUNTED)

    def best(self) -> list[FrozenTrial]:
        """The best completed trial; of two objectives, those that none beats in both. Empty before the first."""
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return list(self.study.best_trials) if complete else []

    def importances(self) -> dict[str, float]:
        """Importance of each field for the first objective; empty if too few trials differ."""
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
        # A target is taken for something to make small, of which Optuna warns.
        first = None if len(self._search.objective) == 1 else (lambda trial: -trial.values[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return optuna.importance.get_param_importances(self.study, evaluator=evaluator, target=first)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The space as Optuna has it."""
        return {key: _distribution(kind) for key, kind in self._search.space.items()}

    def _is_dead(self, trial: FrozenTrial, beats: Mapping[str, Any]) -> bool:
        name, _, host = trial.user_attrs.get(OWNER, "").partition("@")
        if name == self._owner:
            return False
        if not name:
            # Who asks for a trial signs it before the lock is free; that lock is ours now, if all share the folder.
            assert trial.datetime_start is not None
            return self._shares_folder or time.time() - trial.datetime_start.timestamp() > DEAD_SECONDS
        # Of a machine that is called the same but has a folder of its own there is no lock here.
        if host == socket.gethostname() and (self._shares_folder or self._lock_of(name).exists()):
            return not is_held(self._lock_of(name))
        return time.time() - float(beats.get(BEATS + name, 0.0)) > DEAD_SECONDS

    def _lock_of(self, owner: str) -> Path:
        return self._folder / "owners" / f"{owner}.lock"

    def _open(self, storage: str | None, identity: Mapping[str, Any]) -> tuple[optuna.Study, BaseStorage]:
        where = without_password(storage or str(self._folder / "journal.log"))
        pruner = _pruner(self._search)
        try:
            backend = (
                _journal(self._folder / "journal.log") if storage is None else optuna.storages.get_storage(storage)
            )
            try:
                # Not by creating it if need be: that alone writes to a journal, which may be one of another search.
                study = optuna.load_study(study_name=self._folder.name, storage=backend, pruner=pruner)
            except KeyError:
                study = optuna.create_study(
                    storage=backend,
                    study_name=self._folder.name,
                    directions=["maximize"] * len(self._search.objective),
                    pruner=pruner,
                    load_if_exists=True,
                )
        except InputError:
            raise
        except Exception as error:
            # SQLAlchemy's, a driver's, or Optuna's own: all of them mean that this storage is of no use here.
            raise InputError(
                f"storage {where} cannot be used: {without_password(' '.join(str(error).split()))}"
            ) from error
        written = json.dumps(identity, sort_keys=True)
        stored = study.user_attrs.get(IDENTITY)
        if stored is None:
            study.set_user_attr(IDENTITY, written)
        elif stored != written:
            raise InputError(
                f"storage {where} contains a different search named {self._folder.name!r}: "
                f"{_first_difference(json.loads(stored), json.loads(written))}; choose another --searches-dir or "
                "--storage"
            )
        return study, backend

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
                return _Grid(grid(self._search), seed=self._search.sampler_seed)


class _Grid(optuna.samplers.GridSampler):
    """Optuna's grid wants to end Optuna's own loop after its last trial; ours looks itself whether there is more."""

    def after_trial(self, *_: Any) -> None:
        """Nothing."""


def grid(search: SearchSpec) -> dict[str, list[Value]]:
    """Every value of each field of a grid."""
    return {key: list(kind.choices if isinstance(kind, Choices) else kind.all) for key, kind in search.space.items()}


def _distribution(kind: Range | Choices) -> BaseDistribution:
    if isinstance(kind, Choices):
        return CategoricalDistribution(kind.choices)
    if kind.whole:
        return IntDistribution(int(kind.low), int(kind.highest), log=kind.log, step=int(kind.step or 1))
    return FloatDistribution(kind.low, kind.highest, log=kind.log, step=kind.step)


def _pruner(search: SearchSpec) -> optuna.pruners.BasePruner:
    match search.pruner:
        case "none":
            return optuna.pruners.NopPruner()
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
        case "hyperband":
            return optuna.pruners.HyperbandPruner()


def _journal(path: Path) -> optuna.storages.JournalStorage:
    with FileLock(path.with_suffix(".lock")):
        _mend(path)
    # Any lock will do; Optuna's base class of them is private.
    lock = cast(Any, _KernelLock(path.with_suffix(".lock")))
    return optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _mend(path: Path) -> None:
    """Cut off the line that a killed process left unfinished; nobody has read it.

    Raises:
        InputError: Something else is wrong with a line; that is left as it is.
    """
    content = path.read_bytes() if path.exists() else b""
    *lines, unfinished = content.split(b"\n")
    for number, line in enumerate([*lines, unfinished], 1):
        if not (line.startswith(_LINE[: len(line)]) and (number > len(lines) or _is_json(line))):
            raise InputError(
                f"{path}:{number} is not a line of a search journal: {line[:40]!r}; put a copy of the journal in its "
                "place, or choose another --searches-dir"
            )
    if unfinished:
        with path.open("r+b") as file:
            file.truncate(len(content) - len(unfinished))


_LINE = b'{"op_code":'
"""How Optuna begins every line of a journal."""


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


class _KernelLock:
    """Optuna's own locks are files, which a killed process leaves behind; the kernel's die with their owner."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def acquire(self) -> bool:
        """Wait for it."""
        # Another object each time: threads of one process have to wait for one another, too.
        lock = FileLock(self._path)
        lock.acquire()
        self._held = lock
        return True

    def release(self) -> None:
        """Give it up."""
        self._held.release()


def _first_difference(stored: Any, asked: Any, at: str = "") -> str:
    if isinstance(stored, dict) and isinstance(asked, dict):
        key = next(key for key in (*asked, *stored) if stored.get(key, _ABSENT) != asked.get(key, _ABSENT))
        below = f"{at}.{key}" if at else key
        return _first_difference(stored.get(key, _ABSENT), asked.get(key, _ABSENT), below)
    there, here = ("absent" if value is _ABSENT else json.dumps(value)[:120] for value in (stored, asked))
    return f"{at} is {there} there, {here} here"


_ABSENT = object()


def open_book(folder: Path, storage: str | None, search: SearchSpec, identity: Mapping[str, Any]) -> closing[TrialBook]:
    """A `TrialBook` for as long as a with block lasts."""
    return closing(TrialBook(folder, storage, search, identity))
