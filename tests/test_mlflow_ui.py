"""The MLflow UI opens on a study's store in a browser and shows the study's runs."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A tracking store with one study's mirror, of runs that never ran."""
    import io

    from rich.console import Console

    from harness.store import Result, RunFolder
    from harness.study.load import load_study
    from harness.study.plan import plan_study
    from harness.tracking import Mirror

    folder = tmp_path_factory.mktemp("store")
    study = load_study(Path(__file__).parent.parent / "studies" / "smoke.yaml")
    plan = plan_study(study, "data", int)
    for number, id_ in enumerate(plan.jobs):
        run = RunFolder(folder / "runs" / id_)
        run.write("job.json", {})
        run.write("metrics_summary.json", {})
        run.log.write_text("a log\n")
        run.complete(Result({"mAP": 0.2 + number / 100, "NDS": 0.4321 + number / 100}, 5, 1.0, {}))
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    mirror = Mirror(uri, "smoke", study, plan, folder / "runs", Console(file=io.StringIO()))
    mirror.follow(plan.jobs.values())
    mirror.finish(folder / "runs", "a table", failed=False)
    return uri


@pytest.fixture(scope="module")
def page(store, tmp_path_factory):
    """The address of the UI on that store, on this machine only."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("ui")
    options = ["--backend-store-uri", store, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "ui", *options]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/health", timeout=1)
            break
        except OSError:
            time.sleep(0.5)
    yield address
    os.killpg(process.pid, 15)
    process.wait()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine to open the UI with")
def test_every_job_of_the_study_is_shown_with_its_numbers(store, page, tmp_path):
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("smoke").experiment_id
    runs = [run.info.run_id for run in client.search_runs([experiment], "metrics.NDS > 0")]
    assert len(runs) == 3
    # The run table folds children under their parent; the page that compares runs shows them side by side.
    query = f"runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([experiment]))}"
    shown = subprocess.run(
        [
            str(BROWSER),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
            "--window-size=1600,900",
            "--timeout=60000",
            "--virtual-time-budget=60000",
            "--dump-dom",
            f"{page}/#/compare-runs?{query}",
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    for text in ("teacher lidar", "camera baseline, seed 0", "lidar-&gt;camera unidistill, seed 0", "0.432", "0.452"):
        assert text in shown.stdout, f"{text!r} is not on the page; {shown.stderr[-2000:]}"
