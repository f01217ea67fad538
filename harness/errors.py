"""InputError: the user's input is wrong. Programs print its message and exit with status 2."""

import difflib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from detectors.names import unknown as unknown  # the words of most messages of an InputError

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Wrong input. The message names the file, key or value and what is allowed."""


class MistakeAt(ValueError):
    """For a validator: a mistake at a place inside of the value that it checks, such as the first path of a study."""

    def __init__(self, at: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.at = at


def without_password(url: str) -> str:
    """A URL, or a text with one in it, as it may be shown."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]+@", r"\1:***@", url)


def first_mistake(error: "ValidationError") -> str:
    """The first of pydantic's mistakes: where it is, and what is wrong."""
    first = error.errors()[0]
    at, text = ".".join(map(str, first["loc"])), mistake_text(first)
    return f"{at}: {text}" if at else text


def mistake_text(mistake: Any) -> str:
    """What pydantic says of a mistake, with the value that was given, and of a misspelt choice the nearest one."""
    text, value = str(mistake["msg"]).removeprefix("Value error, "), mistake["input"]
    if " should " not in text or not (value is None or isinstance(value, str | int | float)):
        return text
    # Without how pydantic found out, but with what it took the value for.
    rule, got, kind = text.partition(", unable to ")[0].partition(", got ")
    text = f"{rule}, not {value!r}{f', {kind}' if got else ''}"
    choices = re.findall(r"'([^']*)'", mistake["ctx"]["expected"]) if mistake["type"] == "literal_error" else []
    near = difflib.get_close_matches(str(value), choices, n=1)
    return f"{text}; did you mean {near[0]!r}?" if near else text


@contextmanager
def input_error_on_os_error(what: str, hint: str = "") -> Iterator[None]:
    """Around what reads or writes: an OSError becomes an InputError, ``what`` and the system's reason, then a hint."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{what}: {error.strerror or error}{hint}") from error


@contextmanager
def exit_2_on_input_error() -> Iterator[None]:
    """Turn an InputError in a command into one line on stderr and exit status 2, without a traceback."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
