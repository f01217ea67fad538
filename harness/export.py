"""python -m harness.export JOB OUT: write a trained detector without the parts that only its training needed."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from harness.errors import InputError
from harness.program import Program
from harness.runs.folder import RunFolder, find_run

app = Program()


@app.command()
def main(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job id or its beginning; `--dry-run` lists the ids.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the files.")],
    runs_dir: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path("runs"),
) -> None:
    """Write model.safetensors, detector.json (its spec) and origin.json (job, losses, metrics) to OUT.

    The exported student has the parameters of its baseline, without teachers, adapters and other training-only parts.
    """
    export(find_finished(runs_dir, job), out)
    typer.echo(f"exported to {out}: {', '.join(sorted(file.name for file in out.iterdir()))}")


def find_finished(runs: Path, start: str) -> RunFolder:
    """Return the finished run whose id begins so, or raise InputError."""
    folder = find_run(runs, start)
    if folder.result() is None:
        raise InputError(f"run {folder.path.name} is not finished; harness.run resumes it")
    return folder


def export(folder: RunFolder, out: Path) -> None:
    """Copy a finished run's detector to a new folder, which appears only when it is complete."""
    from harness.jobs.kind import JobOrder
    from harness.study.jobs import DetectorJobSpec
    from harness.train.checkpoint import open_detector

    if out.exists():
        raise InputError(f"{out} already exists; OUT must be a new folder")
    order = JobOrder.model_validate(folder.job())
    if not isinstance(order.spec, DetectorJobSpec):
        raise InputError(f"run {folder.path.name} ({order.label}) is not a detector; only detectors can be exported")
    detector = open_detector(folder.model)
    if detector.spec != order.spec.detector:
        raise InputError(f"{folder.model} is not the detector of {folder.order}")
    result = folder.result()
    assert result is not None
    origin = {
        "job": order.spec.id,
        "label": order.label,
        "teacher": order.spec.teacher,
        "image_teacher": order.spec.labels,
        "losses": order.spec.losses,
        "trained_on": order.spec.data.train_split,
        "scored_on": order.spec.data.eval_split,
        "metrics": result.metrics,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as unfinished:
        made = Path(unfinished) / "export"
        made.mkdir()
        shutil.copyfile(folder.model, made / "model.safetensors")
        (made / "detector.json").write_text(detector.spec.model_dump_json(indent=1))
        (made / "origin.json").write_text(json.dumps(origin, indent=1))
        made.rename(out)


if __name__ == "__main__":
    app()
