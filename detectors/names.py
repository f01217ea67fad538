"""Resolves names in a study, including names in other packages, and reports unknown ones."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Any, TypeVar

T = TypeVar("T")

_refusal: ContextVar[str] = ContextVar("_refusal", default="")


@contextmanager
def no_imports(reason: str) -> Iterator[None]:
    """Inside, ``package.module:Name`` raises ValueError with this reason: to import what a stranger names runs it.

    Entry points are taken all the same: who installed their package trusts it.
    """
    token = _refusal.set(reason)
    try:
        yield
    finally:
        _refusal.reset(token)


def unknown(what: str, word: str, allowed: Iterable[str]) -> str:
    """The message for a name that is none of the allowed ones; says the nearest of them where one is near."""
    names = sorted(allowed)
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {word!r}; {hint}allowed: {', '.join(names) or 'none'}"


def offered(group: str) -> frozenset[str]:
    """The names that installed packages offer in a group of entry points."""
    return frozenset(point.name for point in entry_points(group=group))


def named(what: str, name: str, table: Mapping[str, T], group: str, is_one: Callable[[Any], bool], needed: str) -> T:
    """What a name stands for: a row of a table, an entry point of an installed package, or ``package.module:Name``.

    A table's own names come first, so that no package that is installed changes what a study of the shipped ones means.

    Args:
        what: What is looked for, as a message calls it: ``loss``.
        name: What the user wrote.
        table: The shipped ones.
        group: The group of entry points in which other packages offer theirs.
        is_one: Tells whether an object of another package is what is looked for.
        needed: What `is_one` asks for, in words.

    Raises:
        ValueError: The name stands for nothing of that kind; the message says what is allowed.
    """
    if name in table:
        return table[name]
    places = {point.value for point in entry_points(group=group) if point.name == name}
    if len(places) > 1:
        raise ValueError(f"several packages offer {what} {name!r}: {', '.join(sorted(places))}; use one of these names")
    if not places and ":" not in name:
        raise ValueError(f"{unknown(what, name, {*table, *offered(group)})}, or package.module:Name of your own")
    if not places and (reason := _refusal.get()):
        raise ValueError(f"{what} {name!r} is not imported: {reason}")
    return _imported(what, places.pop() if places else name, is_one, needed)


def _imported(what: str, place: str, is_one: Callable[[Any], bool], needed: str) -> Any:
    """The object at a place such as ``package.module:Name``; raises ValueError where none of the right kind is."""
    module_name, _, attribute = place.partition(":")
    try:
        module = import_module(module_name)
    except Exception as error:  # A module of somebody else may raise anything while it is imported.
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{what} {place!r}: module {module_name!r} cannot be imported ({reason})") from error
    try:
        value = attrgetter(attribute)(module)
    except AttributeError:
        fitting = [key for key, each in vars(module).items() if is_one(each)]
        raise ValueError(f"{what} {place!r}: {unknown('name', attribute, fitting)} (in {module_name})") from None
    if not is_one(value):
        raise ValueError(f"{what} {place!r} is of type {type(value).__name__}; expected {needed}")
    return value
