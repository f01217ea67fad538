"""Builds an index: streams the tables of a root, checks every row, and writes columns instead of rows."""

import json
import zlib
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
    groups: dict[str, list[np.ndarray]] = {}
    for table in COLUMNS:
        related[table], groups[table] = _write_columns(writer, folder, table, numbers)
        hashes = np.array([token_hash(token) for token in numbers[table]], "I")
        order = np.argsort(hashes, kind="stable")
        writer.append(f"{table} hashes", hashes[order])
        writer.append(f"{table} rows", order.astype("i"))
        writer.settle()
    check_related(root, version, related)
    samples = len(numbers["sample"])
    _write_groups(writer, "sample.anns", groups["sample_annotation"], samples)
    _write_groups(writer, "sample.data", groups["sample_data"], samples)


def token_hash(token: str) -> int:
    """A number of 32 bits, by which tokens are looked up; several tokens may share one."""
    return zlib.crc32(encoded(token))


def encoded(text: str) -> bytes:
    """The bytes of a text, which may be any that JSON can hold."""
    return text.encode("utf-8", "surrogatepass")


def _write_columns(writer: ArrayWriter, folder: Path, table: str, numbers: Numbers) -> tuple[Rows, list[np.ndarray]]:
    """Write the columns of a table.

    Returns:
        Its rows where these are `RELATED`; and the sample of each row that a sample leads to, else -1.
    """
    rules = {"token": TEXT, **COLUMNS[table]}
    checks = {key: rule.rule(numbers) if isinstance(rule, Reference) else rule for key, rule in rules.items()}
    optional = OPTIONAL.get(table, {})
    related: Rows = []
    samples = []
    count = 0
    for rows in stream(folder, table, [*rules, *optional]):
        values = {key: checked_column(folder, table, key, rows, check, count) for key, check in checks.items()}
        for key, rule in rules.items():
            _append(writer, f"{table}.{key}", rule, values[key], numbers)
        for key, rule in optional.items():
            filled = [{key: row.get(key) or 0} for row in rows]
            _append(writer, f"{table}.{key}", rule, checked_column(folder, table, key, filled, rule, count), numbers)
        count += len(rows)
        if table in RELATED:
            related += rows
        if "sample_token" in values:
            leads = values.get("is_key_frame", [True] * len(rows))
            of = [numbers["sample"][token] for token in values["sample_token"]]
            samples.append(np.where(np.array(leads, "?"), np.array(of, "i"), -1))
    return related, samples


def _append(writer: ArrayWriter, name: str, rule: Rule | Reference, values: list[Any], numbers: Numbers) -> None:
    """Write more of a column, its values checked."""
    if isinstance(rule, Reference):
        rows = numbers[rule.table]
        if rule.many:
            flat = [rows[token] for tokens in values for token in tokens]
            writer.append_lists(name, np.array(flat, "i"), list(map(len, values)))
        else:
            writer.append(name, np.array([rows.get(token, -1) for token in values], "i"))
    elif rule.stored in ("text", "json"):
        texts = [encoded(value if rule.stored == "text" else json.dumps(value)) for value in values]
        writer.append_lists(name, np.frombuffer(b"".join(texts), "B"), list(map(len, texts)))
    else:
        writer.append(name, np.array(values, rule.stored).ravel())


def _write_groups(writer: ArrayWriter, name: str, group: list[np.ndarray], count: int) -> None:
    """The rows of each of `count` groups, in their order; those of group -1 are of none."""
    of = np.concatenate(group)
    order = np.argsort(of, kind="stable")[np.count_nonzero(of < 0) :]
    writer.append_lists(name, order.astype("i"), np.bincount(of[of >= 0], minlength=count))
