"""harness.report --ui: links that open the study's arms, and its search's trials, side by side in a browser."""

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from harness.runs.folder import Result, RunFolder
from harness.study.load import load_study
from harness.study.plan import plan_study
from harness.tracking.search import EndedTrial, SearchMirror
from harness.world.roots import open_root

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
STUDY = ROOT / "studies" / "smoke.yaml"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NDS = {"teacher": (0.401, 0.401), "baseline": (0.301, 0.321), "student": (0.352, 0.392)}
"""Of two seeds."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the study has run, by its results, with a search of three trials in its store."""
    folder = tmp_path_factory.mktemp("study")
    study = load_study(STUDY, ["seeds=[0,1]"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        plan = plan_study(study, open_root(study.data, Console(file=io.StringIO())).fingerprint(), int)
    for row in plan.rows:
        run = RunFolder(folder / "runs" / row.job)
        run.write("job.json", {})
        run.complete(Result({"mAP": 0.2, "NDS": NDS[row.role][row.seed]}, 5, 1.0, {}))
    search = SearchMirror(f"sqlite:///{folder}/mlflow.db", "smoke", {"what": "a test"}, Console(file=io.StringIO()))
    search.follow(
        [
            EndedTrial(0, "COMPLETE", "paper", {"losses.feature.weight": 0.117}, {"NDS": 0.211}, {}, "", 1000, 2000),
            EndedTrial(1, "PRUNED", "", {"losses.feature.weight": 0.227}, {}, {0: 3.0}, "", 1000, 2000),
            EndedTrial(2, "COMPLETE", "", {"losses.feature.weight": 0.337}, {"NDS": 0.222}, {}, "", 1000, 2000),
        ]
    )
    (folder / "search").mkdir()
    search.finish(folder / "search", "what the search found")
    return folder


@pytest.fixture(scope="module")
def report(folder):
    """Start `python -m harness.report --ui` there."""

    def start(*flags):
        return subprocess.Popen(
            [sys.executable, "-m", "harness.report", str(STUDY), "--seeds", "0,1", "--ui", *flags],
            cwd=folder,
            env=os.environ
            | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="module")
def links(report):
    """What to the addresses that it prints, while it serves them."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = report("--port", str(port))
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("Ctrl-C"):
            break
    found = dict(re.findall(r"^(\w+): (http\S+)$", "".join(said), re.M))
    assert set(found) == {"MLflow", "arms", "search"}, "".join(said) + process.stderr.read()
    assert all(link.startswith(f"http://127.0.0.1:{port}/#/") for link in found.values())
    yield found
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    with closing(socket.socket()) as gone:
        assert gone.connect_ex(("127.0.0.1", port)) != 0, "its UI outlived it"


@pytest.fixture(scope="module")
def shown(links, tmp_path_factory):
    """The page behind a link, as a browser has it after a minute of its own time."""

    def shown(what):
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path_factory.mktemp('user')}",
        ]
        flags += ["--window-size=1600,900", "--timeout=60000", "--virtual-time-budget=60000", "--dump-dom"]
        return subprocess.run([str(BROWSER), *flags, links[what]], capture_output=True, text=True, timeout=240).stdout

    return shown


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine to open the UI with")
def test_the_arms_are_preselected_with_their_mean_nds_and_gain(shown):
    page = shown("arms")
    for text in ("lidar · teacher · 1 seed", "camera · baseline · 2 seeds", "lidar-&gt;camera · unidistill · 2 seeds"):
        assert text in page, f"{text!r} is not on the page"
    for mean in ("0.311", "0.372", "0.061", "0.401"):
        assert mean in page, f"{mean} is not on the page"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine to open the UI with")
def test_the_searchs_complete_trials_are_preselected_with_their_values(shown):
    page = shown("search")
    for text in ("trial 0 · paper", "trial 2", "0.117", "0.337", "0.211", "0.222"):
        assert text in page, f"{text!r} is not on the page"
    assert "0.227" not in page, "a trial that was pruned has nothing to compare"


def test_a_busy_port_is_an_error_that_names_it(report):
    with closing(socket.socket()) as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        process = report("--port", str(port))
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert f"--port {port} cannot be used on 127.0.0.1: Address already in use" in errors
    assert "Traceback" not in errors
