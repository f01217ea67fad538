"""Of many cases alike, some in every run and the others with what is slow."""

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(cases: Iterable[Any], *kept: Any) -> list[Any]:
    """The cases of a parametrization; all but those kept are slow. A case is kept by its number, or by its name."""
    listed = list(cases)
    assert all(name in listed or name in range(len(listed)) for name in kept), "a case that is kept is none"
    return [
        case
        if number in kept or case in kept
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for number, case in enumerate(listed)
    ]
