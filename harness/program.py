"""Program: a command line that works in the surroundings of other programs, such as notebooks."""

import io
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import typer

from harness.errors import InputError, exit_2_on_input_error
from harness.home import expanded

Main = TypeVar("Main", bound=Callable[..., Any])


class Program(typer.Typer):
    """A Typer application whose paths may begin with ~, and which ends wrong input with its message and status 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"add_completion": False} | options))

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run it on the command line of this process."""
        settle()
        return super().__call__(*arguments, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[Main], Main]:
        """As Typer's."""
        register = super().command(name, **options)

        def decorate(main: Main) -> Main:
            @wraps(main)
            def with_homes(**given: Any) -> Any:
                with exit_2_on_input_error():
                    return main(**{name: _at_home(value) for name, value in given.items()})

            register(with_homes)
            return main

        return decorate


def settle() -> None:
    """Make this process, and those that it starts, independent of how output is encoded and figures are shown."""
    # A character that a terminal, a pipe or a log cannot hold is no reason to end hours of training.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    # A notebook leaves its own there, which may be one of its packages; we draw into files only.
    os.environ["MPLBACKEND"] = "agg"


def _at_home(value: Any) -> Any:
    try:
        return expanded(value) if isinstance(value, Path) else value
    except ValueError as error:
        raise InputError(str(error)) from error
