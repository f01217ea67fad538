"""A file of named arrays that all processes map into memory: written as a whole or not at all."""

import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

_ALIGNED = 8
"""Bytes that the start of every array is a multiple of."""
_LENGTH = 8
"""Bytes at the end of the file that say how long the description before them is."""


class ArrayWriter:
    """Writes arrays that come in parts, several of them in turns, to an open file, none of them in memory.

    Args:
        file: Where they go.
        folder: On the same disk, for what has no place in the file yet.
    """

    def __init__(self, file: IO[bytes], folder: Path) -> None:
        self._file, self._folder = file, folder
        self._open: dict[str, IO[bytes]] = {}
        self._types: dict[str, np.dtype] = {}
        self.places: dict[str, tuple[str, int, int]] = {}
        """By name: type as a letter of the struct module, first byte, and the byte after the last."""

    def append(self, name: str, part: np.ndarray) -> None:
        """Write more of an array."""
        if name not in self._open:
            self._open[name] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by settle
            self._types[name] = part.dtype
        self._open[name].write(np.ascontiguousarray(part).data)

    def append_lists(self, name: str, flat: np.ndarray, lengths: Sequence[int] | np.ndarray) -> None:
        """Write more lists, or texts: all of them in one array, and where each starts and the last ends in another."""
        if name not in self._open:
            self.append(f"{name} starts", np.zeros(1, "q"))
        self.append(name, flat)
        end = self._open[name].tell() // flat.itemsize
        self.append(f"{name} starts", end - len(flat) + np.cumsum(lengths, dtype="q"))

    def settle(self) -> None:
        """Give every array that was begun its place; nothing can be appended to it from now on."""
        for name, parts in self._open.items():
            self._file.write(b"\0" * (-self._file.tell() % _ALIGNED))
            begin = self._file.tell()
            with parts:
                parts.seek(0)
                shutil.copyfileobj(parts, self._file)
            self.places[name] = self._types[name].char, begin, self._file.tell()
        self._open.clear()


@contextmanager
def new_arrays(path: Path, header: Mapping[str, Any]) -> Iterator[ArrayWriter]:
    """Write a file that takes its place when all is well: readers see all of it, or what was there before.

    Only one process may write to a path at a time.

    Args:
        path: Of the file. What an earlier process left unfinished is overwritten.
        header: What `map_arrays` has to be asked for.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            writer = ArrayWriter(file, path.parent)
            yield writer
            writer.settle()
            # At the end, so that a file that was cut off has none.
            description = json.dumps({"header": header, "places": writer.places}).encode()
            file.write(description + len(description).to_bytes(_LENGTH, "little"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def map_arrays(path: Path, header: Mapping[str, Any]) -> dict[str, memoryview] | None:
    """The arrays of a file by name, mapped; None where there is none, or it is torn, or it has another header."""
    try:
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        end = len(content) - _LENGTH
        description = json.loads(bytes(content[end - int.from_bytes(content[end:], "little") : end]))
        if description["header"] != header:
            return None
        return {
            # A slice without bytes cannot be cast.
            name: content[begin:end].cast(code) if end > begin else np.empty(0, code).data
            for name, (code, begin, end) in description["places"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
