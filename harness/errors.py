"""InputError: what a user wrote or passed is wrong; programs print its one message and exit with 2."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Names the file, key or value that is wrong and what is allowed. Never a bug of ours."""


@contextmanager
def exit_2_on_input_error() -> Iterator[None]:
    """Around a command's body: an InputError becomes one line on stderr and exit status 2, without a traceback."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
