"""Whatever is wrong with stored runs or a paper's file: one message that names it, and never a wrong number."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.evaluate.intervals import write_draws
from harness.run import app
from tests.cases import mostly_slow

STUDY = Path(__file__).parents[3] / "studies" / "smoke.yaml"
CALL = (STUDY, "--seeds", "0,1")


def _result(**changes):
    """An edit of a result.json."""

    def edit(path):
        content = json.loads(path.read_text())
        content["metrics"] |= changes.pop("metrics", {})
        content |= changes
        path.write_text(json.dumps(content))

    return edit


def _without(key):
    def edit(path):
        content = json.loads(path.read_text())
        (content if key in content else content["metrics"]).pop(key)
        path.write_text(json.dumps(content))

    return edit


def _text(text):
    return lambda path: path.write_bytes(text)


def _torn(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _other_draws(path):
    np.savez(path, scenes=12, mAP=np.zeros(3), NDS=np.zeros(4))


CASES = {
    "torn result": ("result.json", _torn),
    "empty result": ("result.json", _text(b"")),
    "result that is a list": ("result.json", _text(b"[1]")),
    "result in another encoding": ("result.json", _text(b"\xff\xfe\x00")),
    "result without metrics": ("result.json", _without("metrics")),
    "result without mAP": ("result.json", _without("mAP")),
    "result without machine": ("result.json", _without("machine")),
    "mAP is NaN": ("result.json", _result(metrics={"mAP": float("nan")})),
    "NDS is infinite": ("result.json", _result(metrics={"NDS": float("inf")})),
    "mAP in points": ("result.json", _result(metrics={"mAP": 35.2})),
    "mAP as text": ("result.json", _result(metrics={"mAP": "0.352"})),
    "mAP as truth": ("result.json", _result(metrics={"mAP": True})),
    "error is infinite": ("result.json", _result(metrics={"mATE": float("-inf")})),
    "unknown key": ("result.json", _result(colour="red")),
    "parameters as fraction": ("result.json", _result(parameters=0.5)),
    "seconds are NaN": ("result.json", _result(seconds=float("nan"))),
    "memory as a word": ("result.json", _result(machine={"peak_memory_mb": "much"})),
    "began without weights": ("result.json", _result(began={"batches": "aa"})),
    "torn line of metrics": ("metrics.jsonl", _text(b'{"step": 0, "seconds": 1}\n{"step"\n')),
    "metrics that are no mapping": ("metrics.jsonl", _text(b"3\n")),
    "metrics with text": ("metrics.jsonl", _text(b'{"step": 0, "seconds": "long"}\n')),
    "metrics without seconds": ("metrics.jsonl", _text(b'{"step": 0, "loss": 1.0}\n')),
    "metrics without step": ("metrics.jsonl", _text(b'{"seconds": 1.0}\n')),
    "torn draws": ("draws.npz", _torn),
    "empty draws": ("draws.npz", _text(b"")),
    "draws that are text": ("draws.npz", _text(b"draws")),
    "draws of several lengths": ("draws.npz", _other_draws),
    "failure that is none": ("failure.json", _text(b'{"reason": 3}')),
    "torn order": ("job.json", _torn),
}
KEPT = ("torn result", "mAP is NaN", "torn line of metrics", "torn draws", "failure that is none")
"""One of each file and of each kind, for each makes a whole report."""


def _lines(folder):
    """The table's lines by the row's role."""
    with (folder / "reports" / "smoke" / "table.csv").open() as file:
        return {line["role"]: line for line in csv.DictReader(file)}


@pytest.mark.parametrize("case", mostly_slow(CASES, *KEPT))
def test_a_damaged_file_marks_its_row_and_is_named(report, folder, jobs, case):
    name, edit = CASES[case]
    path = folder / "runs" / jobs["student", 1] / name
    edit(path)
    status, said = report(*CALL)
    assert status == 2
    assert f"{path.relative_to(folder)} is damaged (" in said
    assert f"delete its folder {path.parent.relative_to(folder)}, and the next harness.run" in said
    lines = _lines(folder)
    assert lines["student"]["missing"] == f"corrupt: {name}"
    # Neither of it nor of the other seed alone.
    assert lines["student"]["mAP"] == lines["student"]["gain_NDS"] == ""
    assert lines["baseline"]["missing"] == ""
    markdown = (folder / "reports" / "smoke" / "table.md").read_text()
    assert f"| 2 | corrupt: {name} |  |" in markdown
    assert "30.6" in markdown  # the baseline's mean, which stands


@pytest.mark.parametrize(
    "name", mostly_slow(["analysis.npz", "latency.json", f"alignment-{'0' * 16}.json"], "analysis.npz")
)
def test_a_damaged_file_of_the_diagnostics_is_named_and_costs_no_number(report, folder, jobs, name):
    path = folder / "runs" / jobs["student", 1] / name
    path.write_bytes(b"torn")
    status, said = report(*CALL)
    assert status == 0
    told = (
        f"{path.relative_to(folder)} is damaged (it cannot be read, or another version wrote it); harness.report --exam"
    )
    assert told in said
    assert told in (folder / "reports" / "smoke" / "report.html").read_text()
    assert _lines(folder)["student"]["missing"] == ""


def test_a_damaged_baseline_leaves_the_student_its_number_and_takes_its_gain(report, folder, jobs):
    (folder / "runs" / jobs["baseline", 1] / "result.json").write_text("{")
    assert report(*CALL)[0] == 2
    lines = _lines(folder)
    assert lines["baseline"]["missing"] == "corrupt: result.json"
    assert float(lines["student"]["NDS"]) == pytest.approx(35.7)
    assert lines["student"]["gain_NDS"] == ""


def test_a_folder_under_another_jobs_name_is_not_taken_for_it(report, folder, jobs):
    runs = folder / "runs"
    shutil.rmtree(runs / jobs["student", 1])
    shutil.copytree(runs / jobs["teacher", 0], runs / jobs["student", 1])
    status, said = report(*CALL)
    assert status == 2
    assert f"its job.json describes run {jobs['teacher', 0]}" in said
    lines = _lines(folder)
    assert lines["student"]["missing"] == "belongs to another job"
    assert lines["student"]["NDS"] == ""


def test_nothing_is_trained_over_a_damaged_result_or_believed_of_it(folder, jobs, monkeypatch):
    monkeypatch.chdir(folder)
    path = folder / "runs" / jobs["student", 1] / "result.json"
    path.write_text('{"metrics": {"mAP": 0.9')
    for flags in ([], ["--dry-run"]):
        told = CliRunner().invoke(app, [*map(str, CALL), "--workers", "1", *flags])
        assert told.exit_code == 2
        assert f"error: {path.relative_to(folder)} is damaged (Invalid JSON" in told.output
        assert "Traceback" not in told.output
    assert path.read_text() == '{"metrics": {"mAP": 0.9'
    assert not (folder / "mlflow.db").exists()


def test_a_study_that_was_never_run_says_what_trains_it(report, folder):
    shutil.rmtree(folder / "runs")
    status, said = report(*CALL)
    assert status == 0
    assert said.count("not run") >= 3
    assert f"this study has no finished training yet; to train it: python -m harness.run {STUDY} --set" in said
    assert "'seeds=[0,1]'" in said
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_draws_of_other_lengths_than_the_baselines_speak_of_no_scenes(report, folder, jobs):
    path = folder / "runs" / jobs["student", 1] / "draws.npz"
    write_draws(path, {name: np.full(9, 0.352) for name in ("mAP", "NDS")}, 12)
    assert report(*CALL)[0] == 0
    student = _lines(folder)["student"]
    assert (student["missing"], student["scenes"]) == ("", "0.0")
    assert float(student["gain_NDS"]) == pytest.approx(5.1)


@pytest.mark.parametrize(
    ("paper", "said"),
    [
        ("rows: [{label: a row, dataset: x, mark: sure, source: y}]", "rows.0.mark (a row): unknown mark 'sure'"),
        ("gains: [{path: a->b, losses: [feature], NDS: up, mark: read}]", "gains.0.path (a->b ['feature']): 'a->b'"),
        ("rows: 3", "rows: Input should be a valid tuple"),
    ],
)
def test_a_wrong_file_of_a_paper_names_file_and_row(report, folder, paper, said):
    (folder / "paper.yaml").write_text(f"name: A\ntitle: B\nvenue: C\narxiv: D\n{paper}\n")
    (folder / "study.yaml").write_text(STUDY.read_text() + "\nreport: {papers: [paper.yaml]}\n")
    status, told = report("study.yaml")
    assert status == 2
    assert f"error: report.papers: paper.yaml: {said}" in told
    assert "allowed: read, recalled, uncertain" in told or "mark" not in said


def test_brackets_in_names_are_text_and_no_markup(report, folder):
    (folder / "paper.yaml").write_text("{name: 'A [/x]', title: B, venue: '[red]', arxiv: D, rows: []}\n")
    (folder / "study.yaml").write_text(STUDY.read_text() + "\nreport: {papers: [paper.yaml]}\n")
    status, told = report("study.yaml", "--seeds", "0,1", "--out", "[out]", "--columns", "metrics, paper")
    assert status == 0
    assert "Published: A [/x] ([red], arXiv D)" in told
    assert "tables: [out]/study/table.md" in told
    assert "page: [out]/study/report.html" in told
