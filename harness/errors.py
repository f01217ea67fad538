"""InputError: the user's input is wrong. Programs print its message and exit with status 2."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from detectors.names import unknown as unknown  # the words of most messages of an InputError

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Wrong input. The message names the file, key or value and what is allowed."""


def without_password(url: str) -> str:
    """A URL, or a text with one in it, as it may be shown."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]+@", r"\1:***@", url)


def first_mistake(error: "ValidationError") -> str:
    """The first of pydantic's mistakes: where it is, and what is wrong."""
    first = error.errors()[0]
    at, text = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    return f"{at}: {text}" if at else text


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
