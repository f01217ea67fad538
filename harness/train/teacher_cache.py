"""The teacher cache: what losses read of a teacher, kept in its run folder for every student that it teaches."""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from detectors.batch import Batch
from detectors.detector import Detector, DetectorSpec
from detectors.outputs import DetectorOutput
from distill.loss import Reading
from distill.objective import GROUND, FrozenTeacher
from distill.reading import pack, unpack
from harness.data.loader import SampleSet, variant
from harness.diagnose.machine import Machine
from harness.errors import InputError
from harness.runs.locks import FileLock
from harness.train.streams import stream_seed
from harness.train.trainer import Interrupted

FOLDER = "seen"
"""Of a run folder."""
BUSY_SECONDS = 60.0
FILLED_TOGETHER = 4
"""Samples; always the same ones, so that their last bits do not depend on what is there already."""
Key = tuple[str, int]
"""Token of a sample, and the seed of its augmentation."""


class SeenStore:
    """Records of one reading by sample and augmentation, which several processes may read and write at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            columns = "token TEXT, draw INTEGER, record BLOB, PRIMARY KEY (token, draw)"
            database.execute(f"CREATE TABLE IF NOT EXISTS seen ({columns})")

    def has(self, keys: Sequence[Key]) -> bool:
        """Whether there is a record of each of these."""
        with self._open() as database:
            query = "SELECT 1 FROM seen WHERE token = ? AND draw = ?"
            return all(database.execute(query, key).fetchone() for key in keys)

    def get(self, keys: Sequence[Key]) -> list[bytes]:
        """The records of some samples; raises KeyError for one without."""
        records = []
        with self._open() as database:
            for key in keys:
                row = database.execute("SELECT record FROM seen WHERE token = ? AND draw = ?", key).fetchone()
                if row is None:
                    raise KeyError(f"{self.path} has no record of sample {key[0]}, augmentation {key[1]}")
                records.append(row[0])
        return records

    def put(self, records: Mapping[Key, bytes]) -> None:
        """Keep records."""
        rows = [(*key, record) for key, record in records.items()]
        with self._open() as database:
            database.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as database, database:
                yield database
        except sqlite3.DatabaseError as error:
            raise InputError(f"teacher cache {self.path}: {error}; delete the file, and it is made again") from error


class CachedTeacher(FrozenTeacher):
    """A frozen detector that looks at each variant of a sample once, for all students and seeds.

    Args:
        detector: The teacher.
        readings: What the students' losses read of it.
        run: The teacher's run folder.
        samples: What students are trained on, with what the teacher itself wants of them.
        variants: Of each sample.
        machine: Where the teacher looks.
        resampled_for: As of `FrozenTeacher`; the records are of maps that were brought there.
    """

    def __init__(
        self,
        detector: Detector,
        readings: Sequence[Reading],
        run: Path,
        samples: SampleSet,
        variants: int,
        machine: Machine,
        resampled_for: DetectorSpec | None = None,
    ) -> None:
        super().__init__(detector, resampled_for)
        assert samples.augmentation is not None
        self._samples, self._variants, self._machine = samples, variants, machine
        # Of a share of the scenes, another sample has a number, and with it a draw, and others are looked at beside it.
        made_by = {
            "augment": samples.augmentation.model_dump(mode="json"),
            "precision": machine.precision,
            "samples": samples.tokens,
        }
        if resampled_for is not None:
            made_by |= {name: resampled_for.model_dump(mode="json", include={name}) for name in GROUND}
        self._folder = run / FOLDER
        self._stores = {
            reading: SeenStore(self._folder / f"{_hash({**made_by, **asdict(reading)})}.sqlite") for reading in readings
        }

    def fill(self, rounds: int, stop: Callable[[], bool]) -> None:
        """Look at what so many rounds over the samples need and is not there yet; one process after the other.

        The detector has to be on the device of the machine.

        Raises:
            Interrupted: `stop` said so; what was looked at is kept.
        """
        seed = stream_seed(0, "augmentation")
        with FileLock(self._folder / "lock").acquire():
            for round_ in range(min(rounds, self._variants)):
                for first in range(0, len(self._samples), FILLED_TOGETHER):
                    indices = list(range(first, min(first + FILLED_TOGETHER, len(self._samples))))
                    draws = [(seed + variant(index, round_, self._variants)) % 2**63 for index in indices]
                    self._look(indices, draws)
                    if stop():
                        raise Interrupted(f"stopped while the teacher looked at round {round_ + 1}")

    def _look(self, indices: list[int], draws: list[int]) -> None:
        keys = [(self._samples.tokens[index], draw) for index, draw in zip(indices, draws, strict=True)]
        missing = {reading: store for reading, store in self._stores.items() if not store.has(keys)}
        if not missing:
            return
        batch = self._samples.drawn_batch(indices, draws).to(self._machine.device)
        with self._machine.autocast():
            output = super().observe(batch)
        for reading, store in missing.items():
            store.put(dict(zip(keys, pack(output, reading, batch, self.spec), strict=True)))

    @torch.no_grad()
    def observe(self, batch: Batch) -> DetectorOutput:
        """The cells that the readings name, rounded to float16, as `distill.reading.unpack` describes it."""
        keys = list(zip(batch.tokens, batch.draws, strict=True))
        records = [(reading, store.get(keys)) for reading, store in self._stores.items()]
        return unpack(records, self.spec).to(batch.boxes.center.device)


def _hash(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
