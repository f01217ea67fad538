"""A search whose whole process tree is killed twice, and which two processes then end together.

One story, for each of its programs takes seconds to start; every test reads something else in what it left.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend, JournalStorage

from harness.study.load import load_study
from tests.processes import kill_tree

ROOT = Path(__file__).parent.parent
STEPS, TRIALS = 12, 3
STUDY = f"""# Which weight, if the power fails every few seconds?
data: {{preset: smoke}}
schedule: {{steps: {STEPS}, batch_size: 2}}
teachers: {{lidar: {{preset: tiny_lidar, seed: 0}}}}
students: {{radar: {{preset: tiny_radar}}}}
paths: [lidar->radar]
losses: {{feature: {{weight: 1.0}}}}
arms: {{only: [feature]}}
search:
  space: {{losses.feature.weight: {{low: 0.1, high: 10.0, log: true}}}}
  trials: {TRIALS}
  confirm: {{seeds: [0]}}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds a process's children in /proc"),
]


@dataclass
class Story:
    """A search in a folder, and what became of its programs."""

    folder: Path
    ends: list[tuple[int, str]] = field(default_factory=list)
    """Exit status and output of the last two."""
    finished: list[dict[str, int]] = field(default_factory=list)
    """After each kill: the jobs that had a result, and when it was written."""

    def start(self, *flags):
        return subprocess.Popen(
            [sys.executable, "-m", "harness.search", "weight.yaml", "--device", "cpu", *flags],
            cwd=self.folder,
            env=os.environ | {"XDG_CACHE_HOME": str(self.folder / "cache"), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def killed(self, moment, *flags):
        process = self.start(*flags)
        while not moment(self):
            assert process.poll() is None, f"it ended before the moment came: {process.communicate()[0]}"
            time.sleep(0.01)
        kill_tree(process)
        assert process.returncode == -signal.SIGKILL
        self.finished.append(self.results())

    def results(self):
        return {path.parent.name: path.stat().st_mtime_ns for path in self.folder.glob("runs/*/result.json")}

    def steps(self):
        """Of every job, the steps in its log."""
        logs = self.folder.glob("runs/*/metrics.jsonl")
        return {log.parent.name: [json.loads(line)["step"] for line in log.read_text().splitlines()] for log in logs}

    def trials(self):
        """All trials, as Optuna reads them."""
        journal = JournalFileBackend(str(self.folder / "searches" / "weight" / "journal.log"))
        return optuna.load_study(study_name="weight", storage=JournalStorage(journal)).trials

    def states(self):
        return [trial.state.name for trial in self.trials()]

    def in_a_trial(self):
        """Whether a distilled student is at its steps."""
        for log in self.folder.glob("runs/*/metrics.jsonl"):
            label = json.loads((log.parent / "job.json").read_text())["label"]
            if "->" in label and 0 < log.read_text().count("\n") < STEPS:
                return True
        return False


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    told = Story(tmp_path_factory.mktemp("search"))
    (told.folder / "weight.yaml").write_text(STUDY)
    told.killed(lambda now: now.in_a_trial() and now.states().count("RUNNING") >= 2, "--workers", "2")
    told.killed(lambda now: "COMPLETE" in now.states(), "--workers", "1")
    both = [told.start("--workers", "1") for _ in range(2)]
    told.ends = [(process.wait(), said) for process in both for said, _ in [process.communicate()]]
    return told


def test_both_that_end_it_end_well(story):
    for status, said in story.ends:
        assert status == 0, said
        assert "Traceback" not in said
        assert "the study with the best values: reports/weight/weight_found.yaml" in said


def test_as_many_trials_as_asked_for_are_complete_and_none_is_left_running(story):
    states = story.states()
    assert states.count("COMPLETE") + states.count("PRUNED") == TRIALS
    assert set(states) <= {"COMPLETE", "PRUNED", "FAIL"}


def test_trials_of_killed_processes_failed_for_that_and_their_values_were_tried_again(story):
    trials = story.trials()
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    assert len(failed) >= 2
    for trial in failed:
        assert trial.user_attrs["reason"] == "its process died"
        again = [other for other in trials if other.user_attrs.get("again") == trial.number]
        assert [_values(other) for other in again] == [_values(trial)]
    complete = [tuple(trial.params.values()) for trial in trials if trial.state.name == "COMPLETE"]
    assert len(set(complete)) == TRIALS


def _values(trial):
    """Those of a trial, also where it was killed before it took on the ones that it was given."""
    return trial.system_attrs.get("fixed_params", {}) | trial.params


def test_no_job_is_trained_twice(story):
    results = story.results()
    for finished in story.finished:
        assert finished.items() <= results.items()
    assert all(steps == list(range(STEPS)) for steps in story.steps().values())
    # Two teachers and two baselines, on either side of the choice, a student a trial and two to confirm at most.
    assert len(results) in (4 + TRIALS + 1, 4 + TRIALS + 2)


def test_the_report_and_the_found_study_are_whole(story):
    reports = story.folder / "reports" / "weight"
    text = (reports / "search.md").read_text()
    assert f"{TRIALS} trials complete, 0 pruned" in text
    for trial in story.trials():
        assert f"\n| {trial.number} |" in text
    assert "| found | 1 |" in text
    assert "not run" not in text
    assert all((reports / name).read_bytes() for name in ("history.png", "slice.svg"))
    assert not list(reports.glob(".*"))
    best = max(story.trials(), key=lambda trial: (trial.values or [-1.0])[0])
    found = load_study(reports / "weight_found.yaml")
    assert {"losses.feature.weight": found.losses["feature"].weight} == best.params
