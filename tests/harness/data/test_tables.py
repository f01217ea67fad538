"""A table that is read a piece at a time is the table, wherever it is cut."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.data import tables
from harness.data.tables import stream
from harness.errors import InputError

# What the search for places to cut might take for the space between rows.
texts = st.lists(st.sampled_from(["}", "{", ",", "]", "[", '"', "\\", " ", "\n", "\u00e4", "}, {"])).map("".join)
values = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(allow_nan=True), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.dictionaries(st.sampled_from("abcd"), values), max_size=8),
    indent=st.sampled_from([None, 0, 2]),
    piece=st.integers(1, 60),
)
def test_pieces_make_up_the_table(tmp_path, rows, indent, piece):
    (tmp_path / "table.json").write_text(json.dumps(rows, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_PIECE", piece)
        read = [row for some in stream(tmp_path, "table", "abcd") for row in some]
    assert repr(read) == repr(json.loads((tmp_path / "table.json").read_text()))


def test_rows_are_read_some_at_a_time(tmp_path, monkeypatch):
    rows = [{"token": f"{number:032x}", "text": "},\\n{"} for number in range(100)]
    (tmp_path / "table.json").write_text(json.dumps(rows))
    monkeypatch.setattr(tables, "_PIECE", 1000)
    monkeypatch.setattr(tables, "read_json", None)
    pieces = list(stream(tmp_path, "table", ["token", "text"]))
    assert [row for some in pieces for row in some] == rows
    assert len(pieces) > 5
    assert max(map(len, pieces)) <= 20


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[{"a": 1}, {"a": 2}, {"a": 3,}, {"a": 4}]', "is not valid JSON: Expecting property name"),
        (b'[{"a": 1}, {"a": 2}, {"a": "\xff"}, {"a": 4}]', "is not UTF-8: byte 28 is 0xff"),
        (b'[{"a": 1}, {"a": 2}, 3, {"a": 4}]', "row 2 must be an object, not 3"),
        (b'[{"a": 1}, {"a": 2}] {"a": 3}]', "is not valid JSON: Extra data"),
        (b"[" * 10**5 + b"]" * 10**5, "is not valid JSON: maximum recursion depth"),
    ],
    ids=["no-json", "no-utf8", "no-object", "two-lists", "deep"],
)
@pytest.mark.parametrize("piece", [12, 2**24])
def test_the_place_of_an_error_is_that_in_the_file(tmp_path, monkeypatch, content, words, piece):
    (tmp_path / "table.json").write_bytes(content)
    monkeypatch.setattr(tables, "_PIECE", piece)
    with pytest.raises(InputError, match=rf"table\.json:? {words}"):
        list(stream(tmp_path, "table", ["a"]))
