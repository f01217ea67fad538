"""python -m harness.catalogue losses | paths | presets | studies | schema: list what a study can choose from."""

import inspect
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from harness.console import print_table, say
from harness.errors import InputError, input_error_on_os_error
from harness.program import Program

if TYPE_CHECKING:
    from detectors.detector import DetectorSpec
    from detectors.segmenter import SegmenterSpec

console = Console()
_say = partial(say, console)
app = Program(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, a list of objects.")]
StudiesDir = Annotated[Path | None, typer.Option(help="Folder of studies. Default: the included ones, else ./studies.")]


@app.callback()
def main() -> None:
    """List losses, paths, presets and studies, and print the JSON Schema of studies."""


@app.command()
def losses(as_json: Json = False) -> None:
    """List the distillation losses, with what each does and its source."""
    from distill.loss import DetectorLossSpec
    from distill.objective import LOSSES

    rows = [
        {
            "loss": name,
            "asks": "a detector" if issubclass(spec, DetectorLossSpec) else "an image teacher",
            "what": _first_sentence(sys.modules[spec.__module__].__doc__ or "").partition(": ")[2],
            "source": _first_sentence(inspect.getdoc(spec) or ""),
        }
        for name, spec in LOSSES.items()
    ]
    _print(rows, as_json, names=4)
    if not as_json:
        _say("crossbev schema lists the fields. A loss of your own is package.module:Spec; see CONTRIBUTING.md.")


@app.command()
def presets(
    as_json: Json = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Also measure the tiny presets: operations, BEV maps, training steps. Half a minute."
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per training step, for --measure.")] = 8,
    device: Annotated[str, typer.Option(help="Device for --measure: cpu or cuda.")] = "cpu",
) -> None:
    """List the detectors and image teachers, with their sensors and number of parameters."""
    import torch

    from detectors.budget import outline
    from detectors.presets import PRESETS, SEGMENTERS, TINY_PRESETS

    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"--device {device}: allowed: cpu, and cuda on a machine that has it")

    def parameters(spec: Any) -> int:
        return sum(parameter.numel() for parameter in outline(spec).parameters())

    rows: list[dict[str, Any]] = []
    for name, spec in PRESETS.items():
        grid, sensors = spec.grid, []
        if spec.camera is not None:
            sensors.append("images of {} x {} px".format(*spec.camera.image_size))
        if spec.lidar is not None:
            sensors.append(f"{spec.lidar.sweeps} LiDAR sweeps")
        if spec.radar is not None:
            sensors.append(f"{spec.radar.sweeps} RADAR sweeps")
        ground = f"{grid.columns} x {grid.rows} cells of {grid.cell:g} m"
        kind = {"preset": name, "kind": "detector", "sensors": " + ".join(sorted(spec.inputs.sensors))}
        rows.append(kind | {"what": f"{', '.join(sensors)}; {ground}", "parameters": parameters(spec)})
    for name, segmenter in SEGMENTERS.items():
        what = "{} on images of {} x {} px".format(segmenter.image.backbone.kind, *segmenter.image_size)
        kind = {"preset": name, "kind": "image teacher", "sensors": "images"}
        rows.append(kind | {"what": what, "parameters": parameters(segmenter)})
    if measure:
        if not as_json:
            _say(f"timing training steps of {batch_size} samples of each tiny preset ({device}, one thread)")
        # A step of a network at full size takes minutes; python -m detectors.presets counts its operations.
        costs = _costs({**TINY_PRESETS, **SEGMENTERS}, batch_size, device)
        rows = [row | costs.get(row["preset"], dict.fromkeys(_COSTS)) for row in rows]
    _print(rows, as_json, names=4)


_COSTS = ("GFLOPs", "BEV (c y x)", "step (s)")


def _costs(
    specs: "Mapping[str, DetectorSpec | SegmenterSpec]", batch_size: int, device: str
) -> dict[str, dict[str, Any]]:
    """Measure each preset: what only a detector has is None for an image teacher."""
    import torch

    from detectors.cost import measure, segmenter_step_seconds
    from detectors.detector import DetectorSpec

    torch.set_num_threads(1)
    costs: dict[str, dict[str, Any]] = {}
    for name, spec in specs.items():
        if isinstance(spec, DetectorSpec):
            cost = measure(spec, batch_size, device)
            bev = "x".join(map(str, cost.bev_shape))
            costs[name] = dict(zip(_COSTS, (cost.flops / 1e9, bev, cost.step_seconds), strict=True))
        else:
            seconds = segmenter_step_seconds(spec, batch_size, device)
            costs[name] = dict(zip(_COSTS, (None, None, seconds), strict=True))
    return costs


@app.command()
def paths(studies_dir: StudiesDir = None, as_json: Json = False) -> None:
    """List the distillation paths from sensors to sensors, with the studies of each path."""
    from detectors.presets import PRESETS
    from harness.study.load import load_study
    from harness.study.spec import IMAGES

    asking: dict[str, list[str]] = {}
    for file in _files(studies_dir):
        study = load_study(file)
        for path in study.paths:
            ends = {study.sensors(study.teachers_asked(names, path)) for names in study.arms.values()}
            for each in ends:
                asking.setdefault(each, []).append(file.stem)
    sensors = {"+".join(sorted(spec.inputs.sensors)) for spec in PRESETS.values()}
    possible = [f"{teacher}->{student}" for teacher in sorted(sensors) for student in sorted(sensors)]
    possible += [f"{IMAGES}->{student}" for student in sorted(sensors) if "camera" in student]
    rows = [
        {"path": path, "studies": sorted(set(asking.get(path, ())))}
        for path in dict.fromkeys([*sorted(asking, key=lambda path: (-len(set(asking[path])), path)), *possible])
    ]
    _print(rows, as_json, names=2)


@app.command()
def studies(studies_dir: StudiesDir = None, as_json: Json = False) -> None:
    """List the included studies, with question, number of trainings, and whether results are reported."""
    from harness.opened import question
    from harness.study.load import load_study
    from harness.study.plan import plan_study

    rows = []
    for file in _files(studies_dir):
        # The number of jobs does not depend on the dataset.
        study = load_study(file)
        plan = plan_study(study, "", lambda: 1, lambda data: (Path(), ""), lambda: 1)
        rows.append(
            {
                "study": file.stem,
                "jobs": len(plan.jobs),
                "trainings": sum(job.spec.steps > 0 for job in plan.jobs.values()),
                "rows": len(plan.rows),
                "seeds": len(study.seeds),
                "reported": (file.parent / "results" / f"{file.stem}.md").is_file(),
                "question": question(file),
            }
        )
    if as_json:
        _print(rows, as_json)
        return
    shown = [
        {name: row[name] for name in ("study", "question", "trainings", "rows", "seeds")}
        | {"results": "reported" if row["reported"] else "none yet"}
        for row in rows
    ]
    _print(shown, as_json, names=2)


@app.command()
def schema(
    out: Annotated[Path | None, typer.Argument(metavar="FILE", help="File to write. Default: print.")] = None,
) -> None:
    """Print or write the JSON Schema of study files, with which editors complete and check keys."""
    from harness.runs.folder import atomic_write
    from harness.study.schema import study_schema

    text = json.dumps(study_schema(), indent=1, ensure_ascii=False) + "\n"
    if out is None:
        print(text, end="")
        return
    with input_error_on_os_error(f"{out} cannot be written"):
        atomic_write(out, text.encode())
    _say(f"wrote {out}; for editors, start a study in the same folder with # yaml-language-server: $schema={out.name}")


def _files(folder: Path | None) -> list[Path]:
    from harness.study.first_look import STUDIES

    folder = folder or (STUDIES if STUDIES.is_dir() else Path("studies"))
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise InputError(f"--studies-dir {folder}: the folder contains no study, which is a file such as paths.yaml")
    return files


def _first_sentence(text: str) -> str:
    """The beginning of a docstring, up to the first full stop or semicolon."""
    line = " ".join(text.partition("\n\n")[0].split())
    ends = [at for at in (line.find(". "), line.find("; ")) if at > 0]
    return line[: min(ends, default=len(line))].rstrip(".")


def _print(rows: Sequence[Mapping[str, Any]], as_json: bool, names: int = 1) -> None:
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    cells = [[_cell(value) for value in row.values()] for row in rows]
    # Sentences wrap in a terminal; a pipe gets one line a row.
    print_table(console, list(rows[0]), cells, names, wrap=console.is_terminal)


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else ", ".join(value) if isinstance(value, Iterable) else str(value)


if __name__ == "__main__":
    app()
