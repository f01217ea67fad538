"""Reads a study file with the changes of a command line, and records the line of each key."""

import difflib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.errors import InputError, unknown
from harness.study.yaml_text import read_nodes, read_yaml

Location = tuple[str | int, ...]

_FLAGS = {
    "seeds": "--seeds",
    "data.root": "--data-root",
    "data.version": "--version",
    "data.train_split": "--split",
    "data.eval_split": "--split",
}
"""Flags that change a value of a study."""


@dataclass(frozen=True)
class Written:
    """A study as somebody wrote it, before anything of it is checked."""

    file: Path
    content: dict[str, Any]
    places: dict[Location, str]
    """FILE:LINE, or the flag, of every key and item."""

    def place(self, at: Location) -> str:
        """Where a key stands, or else the nearest one around it."""
        return next((self.places[at[:n]] for n in range(len(at), 0, -1) if at[:n] in self.places), str(self.file))

    def message(self, at: Location, text: str, inside: Location = ()) -> str:
        """The message for a mistake at a key: its place, its name and what is wrong.

        Args:
            at: The key.
            text: What is wrong.
            inside: Where that is below the key, if the text names it.
        """
        place, key = self.place((*at, *inside)), ".".join(map(str, at))
        # A flag names its key.
        name = "" if not key or place.rstrip(")").endswith(f"--set {key}") else f"{key}: "
        return f"{place}: {name}{text}"

    def unknown_key(self, at: Location, allowed: Iterable[str]) -> str:
        """The message for a key that there is not, beside those that there are."""
        parent = ".".join(map(str, at[:-1]))
        return f"{self.place(at)}: {unknown('key', str(at[-1]), allowed)}" + (f" (in {parent})" if parent else "")


def read_written(file: Path, overrides: Iterable[str] = ()) -> Written:
    """Read a study file and apply ``KEY=VALUE`` overrides (dotted key, YAML value) in order.

    Raises:
        InputError: It cannot be read, is no YAML mapping, has a key twice, or an override is none.
    """
    try:
        text = file.read_text()
    except (OSError, ValueError) as error:
        hint = f"; did you mean {near}?" if (near := _nearest(file)) else ""
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"study {file} cannot be read: {reason}{hint}") from error
    try:
        content, node = read_nodes(text)
    except ValueError as error:
        raise InputError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} must be a mapping of keys such as schedule, teachers, students, paths, losses, arms")
    places = _places(node, file)
    for override in overrides:
        at = put(content, override)
        # What stood there and below it is no more.
        places = {place: where for place, where in places.items() if place[: len(at)] != at}
        key = override.partition("=")[0]
        places[at] = f"{_FLAGS[key]} (or --set {key})" if key in _FLAGS else f"--set {key}"
    return Written(file, content, places)


def _nearest(file: Path) -> Path | None:
    """The study, in the same folder or in studies, whose name is that of a missing file or much like it."""
    with suppress(OSError):
        for folder in dict.fromkeys((file.parent, Path("studies"))):
            named = {path.stem: path for path in sorted(folder.glob("*.yaml")) if path != file}
            if near := difflib.get_close_matches(file.stem, named, n=1, cutoff=0.75):
                return named[near[0]]
    return None


def put(content: dict[str, Any], override: str) -> Location:
    """Set the value of a ``KEY=VALUE`` in the content of a study file; where that was."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override!r} is not KEY=VALUE, such as schedule.steps=100")
    *parents, last = key.split(".")
    at: Any = content
    for parent in parents:
        at = at.setdefault(parent, {}) if isinstance(at, dict) else at
    if not isinstance(at, dict):
        raise InputError(f"--set {key}: {'.'.join(parents)} is not a mapping in this study")
    try:
        at[last] = read_yaml(value)
    except ValueError as error:
        raise InputError(f"--set {key}: {value!r} is not a YAML value: {error}") from error
    return (*parents, last)


def _places(node: yaml.Node | None, file: Path, at: Location = ()) -> dict[Location, str]:
    """FILE:LINE of every key and item. A key written twice is refused: YAML would drop the first."""
    places: dict[Location, str] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, key.value)
            place = f"{file}:{key.start_mark.line + 1}"
            if here in places:
                raise InputError(f"{place}: key {key.value!r} is already given at {places[here]}")
            places[here] = place
            places |= _places(value, file, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            places[(*at, index)] = f"{file}:{value.start_mark.line + 1}"
            places |= _places(value, file, (*at, index))
    return places
