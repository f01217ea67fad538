"""python -m harness.data synthesize OUT: write the embedded synthetic dataset to a folder."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.errors import exit_2_on_input_error

console = Console()
app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def main() -> None:
    """Datasets in nuScenes format."""


@app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty folder, or one of an interrupted call.")],
    preset: Annotated[str, typer.Option(help="tiny (for studies) or smoke (for tests).")] = "tiny",
    seed: Annotated[int, typer.Option(help="Another seed is another world.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Scenes rendered at once; all cores if not given.")] = None,
) -> None:
    """Write the synthetic world of a seed as a nuScenes root, version v1.0-synthetic.

    The bytes depend on preset and seed alone. A dataset that is there already is left as it is.
    """
    # Imported here so that --help is instant, and that worker processes do not load torch.
    from harness.data import synthetic_tables
    from harness.data.embedded import scene_progress

    with exit_2_on_input_error():
        with scene_progress(console) as show:
            synthetic_tables.synthesize(out, preset, seed, workers or os.cpu_count() or 1, show)
        console.print(f"{out} holds preset {preset}, seed {seed}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
