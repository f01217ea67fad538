"""InputError: what a user wrote or passed is wrong; programs print its one message and exit with 2."""

import difflib
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Names the file, key or value that is wrong and what is allowed. Never a bug of ours."""


def unknown(what: str, word: str, allowed: Iterable[str]) -> str:
    """The message for a name that is none of the allowed ones; says the nearest of them where one is near."""
    names = sorted(allowed)
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {word!r}; {hint}allowed: {', '.join(names) or 'none'}"


def without_password(url: str) -> str:
    """A URL, or a text with one in it, as it may be shown."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]+@", r"\1:***@", url)


@contextmanager
def exit_2_on_input_error() -> Iterator[None]:
    """Around a command's body: an InputError becomes one line on stderr and exit status 2, without a traceback."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
