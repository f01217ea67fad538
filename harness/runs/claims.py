"""Records which study needs which runs: one claim for each call, stored beside the run folders."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from detectors.spec import Spec
from harness.errors import InputError
from harness.runs.folder import JOB_ID, atomic_write, make_folder
from harness.runs.locks import FileLock


class Claim(Spec):
    """The runs that one call of a study needs."""

    name: str
    """The call as text: ``paths --seeds 0,1,2``, ``search loss_weights``."""
    study: Path
    """The study file, because two studies may have the same name."""
    called: datetime
    """Time of the last call."""
    jobs: tuple[Annotated[str, Field(pattern=f"^{JOB_ID}$")], ...]

    @classmethod
    def now(cls, name: str, study: Path, jobs: Iterable[str]) -> Self:
        """The claim of a call that has just been made."""
        return cls(name=name, study=study.resolve(), called=datetime.now(UTC), jobs=tuple(jobs))


class Claims:
    """The claims of a runs folder. Several processes may write them at the same time."""

    def __init__(self, runs: Path) -> None:
        self._folder = runs / "studies"

    def read(self) -> dict[str, Claim]:
        """Return all claims by name, with the study file if several have the same name.

        Raises:
            InputError: A file is not a claim or is incomplete. It might claim any run, so nothing may be deleted.
        """
        paths = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        claims = [self._read(path) for path in paths if not path.name.startswith(".")]
        count = Counter(claim.name for claim in claims)
        return {each.name if count[each.name] == 1 else f"{each.name} ({each.study})": each for each in claims}

    def replace(self, claim: Claim) -> None:
        """Write a claim in place of an earlier one of the same call."""
        with self.locked():
            self._write(claim)

    def extend(self, claim: Claim) -> None:
        """Write a claim that also keeps the runs of an earlier one of the same call."""
        with self.locked():
            path = self._path(claim)
            earlier = self._read(path).jobs if path.exists() else ()
            self._write(claim.model_copy(update={"jobs": tuple(dict.fromkeys(earlier + claim.jobs))}))

    def forget(self, claim: Claim) -> None:
        """Delete a claim. The caller holds the lock."""
        self._path(claim).unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from writing claims as long as the block lasts."""
        make_folder(self._folder)
        with FileLock(self._folder / ".lock"):
            yield

    def _path(self, claim: Claim) -> Path:
        digest = hashlib.sha256(f"{claim.study}\n{claim.name}".encode()).hexdigest()
        return self._folder / f"{claim.study.stem[:80]}-{digest[:8]}.json"

    def _read(self, path: Path) -> Claim:
        try:
            claim = Claim.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a claim of a study, or is damaged{_DELETE}") from error
        if self._path(claim) != path:
            raise InputError(f"{path} contains a claim that belongs into {self._path(claim).name}{_DELETE}")
        return claim

    def _write(self, claim: Claim) -> None:
        atomic_write(self._path(claim), claim.model_dump_json(indent=1).encode())


_DELETE = "; delete it and call harness.run with its study again, which trains no finished job again"
