"""A small study that has run, by its results, and the command that reports on it."""

import json
import shutil
from pathlib import Path

import pytest

STUDY = Path(__file__).parents[3] / "studies" / "smoke.yaml"
NDS = {"teacher": 0.401, "baseline": 0.301, "student": 0.352}
"""Of seed 0; of seed 1 it is 0.01 more."""


@pytest.fixture(scope="session")
def planned():
    """The study and its plan."""
    import io

    from rich.console import Console

    from harness.report.source import of_study

    return of_study(STUDY, ["seeds=[0,1]"], Path("none"), Console(file=io.StringIO()))


@pytest.fixture(scope="session")
def stored(planned, tmp_path_factory):
    """A folder with its finished runs; to be copied, not to be written to."""
    import numpy as np

    from harness.evaluate.intervals import write_draws
    from harness.store import Result, RunFolder

    folder = tmp_path_factory.mktemp("stored")
    for row in planned.plan.rows:
        run = RunFolder(folder / "runs" / row.job)
        nds = NDS[row.role] + 0.01 * row.seed
        order = {"spec": planned.plan.jobs[row.job].spec.model_dump(mode="json"), "label": "x", "device": "cpu"}
        run.write("job.json", order | {"root": str(folder), "teacher_weights": str(folder / "weights")})
        for step in range(3):
            run.log_step(step, {"loss": 2.0 - step, "seconds": 0.25})
        write_draws(run.draws, {name: nds + np.linspace(0, 0.01, 5) for name in ("mAP", "NDS")}, 12)
        (run.path / "predictions.json").write_text(json.dumps({"results": {row.job: []}}))
        (run.path / "analysis.npz").write_bytes(b"what a later version keeps")
        (run.path / "log.txt").write_text(f"runs in {folder}")
        run.model.write_bytes(b"weights")
        (run.path / "plots").mkdir()
        (run.path / "plots" / "loss.png").write_bytes(b"a picture")
        machine = {"device": "cpu", "torch": "2", "threads": "1", "peak_memory_mb": "7", "commit": "aaaaaaaaaaaa"}
        began = {"weights": f"{row.seed}", "batches": ""} if row.role != "teacher" else {}
        run.complete(Result({"mAP": nds, "NDS": nds, "mATE": 0.5}, 5, 1.0, machine, 0.5, {}, began))
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    """A copy of that folder."""
    shutil.copytree(stored / "runs", tmp_path / "work" / "runs")
    return tmp_path / "work"


@pytest.fixture
def jobs(planned):
    """Job ids by role and seed."""
    return {(row.role, row.seed): row.job for row in planned.plan.rows}


@pytest.fixture
def report(folder, monkeypatch):
    """``report(STUDY, flags)`` in that folder: exit status and all that was said, as one line."""
    from typer.testing import CliRunner

    from harness.report.__main__ import app

    def report(what=STUDY, *flags):
        monkeypatch.chdir(folder)
        told = CliRunner().invoke(app, [str(what), *map(str, flags)])
        assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
        return told.exit_code, told.output

    return report
