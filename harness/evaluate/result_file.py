"""A nuScenes detection result file as a mapping that decodes a sample's boxes when they are asked for."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import InputError, input_error_on_os_error


class _Content(msgspec.Struct):
    meta: dict[str, Any]
    results: dict[str, msgspec.Raw]


class _Results(Mapping[str, Any]):
    """The boxes of all samples at once, as Python's lists and numbers, are five times the size of the file."""

    def __init__(self, raw: dict[str, msgspec.Raw]) -> None:
        self._raw = raw

    def __getitem__(self, token: str) -> Any:
        raw = self._raw[token]
        try:
            return msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        try:
            return json.loads(bytes(raw))  # a number too large: infinity to Python, which is named as such
        except (ValueError, RecursionError) as error:
            raise InputError(f"sample {token}: its boxes are not valid JSON: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)


def read_result(path: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Meta and results of a result file, or InputError."""
    with input_error_on_os_error(f"result file {path} cannot be read"):
        text = path.read_bytes()
    try:
        fast = msgspec.json.decode(text, type=_Content)
        return fast.meta, _Results(fast.results)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Not what a result file is, or with NaN, which only Python calls JSON: that one says, or reads it, too.
        pass
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"result file {path} is not valid JSON: {error}") from error
    for key in ("meta", "results"):
        if not isinstance(content, dict) or not isinstance(content.get(key), dict):
            raise InputError(f"result file {path} has no mapping {key!r}; expected the mappings meta and results")
    return content["meta"], content["results"]
