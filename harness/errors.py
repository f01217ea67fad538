"""InputError: the user's input is wrong. Programs print its message and exit with status 2."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from detectors.names import unknown as unknown  # the words of most messages of an InputError


class InputError(ValueError):
    """Wrong input. The message names the file, key or value and what is allowed."""


def without_password(url: str) -> str:
    """A URL, or a text with one in it, as it may be shown."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]+@", r"\1:***@", url)


@contextmanager
def exit_2_on_input_error() -> Iterator[None]:
    """Turn an InputError in a command into one line on stderr and exit status 2, without a traceback."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
