"""python -m harness.import CHECKPOINT --from PROGRAM --preset PRESET OUT: another program's weights as a teacher."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Console

from harness.console import print_table, say
from harness.errors import InputError, unknown
from harness.program import Program

if TYPE_CHECKING:
    from detectors.detector import Detector, DetectorSpec
    from harness.imports.checkpoint import Checkpoint
    from harness.imports.convert import Misfit

app = Program()
console = Console()
SHOWN = 40
"""Tensors that do not fit; a checkpoint of another network has hundreds."""


@app.command()
def main(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A file of torch.save or of safetensors.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the files.")],
    program: Annotated[
        str,
        typer.Option("--from", help="mmdet3d, det3d, openpcdet, bevdet, bevdepth or unidistill.", metavar="PROGRAM"),
    ],
    preset: Annotated[str, typer.Option(help="The detector that the weights are of; crossbev presets lists them.")],
    ema: Annotated[
        bool | None, typer.Option("--ema/--no-ema", help="Take the moving average, or not. Default: what there is.")
    ] = None,
    boxes: Annotated[
        str, typer.Option(help="Boxes of its head: lwh or wlh, if the file does not tell its version.", metavar="ORDER")
    ] = "",
    intensity: Annotated[
        float, typer.Option(min=1, help="The largest LiDAR intensity that it was trained with.")
    ] = 255,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change a field of the preset: KEY=VALUE.")] = None,
    check: Annotated[Path | None, typer.Option(metavar="ROOT", help="Score the detector on a nuScenes root.")] = None,
    version: Annotated[str, typer.Option(help="Version folder of ROOT.")] = "v1.0-trainval",
    split: Annotated[str, typer.Option(help="Split of ROOT that is scored.")] = "val",
    device: Annotated[str, typer.Option(help="Device for --check: auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Write model.safetensors, detector.json (its spec) and origin.json to OUT, from weights of another program.

    Every tensor of the checkpoint has to be used, and every one of the preset filled. Otherwise a table shows what does
    not fit. A study names the result as a teacher: {preset: PRESET, checkpoint: OUT/model.safetensors}.
    """
    from harness.imports.checkpoint import read_checkpoint
    from harness.imports.convert import Mismatch, convert
    from harness.imports.sources import SOURCES

    if program not in SOURCES:
        raise InputError(f"--from: {unknown('program', program, SOURCES)}")
    if boxes not in ("", "lwh", "wlh"):
        raise InputError(f"--boxes {boxes}: allowed: lwh and wlh")
    if out.exists():
        raise InputError(f"{out} already exists; OUT must be a new folder")
    spec = _spec(preset, set_ or [])
    read = read_checkpoint(checkpoint, ema)
    try:
        detector = convert(read, SOURCES[program], spec, preset, boxes or None, intensity)  # type: ignore[arg-type]
    except Mismatch as mismatch:
        _show(mismatch.misfits)
        raise
    _write(out, detector, read, program, preset)
    what = "moving average of the weights" if read.averaged else "weights"
    say(console, f"imported {len(read.tensors)} tensors ({what}) to {out}; sha256 of the checkpoint {read.sha256}")
    if check is not None:
        _score(detector, check, version, split, device)


def _spec(preset: str, changes: list[str]) -> "DetectorSpec":
    from detectors.presets import preset as named
    from harness.study.changes import changed

    values = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise InputError(f"--set {change!r} is not KEY=VALUE, such as bev_frame=ego")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {key}: {value!r} is not a YAML value") from error
    try:
        return changed(named(preset), values)
    except ValueError as error:
        raise InputError(f"--preset {preset}: {error}") from error


def _show(misfits: "list[Misfit]") -> None:
    rows = [[each.what, each.theirs, each.ours, each.detail] for each in misfits[:SHOWN]]
    print_table(console, ["", "in the checkpoint", "in the preset", "shape"], rows, 3)
    if len(misfits) > SHOWN:
        say(console, f"and {len(misfits) - SHOWN} more")


def _write(out: Path, detector: "Detector", read: "Checkpoint", program: str, preset: str) -> None:
    from harness.train.checkpoint import save_model

    origin = {
        "checkpoint": read.path.name,
        "sha256": read.sha256,
        "from": program,
        "preset": preset,
        "moving_average": read.averaged,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as unfinished:
        made = Path(unfinished) / "import"
        made.mkdir()
        save_model(made / "model.safetensors", detector)
        (made / "detector.json").write_text(detector.spec.model_dump_json(indent=1))
        (made / "origin.json").write_text(json.dumps(origin, indent=1))
        made.rename(out)


def _score(detector: "Detector", root: Path, version: str, split: str, device: str) -> None:
    import torch

    from harness.data.loader import SampleSet
    from harness.data.root import NuScenesRoot
    from harness.diagnose.machine import open_machine
    from harness.evaluate.detection import score
    from harness.evaluate.submission import write_submission
    from harness.execute.device import resolve_device
    from harness.jobs.detector import predict
    from harness.runs.folder import RunFolder

    opened = NuScenesRoot(root, version)
    tokens = opened.tokens(split)
    inputs = detector.spec.inputs
    opened.check_files(tokens, inputs)
    opened.check_annotations(split, tokens)
    reach = int(detector.spec.grid.reach)
    config = "nuscenes" if reach >= 50 else f"within_{reach}m"
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        machine = open_machine(resolve_device(device), "32-true", torch.get_num_threads())
        samples = SampleSet(opened, tokens, inputs.read_for(machine.device))
        predictions = predict(detector, samples, machine, loader_workers=0)
        content = write_submission(run.predictions, opened, predictions, inputs.sensors, inputs.bev_frame)
        metrics = score(opened, split, content, config, run)
    say(console, f"{split} of {root} ({config}): mAP {100 * metrics['mAP']:.2f}, NDS {100 * metrics['NDS']:.2f}")


if __name__ == "__main__":
    app()
