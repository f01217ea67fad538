"""The teacher cache: what losses read of a teacher, kept in its run folder for every student that it teaches."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from detectors.batch import Batch
from detectors.detector import Detector
from detectors.outputs import DetectorOutput
from distill.objective import FrozenTeacher
from distill.reading import Reading, pack, unpack
from harness.errors import InputError
from harness.study.schedule import AugmentSpec

FOLDER = "seen"
"""Of a run folder."""
BUSY_SECONDS = 60.0
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

    def get(self, keys: Sequence[Key]) -> list[bytes | None]:
        """The records of some samples; None where there is none yet."""
        with self._open() as database:
            rows = [
                database.execute("SELECT record FROM seen WHERE token = ? AND draw = ?", key).fetchone() for key in keys
            ]
        return [None if row is None else row[0] for row in rows]

    def put(self, records: Mapping[Key, bytes]) -> None:
        """Keep records; one that another process has kept meanwhile stays."""
        rows = [(*key, record) for key, record in records.items()]
        with self._open() as database:
            database.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as database, database:
                yield database
        except sqlite3.DatabaseError as error:
            raise InputError(f"teacher cache {self.path}: {error}; delete the file, and it is made again") from error


class CachedTeacher(FrozenTeacher):
    """A frozen detector that looks at each variant of a sample once, for all students.

    Args:
        detector: The teacher.
        readings: What the students' losses read of it.
        run: The teacher's run folder.
        augment: How the samples are varied.
        precision: In which it is asked.
    """

    def __init__(
        self, detector: Detector, readings: Sequence[Reading], run: Path, augment: AugmentSpec, precision: str
    ) -> None:
        super().__init__(detector)
        self.readings = tuple(readings)
        made_by = {"augment": augment.model_dump(mode="json"), "precision": precision}
        self._stores = {
            reading: SeenStore(run / FOLDER / f"{_hash({**made_by, **asdict(reading)})}.sqlite")
            for reading in self.readings
        }

    @torch.no_grad()
    def observe(self, batch: Batch) -> DetectorOutput:
        """The cells that the readings name, rounded to float16, as `distill.reading.unpack` describes it."""
        keys = list(zip(batch.tokens, batch.draws, strict=True))
        records = {reading: store.get(keys) for reading, store in self._stores.items()}
        spec = self.detector.spec
        if any(None in each for each in records.values()):
            output = super().observe(batch)
            for reading, store in self._stores.items():
                made = pack(output, reading, batch, spec)
                store.put(dict(zip(keys, made, strict=True)))
                records[reading] = list(made)
        device = batch.boxes.center.device
        return unpack([(reading, _all(each)) for reading, each in records.items()], spec).to(device)


def _all(records: Sequence[bytes | None]) -> list[bytes]:
    return [record for record in records if record is not None]


def _hash(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
