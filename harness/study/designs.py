"""Designs: make the arms of an ablation from one list of losses."""

import difflib
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

from harness.errors import MistakeAt

Losses = tuple[str, ...]


def all_combinations(losses: Sequence[str]) -> list[Losses]:
    """Return every non-empty set. With the baseline, this is a full factorial."""
    return [chosen for size in range(1, len(losses) + 1) for chosen in combinations(losses, size)]


def leave_one_out(losses: Sequence[str]) -> list[Losses]:
    """Return all losses, and all but each one."""
    return [tuple(losses), *(tuple(loss for loss in losses if loss != dropped) for dropped in losses)]


def add_one(losses: Sequence[str]) -> list[Losses]:
    """Return each loss alone."""
    return [(loss,) for loss in losses]


def cumulative(losses: Sequence[str]) -> list[Losses]:
    """Return the first loss, the first two, and so on."""
    return [tuple(losses[: end + 1]) for end in range(len(losses))]


DESIGNS: dict[str, Callable[[Sequence[str]], list[Losses]]] = {
    "all_combinations": all_combinations,
    "leave_one_out": leave_one_out,
    "add_one": add_one,
    "cumulative": cumulative,
}


def expand(arms: Any) -> Any:
    """Arms as a study writes them to arms by name: a design becomes one arm for each of its sets, named A+B.

    What is not written as a mapping of lists is left to the schema, which says what is wrong with it.
    """
    if not isinstance(arms, dict):
        return arms
    expanded: dict[Any, Any] = {}
    for name, losses in arms.items():
        if name not in DESIGNS and (near := difflib.get_close_matches(str(name), DESIGNS, n=1, cutoff=0.8)):
            raise MistakeAt(
                (name,), f"arm {name!r}: did you mean the design {near[0]!r}? an arm needs a name that is less like it"
            )
        if name not in DESIGNS or not isinstance(losses, list) or not all(isinstance(loss, str) for loss in losses):
            expanded[name] = losses
            continue
        if len(set(losses)) < max(2, len(losses)):
            raise MistakeAt((name,), f"{name} needs two or more different losses, not {losses}")
        for chosen in DESIGNS[name](losses):
            expanded.setdefault("+".join(chosen), list(chosen))
    return expanded
