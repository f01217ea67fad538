"""python -m harness.data synthesize OUT | inspect ROOT: write the embedded dataset, or look into any one."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.errors import InputError
from harness.program import Program

console = Console()
app = Program(no_args_is_help=True)


@app.callback()
def main() -> None:
    """Datasets in nuScenes and nuImages format."""


@app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty folder, or one of an interrupted call.")],
    preset: Annotated[str, typer.Option(help="tiny or small (for studies), or smoke (for tests).")] = "tiny",
    seed: Annotated[int, typer.Option(help="Another seed is another world.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Scenes rendered at once; all cores if not given.")] = None,
    images: Annotated[
        bool, typer.Option("--images", help="Instead: single images of other scenes with instance masks, as nuImages.")
    ] = False,
) -> None:
    """Write the synthetic world of a seed as a nuScenes root, version v1.0-synthetic.

    With --images as a nuImages root, version v1.0-synthetic-images. The bytes depend on preset and seed alone. A
    dataset that is there already is left as it is.
    """
    # Imported here so that --help is instant, and that worker processes do not load torch.
    from harness.console import count_progress
    from harness.world.nuimages import synthesize_images
    from harness.world.nuscenes import synthesize as synthesize_scenes

    with count_progress(console, "scenes") as show:
        make = synthesize_images if images else synthesize_scenes
        make(out, preset, seed, workers or os.cpu_count() or 1, show)
    console.print(f"{out} holds preset {preset}, seed {seed}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="ROOT", help="A dataset in nuScenes format, real or synthetic.")],
    version: Annotated[str | None, typer.Option(help="Its version folder; the only one if not given.")] = None,
    split: Annotated[str | None, typer.Option(help="Look at this split alone.")] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Look at the sizes of sensor files; do not decode them.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw a sample into this file: png, jpg or pdf.")] = None,
    sample: Annotated[str | None, typer.Option(help="Token of the sample to draw; the first one if not given.")] = None,
) -> None:
    """Check every table and sensor file of a nuScenes or nuImages root, and count what is in it.

    What is missing or damaged is named, and the exit status is 2. Nothing is written but the picture. Without hashes,
    which only synthetic datasets have, a LiDAR sweep that was cut between two points goes unnoticed, and damage in the
    middle of a JPEG, too.
    """
    from harness.console import count_progress
    from harness.data.nuimages import NuImagesRoot
    from harness.data.root import NuScenesRoot, versions_in
    from harness.inspect import nuimages, nuscenes

    if sample is not None and picture is None:
        raise InputError("--sample names what --picture FILE draws; give both")
    if picture is not None:
        from harness.inspect.picture import check_target, draw, save

        check_target(picture)
    versions = versions_in(path)
    if version is None and len(versions) > 1:
        raise InputError(f"{path} has several versions: {', '.join(versions)}; choose one with --version")
    chosen = version if version is not None else versions[0]
    if (path / chosen / "object_ann.json").is_file():
        if sample is not None:
            raise InputError("--sample is for nuScenes roots; of images, --picture draws some of a split")
        images = NuImagesRoot(path)
        nuimages.inspect_images(images, chosen, split, fast, console)
        if picture is not None:
            nuimages.draw_images(images, split or chosen, picture)
            console.print(f"picture: {picture}", markup=False, highlight=False, soft_wrap=True)
        return
    root = NuScenesRoot(path, chosen)
    every = [row["token"] for row in root.devkit.sample]
    splits = nuscenes.samples_by_split(root, split)
    tokens = splits[split] if split is not None else every
    if sample is not None and sample not in every:
        raise InputError(f"sample {sample!r} is none of {root.path / root.version}")

    nuscenes.print_contents(console, root, splits, tokens)
    if picture is not None:
        save(draw(root, sample or tokens[0]), picture)
        console.print(f"picture: {picture}", markup=False, highlight=False, soft_wrap=True)
    rows = nuscenes.sensor_rows(root, tokens)
    with count_progress(console, "sensor files") as show:
        unusable = nuscenes.find_unusable(root, tokens, rows, fast, show)
    nuscenes.print_files(console, rows, unusable)
    nuscenes.raise_if_unusable(unusable)


if __name__ == "__main__":
    app()
