"""python -m harness.data synthesize OUT | inspect ROOT: write the embedded dataset, or check any dataset."""

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
    """Make or check datasets in nuScenes and nuImages format."""


@app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty folder, or that of an interrupted call.")],
    preset: Annotated[str, typer.Option(help="Size: tiny or small (for studies), or smoke (for tests).")] = "tiny",
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Scenes at once. Default: one per core.")] = None,
    images: Annotated[
        bool, typer.Option("--images", help="Write single images with instance masks instead, in nuImages format.")
    ] = False,
) -> None:
    """Write the embedded dataset of a preset and seed as a nuScenes root, version v1.0-synthetic.

    With --images, write a nuImages root, version v1.0-synthetic-images. Equal presets and seeds give equal bytes. A
    finished dataset is left as it is.
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
    path: Annotated[Path, typer.Argument(metavar="ROOT", help="A nuScenes or nuImages root, real or synthetic.")],
    version: Annotated[str | None, typer.Option(help="Version folder in the root. Default: the only one.")] = None,
    split: Annotated[str | None, typer.Option(help="Check this split only.")] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Check only the sizes of sensor files, without decoding.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw a sample into this file: png, jpg or pdf.")] = None,
    sample: Annotated[str | None, typer.Option(help="Token of the sample to draw. Default: the first one.")] = None,
) -> None:
    """Check and count every table and sensor file of a nuScenes or nuImages root.

    The command names missing and damaged files, and the exit status is then 2. It writes nothing except the picture.
    Only synthetic datasets have hashes of their files. Without hashes, two kinds of damage go unnoticed: a LiDAR sweep
    that was cut between two points, and damage in the middle of a JPEG.
    """
    from harness.console import count_progress
    from harness.data.nuimages import NuImagesRoot
    from harness.data.root import NuScenesRoot, versions_in
    from harness.inspect import nuimages, nuscenes

    if sample is not None and picture is None:
        raise InputError("--sample chooses what --picture draws; add --picture FILE")
    if picture is not None:
        from harness.inspect.picture import check_target, draw, save

        check_target(picture)
    versions = versions_in(path)
    if version is None and len(versions) > 1:
        raise InputError(f"{path} has several versions: {', '.join(versions)}; choose one with --version")
    chosen = version if version is not None else versions[0]
    if (path / chosen / "object_ann.json").is_file():
        if sample is not None:
            raise InputError(
                "--sample is for nuScenes roots only; for a nuImages root, --picture draws some images of a split"
            )
        images = NuImagesRoot(path)
        nuimages.inspect_images(images, chosen, split, fast, console)
        if picture is not None:
            nuimages.draw_images(images, split or chosen, picture)
            console.print(f"picture: {picture}", markup=False, highlight=False, soft_wrap=True)
        return
    root = NuScenesRoot(path, chosen)
    every = root.index.column("sample", "token")
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
