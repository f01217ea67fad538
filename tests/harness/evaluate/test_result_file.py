"""A result file decoded a sample at a time says what Python's own JSON says, or is refused with a reason."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError
from harness.evaluate.result_file import read_result

NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=4), st.booleans())
def test_any_content_is_what_json_says(tmp_path_factory, results, indented):
    path = tmp_path_factory.mktemp("result") / "result.json"
    path.write_text(json.dumps({"more": 1, "meta": {"a": 1}, "results": results}, indent=2 if indented else None))
    meta, found = read_result(path)
    assert meta == {"a": 1}
    assert list(found) == list(results)
    assert dict(found) == results


@pytest.mark.parametrize(("number", "value"), [("NaN", math.nan), ("-Infinity", -math.inf), ("1e999", math.inf)])
def test_numbers_that_only_python_reads(tmp_path, number, value):
    path = tmp_path / "result.json"
    path.write_text('{"meta": {}, "results": {"a": [' + number + ", 1.5]}}")
    found = read_result(path)[1]["a"]
    assert str(found[0]) == str(value)
    assert found[1] == 1.5


def test_of_a_key_that_is_there_twice_the_last_counts(tmp_path):
    path = tmp_path / "result.json"
    path.write_text('{"meta": {}, "results": {"a": [1], "b": [], "a": [2]}}')
    assert dict(read_result(path)[1]) == json.loads(path.read_text())["results"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"meta": {}, "results": {"a": [1}}', "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b'{"meta": {}, "results": []}', "no mapping 'results'"),
        (b'{"meta": 3, "results": {}}', "no mapping 'meta'"),
        (b"[]", "no mapping 'meta'"),
    ],
)
def test_what_is_no_result_file_is_refused(tmp_path, text, message):
    path = tmp_path / "result.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=message):
        read_result(path)
