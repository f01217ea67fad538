"""crossbev COMMAND, or python -m harness COMMAND: one program with all commands of the project."""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.program import Program

COMMANDS: Mapping[str, Mapping[str, str]] = {
    "Studies": {"run": "harness.run", "report": "harness.report.__main__", "search": "harness.search.__main__"},
    "Data and results": {
        "data": "harness.data.__main__",
        "evaluate": "harness.evaluate.__main__",
        "runs": "harness.runs.__main__",
        "export": "harness.export",
        "import": "harness.import",
    },
    "Available parts": dict.fromkeys(("studies", "paths", "losses", "presets"), "harness.catalogue"),
    "Your machine and editor": {"doctor": "harness.doctor", "schema": "harness.catalogue"},
}
"""Maps the panels of the help to their commands, and each command to its module."""
_MODULES = {name: module for commands in COMMANDS.values() for name, module in commands.items()}
_PANELS = {name: panel for panel, commands in COMMANDS.items() for name in commands}


class Commands(TyperGroup):
    """The commands of COMMANDS. A module is imported when its command is called or listed in the help."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = dict.fromkeys(_MODULES)  # type: ignore[assignment]  # in the order of the help

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of that name, or None."""
        if cmd_name not in _MODULES:
            return None
        command = typer.main.get_command(import_module(_MODULES[cmd_name]).app)
        if _MODULES[cmd_name] == "harness.catalogue":
            command = command.commands[cmd_name]  # type: ignore[attr-defined]
        command.name, command.rich_help_panel = cmd_name, _PANELS[cmd_name]  # type: ignore[attr-defined]
        return command


app = Program(cls=Commands, name="crossbev", no_args_is_help=True, add_completion=True)


def _show_version(wanted: bool) -> bool:
    if wanted:
        print(f"crossbev {version('crossbev')}")
        raise typer.Exit
    return wanted


@app.callback()
def main(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Ablation benchmark for cross-modality distillation of BEV 3D object detectors."""


if __name__ == "__main__":
    app(prog_name="python -m harness")
