"""Gives rows of nuScenes' tables by token, as the devkit does, from columns that all processes share.

The columns are a file in the cache folder, `crossbev/index`. It is written when a root is first read or its tables have
changed, and may be deleted at any time.
"""

import gc
import hashlib
import json
import logging
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from harness.data.index.array_file import map_arrays, new_arrays
from harness.data.index.build import build, token_hash
from harness.data.tables import COLUMNS, OPTIONAL, TEXT, Reference, Rule
from harness.errors import input_error_on_os_error
from harness.runs.locks import FileLock

FORMAT = 1
"""Of the file: a file of another one is made anew."""

_LOG = logging.getLogger(__name__)
Read = Callable[[int], Any]
"""The value of a column in the row of a number."""


class Index:
    """Rows by token, with the keys of `COLUMNS` and those that the devkit adds to each row.

    It answers what the devkit's own functions ask of a `NuScenes` object, too.
    """

    def __init__(self, root: Path, arrays: dict[str, memoryview]) -> None:
        self.dataroot = str(root)
        self._arrays = arrays
        self._columns: dict[str, dict[str, Read]] = {table: {} for table in COLUMNS}
        for table, read in self._columns.items():
            rules = {"token": TEXT, **COLUMNS[table], **OPTIONAL.get(table, {})}
            read |= {key: self._column(table, key, rule) for key, rule in rules.items()}
        category = self._through("instance.category_token", "category", "name")
        self._columns["sample_annotation"]["category_name"] = _chain(
            self._arrays["sample_annotation.instance_token"], category
        )
        sensor = self._arrays["sample_data.calibrated_sensor_token"]
        for key, of in (("sensor_modality", "modality"), ("channel", "channel")):
            self._columns["sample_data"][key] = _chain(
                sensor, self._through("calibrated_sensor.sensor_token", "sensor", of)
            )
        token_of = {table: read["token"] for table, read in self._columns.items()}
        channel = self._columns["sample_data"]["channel"]
        keyframes, annotations = self._lists("sample.data"), self._lists("sample.anns")
        self._columns["sample"]["data"] = lambda row: {channel(n): token_of["sample_data"](n) for n in keyframes(row)}
        self._columns["sample"]["anns"] = lambda row: list(map(token_of["sample_annotation"], annotations(row)))

    def get(self, table: str, token: str) -> dict[str, Any]:
        """A row; KeyError where there is none."""
        return self._row(table, self._number(table, token))

    def value(self, table: str, token: str, key: str) -> Any:
        """One value of a row."""
        return self._columns[table][key](self._number(table, token))

    def count(self, table: str) -> int:
        """Number of rows."""
        return len(self._arrays[f"{table} rows"])

    def column(self, table: str, key: str) -> list[Any]:
        """A value of every row."""
        return list(map(self._columns[table][key], range(self.count(table))))

    def numbers(self, table: str, key: str) -> np.ndarray:
        """A column of numbers, or of the row numbers that its tokens lead to (-1: to none), of every row at once."""
        rule = COLUMNS[table][key]
        assert not rule.many if isinstance(rule, Reference) else rule.stored == "q", f"{table}.{key} has no numbers"
        return np.asarray(self._arrays[f"{table}.{key}"])

    def rows_of(self, table: str, key: str, tokens: Collection[str]) -> list[dict[str, Any]]:
        """The rows that refer to one of these tokens, in the order of their table."""
        rule = COLUMNS[table][key]
        assert isinstance(rule, Reference)
        wanted = [self._number(rule.table, token) for token in tokens]
        numbers = np.flatnonzero(np.isin(np.asarray(self._arrays[f"{table}.{key}"]), wanted))
        return [self._row(table, number) for number in numbers.tolist()]

    def _row(self, table: str, number: int) -> dict[str, Any]:
        return {key: read(number) for key, read in self._columns[table].items()}

    def _number(self, table: str, token: str) -> int:
        """The number of the row with a token."""
        hashes, rows = self._arrays[f"{table} hashes"], self._arrays[f"{table} rows"]
        wanted, token_of = token_hash(token), self._columns[table]["token"]
        place = bisect_left(hashes, wanted)
        while place < len(hashes) and hashes[place] == wanted:
            if token_of(rows[place]) == token:
                return rows[place]
            place += 1
        raise KeyError(f"{table} has no row {token!r}")

    def _column(self, table: str, key: str, rule: Rule | Reference) -> Read:
        values = self._arrays[f"{table}.{key}"]
        if isinstance(rule, Reference):
            token_of = self._text(rule.table, "token")
            if rule.many:
                lists = self._lists(f"{table}.{key}")
                return lambda row: list(map(token_of, lists(row)))
            return lambda row: token_of(values[row]) if values[row] >= 0 else ""
        match rule.stored:
            case "text":
                return self._text(table, key)
            case "json":
                text = self._text(table, key)
                return lambda row: json.loads(text(row))
            case "d":
                width = len(values) // max(1, self.count(table))
                return lambda row: values[width * row : width * (row + 1)].tolist()
            case _:
                return values.__getitem__

    def _lists(self, name: str) -> Callable[[int], list[int]]:
        values, starts = self._arrays[name], self._arrays[f"{name} starts"]
        return lambda row: values[starts[row] : starts[row + 1]].tolist()

    def _text(self, table: str, key: str) -> Callable[[int], str]:
        letters, starts = self._arrays[f"{table}.{key}"], self._arrays[f"{table}.{key} starts"]
        return lambda row: str(letters[starts[row] : starts[row + 1]], "utf-8", "surrogatepass")

    def _through(self, name: str, table: str, key: str) -> Read:
        """The value of another table's column in the row that a column refers to."""
        return _chain(self._arrays[name], self._columns[table][key])


def _chain(numbers: memoryview, read: Read) -> Read:
    return lambda row: read(numbers[row])


def open_index(root: Path, version: str, state: str) -> Index:
    """The index of a root, built where there is none of this state of its tables.

    Args:
        root: The dataset's folder.
        version: The folder in it with the tables.
        state: Differs where a table was written since.

    Raises:
        InputError: A table has a row that cannot be read; or there is no room for the index.
    """
    place = hashlib.sha256(f"{root.resolve()}\n{version}".encode()).hexdigest()[:24]
    path = platformdirs.user_cache_path("crossbev") / "index" / f"{place}.columns"
    header = {"format": FORMAT, "state": state}
    arrays = map_arrays(path, header)
    if arrays is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                # Another process may have built it while this one waited.
                arrays = map_arrays(path, header) or _built(root, version, path, header)
        except OSError as error:
            _LOG.warning("the index of %s cannot be stored in %s: %s", root, path.parent, error.strerror)
            with tempfile.TemporaryDirectory() as folder, input_error_on_os_error(f"{folder} has no room for an index"):
                arrays = _built(root, version, Path(folder) / path.name, header)
    return Index(root, arrays)


def _built(root: Path, version: str, path: Path, header: Mapping[str, Any]) -> dict[str, memoryview]:
    # Rows refer to nothing that refers to them; to look for such circles would take a third of the time.
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        with new_arrays(path, header) as writer:
            build(root, version, writer)
    finally:
        if is_enabled:
            gc.enable()
    arrays = map_arrays(path, header)
    assert arrays is not None, f"{path} was just written and cannot be read"
    return arrays
