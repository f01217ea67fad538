"""Loops are compiled wherever the code lies, also where what was compiled cannot be kept."""

from detectors.compiled import compiled


def test_a_loop_is_compiled_where_nothing_may_be_written():
    names = {}
    # What has no file has no place beside it, as in a folder that is read-only, without a home folder.
    exec("def twice(x):\n    return 2 * x", names)
    loop = compiled(names["twice"])
    assert loop(4) == 8
    assert loop.signatures
