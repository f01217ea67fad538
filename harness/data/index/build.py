"""Builds an index: streams the tables of a root, checks every row, and writes columns instead of rows."""

import json
import zlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.index.array_file import ArrayWriter
from harness.data.tables import (
    COLUMNS,
    OPTIONAL,
    RELATED,
    TEXT,
    Reference,
    Rows,
    Rule,
    check_related,
    check_table_files,
    checked_column,
    number_tokens,
    stream,
)

Parts = Mapping[str, list[np.ndarray]]
Numbers = Mapping[str, Mapping[str, int]]
"""Row numbers of each table by token."""


def build(root: Path, version: str, writer: ArrayWriter) -> None:
    """Write the arrays that `Index` reads.

    A column of numbers is one array, ``TABLE.KEY``. A column of texts or lists is all of them in one array, and
    ``TABLE.KEY starts`` says where each of them starts and the last one ends. A token of another table is the number of
    its row there, or -1. ``TABLE hashes`` are those of the tokens, sorted, and ``TABLE rows`` the rows that have them.

    Raises:
        InputError: The first row without a needed key, with a wrong value, or with a token that leads nowhere.
    """
    folder = root / version
    check_table_files(folder)
    numbers = {table: number_tokens(folder, table, stream(folder, table, ["token"])) for table in COLUMNS}
    related: dict[str, Rows] = {}
    references: dict[str, Parts] = {}
    for table in COLUMNS:
        parts, related[table] = _columns(folder, table, numbers)
        for name, arrays in parts.items():
            writer.add(f"{table}.{name}", arrays)
        hashes = np.array([token_hash(token) for token in numbers[table]], "I")
        order = np.argsort(hashes, kind="stable")
        writer.add(f"{table} hashes", [hashes[order]])
        writer.add(f"{table} rows", [order.astype("i")])
        references[table] = {name: parts[name] for name in ("sample_token", "is_key_frame") if name in parts}
    check_related(root, version, related)
    samples = len(numbers["sample"])
    _write_groups(writer, "sample.anns", _joined(references["sample_annotation"]["sample_token"], "i"), samples)
    of_sample = _joined(references["sample_data"]["sample_token"], "i")
    # Rows of other than keyframes are of a group after the last.
    is_keyframe = _joined(references["sample_data"]["is_key_frame"], "?")
    _write_groups(writer, "sample.data", np.where(is_keyframe, of_sample, samples), samples)


def token_hash(token: str) -> int:
    """A number of 32 bits, by which tokens are looked up; several tokens may share one."""
    return zlib.crc32(encoded(token))


def encoded(text: str) -> bytes:
    """The bytes of a text, which may be any that JSON can hold."""
    return text.encode("utf-8", "surrogatepass")


def _columns(folder: Path, table: str, numbers: Numbers) -> tuple[Parts, Rows]:
    """The columns of a table in parts, by key; and its rows where these are `RELATED`."""
    rules = {"token": TEXT, **COLUMNS[table]}
    checks = {key: rule.rule(numbers) if isinstance(rule, Reference) else rule for key, rule in rules.items()}
    optional = OPTIONAL.get(table, {})
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    related: Rows = []
    count = 0
    for rows in stream(folder, table, [*rules, *optional]):
        for key, rule in rules.items():
            values = checked_column(folder, table, key, rows, checks[key], count)
            for suffix, array in _arrays(rule, values, numbers).items():
                parts[key + suffix].append(array)
        for key, rule in optional.items():
            filled = [{key: row.get(key) or 0} for row in rows]
            values = checked_column(folder, table, key, filled, rule, count)
            parts[key].append(np.array(values, rule.stored))
        count += len(rows)
        if table in RELATED:
            related += rows
    for name in list(parts):
        if name.endswith(" lengths"):
            lengths = np.concatenate([[0], *parts.pop(name)])
            parts[name.replace(" lengths", " starts")] = [np.cumsum(lengths, dtype="q")]
    return parts, related


def _arrays(rule: Rule | Reference, values: list[Any], numbers: Numbers) -> dict[str, np.ndarray]:
    """Checked values of a column as arrays, by what their names end with."""
    if isinstance(rule, Reference):
        rows = numbers[rule.table]
        if rule.many:
            flat = [rows[token] for tokens in values for token in tokens]
            return {"": np.array(flat, "i"), " lengths": np.array(list(map(len, values)), "q")}
        return {"": np.array([rows.get(token, -1) for token in values], "i")}
    match rule.stored:
        case "text":
            texts = list(map(encoded, values))
        case "json":
            texts = [encoded(json.dumps(value)) for value in values]
        case code:
            return {"": np.array(values, code).ravel()}
    return {"": np.frombuffer(b"".join(texts), "B"), " lengths": np.array(list(map(len, texts)), "q")}


def _joined(parts: list[np.ndarray], code: str) -> np.ndarray:
    return np.concatenate([np.empty(0, code), *parts])


def _write_groups(writer: ArrayWriter, name: str, group: np.ndarray, count: int) -> None:
    """The rows of each of `count` groups, in their order; rows of a group after the last are left out."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=count)[:count])]).astype("q")
    writer.add(name, [np.argsort(group, kind="stable")[: starts[-1]].astype("i")])
    writer.add(f"{name} starts", [starts])
